"""Under DVC, a stage reads only what dvc.lock records, and fails if its inputs change while it runs."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onesentence.core import params, recorded
from onesentence.core.errors import UserError
from onesentence.core.pool import Pool
from onesentence.data.sources import open_source

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from pathlib import Path
from onesentence.core import params, stage
from onesentence.core.files import read_json, read_parquet
def main():
    p = params.load(("train", "evaluate.split"))
    read_json(Path("metrics/data.json"))
    read_parquet(Path("data/prepared/train.parquet"))
    exec(sys.argv[1])
stage.run(main)
"""


@pytest.fixture(scope="module")
def recorded_project(tmp_path_factory):
    """Outputs, and a dvc.lock that DVC itself wrote for them."""
    from conftest import run

    tmp_path = tmp_path_factory.mktemp("recorded")
    run(tmp_path, "git", "init", "--quiet")
    run(tmp_path, "dvc", "init", "--quiet")
    (tmp_path / "make.py").write_text(
        "import pathlib, pyarrow, pyarrow.parquet as pq\n"
        "pathlib.Path('data/prepared').mkdir(parents=True); pathlib.Path('metrics').mkdir()\n"
        "for name in ('train', 'test'):\n"
        "    pq.write_table(pyarrow.table({'a': [name] * 50}), f'data/prepared/{name}.parquet')\n"
        "pathlib.Path('metrics/data.json').write_text('{}')\n"
    )
    outs = ["-o", "data/prepared", "-O", "metrics/data.json"]
    run(tmp_path, "dvc", "stage", "add", "--run", "-q", "-n", "prepare", *outs, f"{sys.executable} make.py")
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


@pytest.fixture
def project(recorded_project, tmp_path):
    return shutil.copytree(recorded_project, tmp_path / "project", symlinks=True)


def done(project: Path, during: str = "", stage: str | None = "train") -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("DVC_STAGE", None)
    return subprocess.run(
        [sys.executable, "program.py", during],
        cwd=project,
        env=environment | ({"DVC_STAGE": stage} if stage else {}),
        capture_output=True,
        text=True,
        check=False,
    )


def test_outputs_as_recorded_are_read(project):
    assert done(project).returncode == 0, done(project).stderr


@pytest.mark.parametrize(
    ("file", "output"),
    [("data/prepared/train.parquet", "data/prepared"), ("metrics/data.json", "metrics/data.json")],
)
def test_a_flipped_bit_is_refused_by_name_and_dvc_restores_the_file(project, file, output):
    from conftest import run

    path = project / file
    content = bytearray(path.read_bytes())
    time = path.stat()
    content[len(content) // 2] ^= 1
    path.unlink()  # DVC may have linked it to its cache
    path.write_bytes(content)
    os.utime(path, ns=(time.st_atime_ns, time.st_mtime_ns))
    failed = done(project)
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1
    assert failed.stderr.startswith(f"error: {output}: differs from what dvc.lock records")
    assert done(project, stage=None).returncode in (0, 1)  # without DVC nothing is recorded
    if output == "data/prepared":
        path.unlink()
        run(project, "dvc", "checkout", "--quiet", "data/prepared")
        assert done(project).returncode == 0


def test_another_file_of_the_folder_counts_too(project):
    (project / "data/prepared/more.parquet").write_bytes(b"")
    assert "error: data/prepared: differs" in done(project).stderr


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("params.yaml:  epochs:", "params.yaml: train.epochs was changed from 3 to 4 while the stage ran"),
        ("params.yaml:  split:", "params.yaml: evaluate.split was changed from 'test' to 'validation' while"),
        ("params.yaml:\t", "params.yaml: was changed while the stage ran"),
    ],
)
def test_an_edit_of_a_parameter_that_the_stage_reads_is_refused(project, edit, words):
    _, _, key = edit.partition(":")
    program = (
        "import re\nfrom pathlib import Path\npath = Path('params.yaml')\ntext = path.read_text()\n"
        + {
            "  epochs:": "text = re.sub(r'(?m)^  epochs: 3', '  epochs: 4', text)",
            "  split:": "text = re.sub(r'(?m)^  split: test', '  split: validation', text)",
            "\t": "text += '\\t: ['",
        }[key]
        + "\npath.write_text(text)"
    )
    failed = done(project, program)
    assert failed.returncode == 1 and failed.stderr.startswith(f"error: {words}"), failed.stderr
    assert failed.stderr.count("\n") == 1


def test_an_edit_of_another_parameter_or_of_a_comment_is_none(project):
    program = (
        "from pathlib import Path\npath = Path('params.yaml')\n"
        "text = path.read_text().replace('\\n  num_beams: 4', '\\n  num_beams: 2')\n"
        "assert text != path.read_text()\n"
        "path.write_text(text + '# a comment\\n')"
    )
    assert done(project, program).returncode == 0, done(project, program).stderr


def test_a_file_that_is_replaced_or_removed_meanwhile_is_refused(project):
    path = "Path('data/prepared/train.parquet')"
    failed = done(
        project, f"import shutil; shutil.copy({path}, 'x'); {path}.unlink(); shutil.move('x', {path})"
    )
    assert failed.stderr.startswith("error: data/prepared/train.parquet: was changed while the stage ran")
    failed = done(project, f"{path}.unlink()")
    assert failed.stderr.startswith("error: data/prepared/train.parquet: was removed while the stage ran")


def test_the_user_s_articles_are_looked_at_again(tmp_path, monkeypatch):
    """DVC would record the new articles as those that the outputs were made from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recorded, "_run", recorded._Run())
    monkeypatch.setenv(recorded.STAGE, "prepare")
    rows = "".join(json.dumps({"document": f"text {i}", "summary": "s"}) + "\n" for i in range(50))
    file = Path("own.jsonl")
    file.write_text(rows)
    whole = {**params.read_yaml(ROOT / params.PARAMS_FILE)["data"], "source": "local", "watch": str(file)}
    for _ in open_source(params.part_of(params.Data, whole)).batches(Pool(1)):
        pass
    recorded.require_unchanged()
    file.write_text(rows[: rows.index("\n") + 1])
    with pytest.raises(UserError, match=r"own\.jsonl: was changed while the stage ran"):
        recorded.require_unchanged()


def test_a_lock_file_that_is_none_is_refused(project):
    (project / "dvc.lock").write_text("stages: [")
    assert done(project).stderr.startswith("error: dvc.lock: not a lock file of DVC")


def test_code_that_is_edited_meanwhile_is_refused(monkeypatch, tmp_path):
    import types

    from onesentence.core import recorded
    from onesentence.core.errors import UserError

    source = tmp_path / "onesentence/core/text.py"
    source.parent.mkdir(parents=True)
    source.write_text("A = 1\n")
    other = tmp_path / "onesentence/core/other.py"
    other.write_text("A = 1\n")
    module = types.ModuleType("loaded_for_a_test")
    module.__file__ = str(source)
    monkeypatch.setitem(sys.modules, "loaded_for_a_test", module)
    monkeypatch.setattr(recorded, "PROJECT", tmp_path)
    monkeypatch.setattr(recorded, "_run", recorded._Run())
    monkeypatch.setenv("DVC_STAGE", "train")
    recorded.begin()
    other.write_text("A = 2\n")  # no module of this process
    recorded.require_unchanged()
    source.write_text("A = 2\n")
    with pytest.raises(UserError, match=r"^onesentence/core/text.py: was changed while the stage ran"):
        recorded.require_unchanged()


def test_a_damaged_object_of_the_cache_is_named_so_that_it_does_not_come_back(project):
    from conftest import run

    path = project / "data/prepared/train.parquet"
    name = hashlib.md5(path.read_bytes()).hexdigest()
    # The cache may lie anywhere: the local setting counts before the shared one.
    shutil.move(project / ".dvc/cache", project / "elsewhere")
    run(project, "dvc", "cache", "dir", "--local", "elsewhere")
    damaged = project / "elsewhere/files/md5" / name[:2] / name[2:]
    damaged.chmod(0o644)
    for file in (path, damaged):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    failed = done(project)
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1
    assert failed.stderr.startswith("error: data/prepared: differs from what dvc.lock records")
    assert (
        f"elsewhere/files/md5/{name[:2]}/{name[2:]} (its copy in DVC's cache is damaged too)" in failed.stderr
    )
    damaged.unlink()
    assert "damaged too" not in done(project).stderr


def test_each_file_of_a_folder_is_compared(project):
    program = "from onesentence.core import recorded\nrecorded.require_folder(Path('data/prepared'))"
    assert done(project, program).returncode == 0
    (project / "data/prepared/test.parquet").write_bytes(b"other")
    assert "error: data/prepared: differs" in done(project, program).stderr
