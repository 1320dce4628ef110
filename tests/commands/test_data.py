"""`make data`: it removes nothing that it did not write, and a failed step leaves everything as it was."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from onesentence.commands import data, edit
from onesentence.commands.data import next_steps
from onesentence.core import errors, files
from onesentence.core.files import file_sha256
from onesentence.core.params import SPLITS

ROOT = Path(__file__).parents[2]
LOCAL = Path("data/local")


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A git and DVC repository with params.yaml in it."""
    folder = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=folder, check=True)
    shutil.copy(ROOT / ".gitignore", folder)
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "data").mkdir()
    shutil.copy(ROOT / "data/.gitignore", folder / "data")
    return folder


@pytest.fixture
def project(repository, tmp_path, monkeypatch) -> Path:
    """A copy of the repository, which is the current folder; data to use lies beside it."""
    folder = shutil.copytree(repository, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def make_data(project, capsys):
    """`python -m onesentence data` in this process; returns what it prints."""

    def command(*arguments: str | Path) -> str:
        errors.run(lambda: data.command.main(list(map(str, arguments)), standalone_mode=False))
        return capsys.readouterr().out

    return command


@pytest.fixture
def refused(make_data, project):
    """The one sentence with which the command refuses; nothing in the project has changed by it."""

    def command(*arguments: str | Path) -> str:
        before = tree(project)
        with pytest.raises(SystemExit) as raised:
            make_data(*arguments)
        assert tree(project) == before
        message = str(raised.value.code)
        assert message.startswith("error: ")
        return message

    return command


def tree(folder: Path) -> dict[str, object]:
    """Content, rights and links below a folder, but for what git and DVC keep for themselves."""
    result = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] in (".git", ".dvc"):
            continue
        if path.is_symlink():
            result[str(name)] = path.readlink()
        elif path.is_file():
            result[str(name)] = (path.read_bytes(), path.stat().st_mode)
        else:
            result[str(name)] = None
    return result


def jsonl(path: Path, rows: int = 60, word: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [{"document": f"{word} {i}. More.", "summary": f"s {i}", "paper": i % 40} for i in range(rows)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def folder_of(path: Path, suffix: str = ".jsonl", word: str = "text") -> Path:
    for split in SPLITS:
        jsonl(path / f"{split}{suffix}", 5, f"{word} {split}")
    return path


def settings() -> dict:
    return yaml.safe_load(Path("params.yaml").read_text())["data"]


def names() -> list[str]:
    return sorted(str(path.relative_to(LOCAL)) for path in LOCAL.rglob("*"))


def test_data_inside_data_local_is_used_there_and_every_other_file_stays(make_data, project):
    jsonl(LOCAL / "monday.jsonl", word="monday")
    jsonl(LOCAL / "tuesday.jsonl", word="tuesday")
    (LOCAL / "README").write_text("mine")
    before = {name: value for name, value in tree(project).items() if name.startswith("data/local")}
    out = make_data("data/local/monday.jsonl")
    after = {name: value for name, value in tree(project).items() if name.startswith("data/local/")}
    assert after == {name: value for name, value in before.items() if name != "data/local"}
    assert settings()["watch"] == "data/local/monday.jsonl"
    assert "DVC now tracks the other files in data/local as well: README, tuesday.jsonl" in out
    # By another name for the same place, and from a file outside: still nothing is lost.
    make_data(project / "data" / ".." / "data" / "local" / "tuesday.jsonl")
    assert settings()["watch"] == "data/local/tuesday.jsonl"
    make_data(jsonl(project.parent / "wednesday.jsonl"))
    assert names() == ["README", "monday.jsonl", "tuesday.jsonl", "wednesday.jsonl"]
    assert settings()["watch"] == "data/local/wednesday.jsonl"


def test_a_folder_inside_data_local_is_used_there(make_data):
    folder_of(LOCAL)
    make_data("data/local")
    assert settings()["watch"] == "data/local" and names() == sorted(f"{split}.jsonl" for split in SPLITS)
    folder_of(LOCAL / "second")
    make_data("data/local/second")
    assert settings()["watch"] == "data/local/second" and len(names()) == 7


def test_the_next_steps_are_those_of_the_pipeline():
    assert next_steps("") == "Next: git add data/local.dvc data/.gitignore params.yaml, then dvc repro"
    assert next_steps("presets/own") == (
        "Next, in the repository's root: git add presets/own/data/local.dvc presets/own/data/.gitignore "
        "presets/own/params.yaml, then make repro PRESET=own"
    )


def test_a_second_run_replaces_just_what_the_first_wrote(make_data, project, tmp_path):
    given = folder_of(tmp_path / "given")
    (given / "notes.txt").write_text("not data")
    make_data(given)
    assert names() == sorted(f"{split}.jsonl" for split in SPLITS)
    (LOCAL / "README").write_text("mine")
    folder_of(given, word="other")
    make_data(given)
    assert (LOCAL / "train.jsonl").read_bytes() == (given / "train.jsonl").read_bytes()
    # Other names: the first run's files go, since they would be a second file of each split.
    make_data(jsonl(tmp_path / "single.jsonl"))
    assert names() == ["README", "single.jsonl"]
    assert yaml.safe_load(Path("data/local.dvc").read_text())["meta"] == {
        data.WRITTEN: {"single.jsonl": file_sha256(tmp_path / "single.jsonl")}
    }
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "data/local.dvc"], capture_output=True, text=True, check=True
    )
    assert "up to date" in status.stdout


def test_a_file_that_the_user_changed_is_the_users(make_data, refused, tmp_path):
    given = jsonl(tmp_path / "mine.jsonl")
    make_data(given)
    with (LOCAL / "mine.jsonl").open("a") as file:
        file.write('{"document": "by hand", "summary": "s"}\n')
    message = refused(given)
    assert message.startswith(
        "error: data/local/mine.jsonl: not replaced, since `make data` did not write it"
    )
    make_data(jsonl(tmp_path / "other.jsonl"))
    assert names() == ["mine.jsonl", "other.jsonl"]


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_what_has_the_same_name_is_never_replaced(refused, tmp_path, kind):
    given = jsonl(tmp_path / "mine.jsonl")
    if kind == "file":
        jsonl(LOCAL / "mine.jsonl", word="own")
    else:
        LOCAL.mkdir()
        (LOCAL / "mine.jsonl").symlink_to(tmp_path / "nowhere") if kind == "link" else (
            LOCAL / "mine.jsonl"
        ).mkdir()
    assert refused(given).startswith("error: data/local/mine.jsonl: not replaced")


def test_a_second_file_of_a_split_is_named_before_anything_is_copied(refused, tmp_path):
    jsonl(LOCAL / "Test.JSON")
    assert refused(folder_of(tmp_path / "given")).startswith("error: data/local/Test.JSON: not replaced")


def test_data_local_that_is_a_file_is_refused(refused, tmp_path):
    LOCAL.write_text("mine")
    assert "data/local: expected a folder, found a file" in refused(jsonl(tmp_path / "mine.jsonl"))


def test_a_link_is_followed_and_stays(make_data, tmp_path):
    given = jsonl(tmp_path / "deep" / "mine.jsonl")
    link = tmp_path / "link.jsonl"
    link.symlink_to(given)
    make_data(link)
    assert (LOCAL / "link.jsonl").read_bytes() == given.read_bytes() and not (
        LOCAL / "link.jsonl"
    ).is_symlink()
    assert link.is_symlink() and given.is_file()


def test_links_into_dvcs_cache_are_replaced_and_used_in_place(make_data, project, tmp_path):
    """DVC's `cache.type symlink` makes them of the files that it tracks."""
    subprocess.run([sys.executable, "-m", "dvc", "config", "cache.type", "symlink"], check=True)
    given = jsonl(tmp_path / "mine.jsonl")
    make_data(given)
    place = LOCAL / given.name
    assert place.is_symlink() and place.read_bytes() == given.read_bytes()
    make_data(place)  # in place
    assert place.is_symlink() and "watch: data/local" in (project / "params.yaml").read_text()
    given.write_text(given.read_text() + given.read_text().splitlines()[0].replace("id", "other") + "\n")
    make_data(given)
    assert place.read_bytes() == given.read_bytes()


@pytest.mark.parametrize("before", ["nothing", "own data", "the user's data"])
def test_a_held_lock_leaves_everything_and_says_what_dvc_says(make_data, refused, project, tmp_path, before):
    if before == "own data":
        make_data(folder_of(tmp_path / "first"))
    elif before == "the user's data":
        jsonl(LOCAL / "mine.jsonl")
    given = folder_of(tmp_path / "second", word="second")
    with (project / ".dvc/tmp/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        message = refused(given)
    assert message.startswith("error: dvc add data/local failed, nothing was changed: ERROR: ")
    assert "lock" in message
    make_data(given)
    assert settings()["watch"] == "data/local"


def test_outside_of_a_dvc_repository_nothing_is_changed(refused, project, tmp_path):
    shutil.rmtree(project / ".dvc")
    assert "not inside of a DVC repository" in refused(jsonl(tmp_path / "mine.jsonl"))


def test_params_that_would_not_load_change_nothing(refused, tmp_path):
    file = jsonl(tmp_path / "mine.jsonl")
    assert "data.group_column: must differ" in refused(file, "--group-column", "document")


def test_a_full_disk_leaves_everything(refused, make_data, tmp_path, monkeypatch):
    make_data(folder_of(tmp_path / "first"))
    real, copied = shutil.copyfile, []

    def full(source, target, **options):
        if str(target).endswith("validation.jsonl"):
            Path(target).write_text("half")
            raise OSError(28, "No space left on device", str(target))
        copied.append(target)
        return real(source, target, **options)

    monkeypatch.setattr(data.shutil, "copyfile", full)
    message = refused(folder_of(tmp_path / "second", word="second"))
    assert "No space left on device; nothing was changed" in message and copied


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_kill_in_the_middle_is_taken_back(make_data, project, tmp_path, number):
    make_data(folder_of(tmp_path / "first"))
    before = tree(project)
    given = folder_of(tmp_path / "second", word="second")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "onesentence", "data", str(given)]
    with (project / ".dvc/tmp/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it waits inside `dvc add`
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True)
        deadline = time.monotonic() + 60
        while "second" not in (LOCAL / "train.jsonl").read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert data.JOURNAL.is_dir()
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)  # of dvc too, as when the machine goes down
        else:
            process.send_signal(number)
        process.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert tree(project) != before
        with pytest.raises(SystemExit):  # the next call, whatever it is asked
            make_data("nowhere.jsonl")
        aside = project / "data/local.interrupted-1"  # it may have been edited since
        assert "second" in (aside / "data/local/train.jsonl").read_text()
        assert (aside / "params.yaml").is_file()
        shutil.rmtree(aside)
    assert tree(project) == before
    make_data(given)
    assert "second" in (LOCAL / "train.jsonl").read_text()


def test_a_restore_that_was_stopped_half_way_is_completed(make_data, project, tmp_path):
    make_data(folder_of(tmp_path / "first"))
    before = tree(project)
    files._keep([Path("params.yaml"), Path("data/local.dvc")], data.JOURNAL)
    (data.JOURNAL / "0").unlink()  # params.yaml is back already
    Path("data/local.dvc").write_text("outs: half\n")
    with pytest.raises(SystemExit):
        make_data("nowhere.jsonl")
    aside = project / "data/local.interrupted-1"
    assert [path.name for path in aside.rglob("*") if path.is_file()] == ["local.dvc"]
    shutil.rmtree(aside)
    assert tree(project) == before


def test_one_call_at_a_time(refused, project, tmp_path):
    """A second one would take the first one's journal for a killed run's, and take its work back."""
    given = folder_of(tmp_path / "given")
    held = os.open(project / "data", os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert "another `make data` is running here; wait until it has ended" in refused(given)
    finally:
        os.close(held)


def test_a_group_column_is_set_and_a_known_hash_is_forgotten(make_data, tmp_path):
    edit.apply({"data": {"sha256": "0" * 64}}, "test")
    make_data(jsonl(tmp_path / "mine.jsonl"), "--group-column", "paper")
    assert settings()["group_column"] == "paper" and settings()["sha256"] is None
    # As for the other columns, the next data has the same unless it is named.
    make_data(jsonl(tmp_path / "mine.jsonl"))
    assert settings()["group_column"] == "paper"


def test_too_little_data_for_three_splits_is_refused(refused, tmp_path):
    assert "no row for validation, test; give more rows" in refused(jsonl(tmp_path / "mine.jsonl", 1))
    file = tmp_path / "one.jsonl"
    file.write_text(jsonl(tmp_path / "mine.jsonl").read_text().replace('"paper": ', '"paper": 7, "x": '))
    assert "; give more groups, or a folder" in refused(file, "--group-column", "paper")


def test_bad_rows_are_refused_as_prepare_refuses_them(refused, tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("document,summary,summary\nd,s,s\n")
    assert "column 'summary' occurs twice" in refused(file)
    file.write_text("id,document,summary\na,d,s\n,e,s\n")
    assert "mine.csv, line 3: no 'id', but " in refused(file)
    file.write_text("id,document,summary\na,d,s\na,e,s\n")
    assert "mine.csv, line 3: id 'a' occurs twice, with a different text in " in refused(file)


@pytest.mark.parametrize("name", ["data.xlsx", "nowhere.jsonl", "folder"])
def test_what_cannot_be_used_is_named(refused, tmp_path, name):
    (tmp_path / "data.xlsx").write_text("x")
    (tmp_path / "folder").mkdir()
    assert str(tmp_path / name) in refused(tmp_path / name)


def test_make_remote_takes_a_folder_with_blanks_and_keeps_what_is_in_it(project, tmp_path):
    shutil.copy(ROOT / "Makefile", project)
    drive = tmp_path / "my drive"
    drive.mkdir()
    (drive / "mine.txt").write_text("mine")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["make", "--old-file=.venv/.installed", "remote", f"DIR={drive}"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert f"url = {drive}\n" in (project / ".dvc/config.local").read_text()
    assert [path.name for path in drive.iterdir()] == ["mine.txt"]


def test_make_data_passes_the_columns_on():
    # `make test` runs this test: a make inside a make prints the names of folders unless it is asked not to.
    options = ["--dry-run", "--no-print-directory", "--old-file=.venv/.installed"]
    command = ["make", *options, "data", "FROM=mine.csv", "DOCUMENT=text"]
    shown = subprocess.run(
        [*command, "SUMMARY=head line"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    words = " ".join(shown.stdout.replace("\\\n", " ").split())
    assert words.endswith('--document-column "text" --summary-column "head line"')
    shown = subprocess.run(command[:-1], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "column" not in shown.stdout
