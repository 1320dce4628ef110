"""What a worker's program does where a remote is at fault, and that an assignment keeps every digit."""

import json
import subprocess
import sys

from cluster import IDENTITY, make_small
from conftest import ROOT, run

from onesentence.study import remote_run, remotes
from onesentence.study.remote_run import TROUBLE, Assignment


def assignment(url: str, commit: str, drive: str) -> Assignment:
    values = {
        "train.learning_rate": 6.25e-05,
        "lora.target_modules": ["q_proj"],
        "lora.alpha": None,
        "seed": 0,
    }
    return Assignment("x", values, commit, url, "storage", {"url": drive}, ("Anna Ö", "a@localhost"), 2)


def test_an_assignment_is_read_as_it_was_written():
    task = assignment("git@localhost:x.git", "0" * 40, "/drive")
    assert Assignment.read(task.text()) == task
    assert json.loads(task.text())["values"]["train.learning_rate"] == 6.25e-05


def test_a_remote_that_does_not_answer_is_trouble_and_no_failure_of_the_variant(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(remote_run, "patiently", lambda action: remotes.patiently(action, ()))
    project = make_small(tmp_path)
    commit = run(project, "git", "rev-parse", "HEAD").stdout.strip()
    folder = tmp_path / "work/clone-0"
    task = assignment(str(tmp_path / "nothing"), commit, str(tmp_path / "drive"))
    assert remote_run.run(task, folder) == TROUBLE
    assert "error: git clone" in capfd.readouterr().out
    # A clone whose inputs could not be fetched is not taken for a complete one.
    (tmp_path / "drive").rename(tmp_path / "away")
    task = assignment(str(tmp_path / "bare"), commit, str(tmp_path / "drive"))
    assert remote_run.run(task, folder) == TROUBLE
    assert "error: dvc " in capfd.readouterr().out
    assert (folder / "work.py").is_file() and not remote_run.Clone(folder, commit).usable()


RACES_ONCE = """
import pathlib, sys
sign = pathlib.Path(sys.argv[1])
if not sign.exists():
    sign.touch()
    sys.exit("unable to remove 'x' without a confirmation")
pathlib.Path("out.txt").write_text("done")
"""


def test_a_variant_that_lost_a_race_for_the_cache_runs_once_more(tmp_path, monkeypatch):
    project, sign = make_small(tmp_path), tmp_path / "sign"
    (project / "work.py").write_text(RACES_ONCE)
    (project / "dvc.yaml").write_text(
        f"stages: {{work: {{cmd: python work.py {sign}, params: [seed], outs: [out.txt]}}}}\n"
    )
    for key, value in IDENTITY.items():
        monkeypatch.setenv(key, value)
    run(project, "git", "commit", "--all", "--quiet", "--message=race")
    run(project, "git", "push", "--quiet", "origin", "HEAD")
    commit = run(project, "git", "rev-parse", "HEAD").stdout.strip()
    task = assignment(str(tmp_path / "bare"), commit, str(tmp_path / "drive"))
    folder, file = tmp_path / "work/clone-0", tmp_path / "task.json"
    folder.parent.mkdir()
    file.write_text(Assignment(**{**vars(task), "values": {"seed": 1}}).text())
    with (folder.parent / "clone-0.log").open("w") as log:
        command = [sys.executable, "-m", "onesentence.study.remote_run", str(file), str(folder)]
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False)
    text = (folder.parent / "clone-0.log").read_text()
    assert done.returncode == 0 and text.count("without a confirmation") == 1, text
    assert "refs/exps" in run(tmp_path / "bare", "git", "for-each-ref").stdout
