"""What a worker's program does where a remote is at fault, and that an assignment keeps every digit."""

import json

from cluster import make_small
from conftest import run

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
    assert "error: study: dvc" in capfd.readouterr().out
    assert (folder / "work.py").is_file() and not remote_run.Clone(folder, commit).usable()
