"""A stage that is stopped goes on when it is run again, and writes the bytes of an uninterrupted run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import copy_project, edit, make_project, run, stage

from onesentence.core.checkpoints import ROOT as VARIABLE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pairs, tiny):
    """The tiny project after training for 200 steps; generation takes one article a batch."""
    folder = make_project(tmp_path_factory.mktemp("trained"), pairs, tiny)
    edit(
        folder, data__train_size=40, train__epochs=20, train__log_every=10, train__checkpoint_every=40,
        generate__max_batch_tokens=1,
    )  # fmt: skip
    run(folder, "git", "commit", "--quiet", "--all", "--message=longer")
    run(folder, "dvc", "repro", "--quiet", "train")
    # A finished run leaves its checkpoints until the next stage starts.
    assert "finished" in run(folder, "python", "-m", "onesentence", "checkpoints").stdout
    run(folder, "python", "-m", "onesentence", "checkpoints", "--clean")
    return folder


@pytest.fixture
def project(trained, tmp_path):
    return copy_project(trained, tmp_path)


def contents(project: Path, *names: str) -> dict[str, bytes]:
    """The bytes of files, and of all files in folders."""
    paths = [project / name for name in names]
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return {file.relative_to(project).as_posix(): file.read_bytes() for file in files if file.is_file()}


TRAINED = ("models/tuned", "metrics/train.json", "plots/loss.csv")


def started(project: Path, *command: str, **environment: str) -> subprocess.Popen:
    """A command in a session of its own, as in a terminal."""
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=project,
        env={**os.environ, "PYTHONPATH": "", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts background processes with SIGINT ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def read_until(process: subprocess.Popen, text: str) -> None:
    """Read what a process prints on stderr until `text` comes."""
    seen = ""
    while text not in seen:
        piece = process.stderr.read(16)
        assert piece, seen
        seen += piece


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.long)],
)
def test_training_stops_after_its_step_and_goes_on_from_there(project, number, code):
    wanted = contents(project, *TRAINED)
    process = started(project, "stages.train")
    read_until(process, "50/200")  # a log draws the bar; the signal comes between two checkpoints
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    last = error.strip().splitlines()[-1]
    step = int(last.split("after step ")[1].split(" ")[0])
    name = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
    assert last == f"train: stopped by {name} after step {step} of 200; the same command goes on from there"
    assert 50 <= step < 200 and "Traceback" not in error
    listed = run(project, "python", "-m", "onesentence", "checkpoints").stdout
    assert "train-" in listed and f"step {step}" in listed and "unfinished" in listed
    again = stage(project, "train")
    assert f"train: continuing from checkpoint-{step}\n" in again.stdout
    assert contents(project, *TRAINED) == wanted
    assert "none in" in run(project, "python", "-m", "onesentence", "checkpoints").stdout


def test_a_changed_parameter_does_not_go_on_from_the_checkpoint(project):
    process = started(project, "stages.train")
    read_until(process, "50/200")
    process.kill()
    process.communicate()
    edit(project, train__learning_rate=0.005)
    assert "continuing" not in stage(project, "train").stdout
    edit(project, train__learning_rate=0.0004)
    cleaned = run(project, "python", "-m", "onesentence", "checkpoints", "--clean").stdout
    assert cleaned.startswith("checkpoints: 1 removed (")


def test_generation_goes_on_after_the_last_batch(project, tmp_path):
    """The journal of a run, cut in its fourth line, is what a kill leaves; another copy goes on from it."""
    (tmp_path / "first").mkdir()
    first = copy_project(project, tmp_path / "first")
    variables = {VARIABLE: str(tmp_path / "root"), "DVC_STAGE": "generate@tuned"}  # finished ones stay
    _, error = started(first, "stages.generate", "tuned", **variables).communicate(timeout=300)
    wanted = contents(first, "data/predictions/tuned.jsonl")
    (folder,) = (path for path in (tmp_path / "root").iterdir() if path.is_dir())
    journal = folder / "outputs.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 8, error
    journal.write_bytes(b"".join(lines[:3]) + lines[3][:40])
    (folder / "finished.json").unlink()

    process = started(project, "stages.generate", "tuned", **{VARIABLE: str(tmp_path / "root")})
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert "generate@tuned: continuing after 3 of 8 articles\n" in out
    assert contents(project, "data/predictions/tuned.jsonl") == wanted
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("whom", [pytest.param("dvc", marks=pytest.mark.long), "all"])
def test_dvc_repro_that_is_killed_leaves_no_process_and_goes_on(project, whom):
    wanted = contents(project, *TRAINED)
    lock = (project / "dvc.lock").read_bytes()
    for name in ("cache/runs", "tmp"):  # what was run before must not be taken from the cache
        run(project, "rm", "-rf", f".dvc/{name}")
    run(project, "rm", "-rf", *TRAINED)
    run(project, "git", "checkout", "--quiet", "dvc.lock")
    process = started(project, "dvc", "repro", "train")
    read_until(process, "50/200")
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family if whom == "all" else family[:1]:
        member.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    process.communicate()
    again = run(project, "dvc", "repro", "train")
    step = int(again.stdout.split("train: continuing from checkpoint-")[1].split("\n")[0])
    assert step in (40, 80, 120) if whom == "all" else step >= 50
    assert contents(project, *TRAINED) == wanted
    assert (project / "dvc.lock").read_bytes() == lock


def test_a_stage_that_finished_and_was_not_recorded_repeats_no_more_than_a_checkpoint(project):
    """The kill comes between the stage's end and DVC's record of it."""
    wanted = contents(project, *TRAINED)
    under_dvc = {"DVC_STAGE": "train"}
    for _ in range(2):
        process = started(project, "stages.train", **under_dvc)
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    assert "train: continuing from checkpoint-200\n" in out, error
    assert contents(project, *TRAINED) == wanted


@pytest.mark.long
def test_dvc_exp_run_temp_goes_on_in_another_copy(project):
    for name in ("cache/runs", "tmp"):
        run(project, "rm", "-rf", f".dvc/{name}")
    change = ("--set-param", "train.learning_rate=0.003")
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--message=done")
    process = started(project, "dvc", "exp", "run", "--temp", "--name", "first", *change, "train")
    read_until(process, "90/200")
    members = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in members:
        member.kill()
    process.communicate()
    time.sleep(0.5)
    again = run(project, "dvc", "exp", "run", "--temp", "--name", "second", *change, "train")
    assert "train: continuing from checkpoint-" in again.stdout + again.stderr
