"""Stages in several processes: one process's losses, weights and outputs, and nothing is lost by a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import copy_project, edit, make_project, run, stage
from safetensors.numpy import load_file
from study.cluster import namespaces

from onesentence.core.checkpoints import ROOT as CHECKPOINTS
from onesentence.core.plots import read_csv
from onesentence.core.processes import LAUNCH

pytestmark = pytest.mark.slow
TWO, FSDP = "--num_processes 2", "--num_processes 2 --use_fsdp"
CLOSE = 1e-4


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pairs, tiny):
    """The tiny project after 42 steps. The last batch of each epoch has one row: one process has none."""
    folder = make_project(tmp_path_factory.mktemp("several"), pairs, tiny)
    edit(
        folder, data__train_size=31, train__batch_size=3, train__gradient_accumulation=2, train__epochs=7,
        train__log_every=2, train__checkpoint_every=8, train__eval_examples=17,
        generate__max_batch_tokens=300,
        lora__target_modules=["q_proj", "v_proj", "fc1", "fc2"],
    )  # fmt: skip
    run(folder, "git", "commit", "--quiet", "--all", "--message=several")
    run(folder, "dvc", "repro", "--quiet", "train")
    run(folder, "python", "-m", "onesentence", "checkpoints", "--clean")  # DVC's next stage would remove them
    return folder


@pytest.fixture
def project(trained, tmp_path):
    return copy_project(trained, tmp_path)


def started(folder: Path, options: str, *words: str, prefix=()) -> subprocess.Popen:
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": "", LAUNCH: options, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def in_two(folder: Path, options: str, *words: str) -> str:
    process = started(folder, options, *words)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0 and "Warning" not in error, error
    return out


def curve(folder: Path) -> np.ndarray:
    rows = read_csv(folder / "plots/loss.csv")
    return np.array([float(value) for row in rows for value in row.values() if value])


def weights(folder: Path) -> dict[str, np.ndarray]:
    (file,) = (folder / "models/tuned").glob("*.safetensors")
    return load_file(file)


def require_close(folder: Path, wanted: Path) -> None:
    assert curve(folder) == pytest.approx(curve(wanted), abs=CLOSE)
    ours, theirs = weights(folder), weights(wanted)
    assert ours.keys() == theirs.keys()
    assert max(np.abs(ours[name] - theirs[name]).max() for name in ours) < CLOSE
    ours, theirs = (json.loads((path / "metrics/train.json").read_text()) for path in (folder, wanted))
    assert ours.pop("loss_examples") == theirs.pop("loss_examples")
    assert ours.pop("method") == theirs.pop("method")
    assert ours == pytest.approx(theirs, abs=CLOSE)


@pytest.mark.parametrize("options", [TWO, FSDP])
def test_two_processes_train_as_one(project, trained, options):
    """With dropout, a last batch that is too small, and adapters on an MLP that sees labels alone."""
    (project / "plots/loss.csv").unlink()
    assert " steps, " in in_two(project, options, "stages.train")
    require_close(project, trained)
    cost = json.loads((project / "data/cost/train.json").read_text())
    assert cost["processes"] == 2 and cost["resumed"] is False


@pytest.mark.long
def test_full_fine_tuning_is_divided_as_well(project, tmp_path):
    edit(project, train__method="full", train__learning_rate=0.0001)
    (tmp_path / "alone").mkdir()
    alone = copy_project(project, tmp_path / "alone")
    stage(alone, "train")
    in_two(project, FSDP, "stages.train")
    require_close(project, alone)


def test_a_killed_process_ends_the_other_and_a_rerun_goes_on(project, tmp_path):
    """With FSDP; without it, the test of two hosts kills one."""
    (tmp_path / "whole").mkdir()
    whole = copy_project(project, tmp_path / "whole")
    in_two(whole, FSDP, "stages.train")
    process = started(project, FSDP, "stages.train")
    seen = ""
    while "16/" not in seen:
        piece = process.stderr.read(16)
        assert piece, seen
        seen += piece
    family = psutil.Process(process.pid).children(recursive=True)
    second = next(child for child in family if child.environ().get("RANK") == "1")
    begun = time.monotonic()
    second.kill()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and time.monotonic() - begun < 60
    assert "process 1 of 2 was ended by SIGKILL" in error or "another process of this run was lost" in error
    assert "Traceback" not in error
    psutil.wait_procs(family, timeout=10)
    assert not [child for child in family if child.is_running()]
    out = in_two(project, FSDP, "stages.train")
    assert "train: continuing from checkpoint-" in out
    assert weights(project).keys() == weights(whole).keys()
    for name in ("models/tuned/adapter_model.safetensors", "plots/loss.csv", "metrics/train.json"):
        assert (project / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.long
def test_sigterm_stops_both_after_a_step_and_one_process_does_not_go_on_from_there(project):
    process = started(project, TWO, "stages.train")
    seen = ""
    while "10/" not in seen:
        seen += process.stderr.read(16)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143
    last = error.strip().splitlines()[-1]
    assert last.startswith("train: stopped by SIGTERM after step ") and last.endswith("goes on from there")
    # Sums of one process differ in their last digits, so they are another run's.
    assert "continuing" not in stage(project, "train").stdout
    assert "train: continuing from checkpoint-" in in_two(project, TWO, "stages.train")


@pytest.mark.long
def test_what_is_edited_meanwhile_is_noticed(project, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train")  # as if DVC ran it
    process = started(project, TWO, "stages.train")
    seen = ""
    while "10/" not in seen:
        seen += process.stderr.read(16)
    edit(project, train__learning_rate=0.005)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "params.yaml: train.learning_rate was changed from 0.0" in error, error
    assert error.count("while the stage ran") == 1


def test_outputs_are_those_of_one_process_in_the_same_order(project, monkeypatch):
    stage(project, "generate", "tuned")
    wanted = (project / "data/predictions/tuned.jsonl").read_bytes()
    assert len(wanted.splitlines()) == 8
    (project / "data/predictions/tuned.jsonl").unlink()
    # What a kill leaves after the first batch of each process.
    monkeypatch.setenv("DVC_STAGE", "generate@tuned")  # checkpoints of a finished stage stay
    in_two(project, TWO, "stages.generate", "tuned")
    monkeypatch.delenv("DVC_STAGE")
    assert (project / "data/predictions/tuned.jsonl").read_bytes() == wanted and len(journals(project)) == 2
    for path in journals(project):
        path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
        (path.parent / "finished.json").unlink(missing_ok=True)
    (project / "data/predictions/tuned.jsonl").unlink()
    out = in_two(project, FSDP, "stages.generate", "tuned")  # each process holds the whole model
    assert "generate@tuned: continuing after " in out and "generate tuned: 8 articles" in out
    assert (project / "data/predictions/tuned.jsonl").read_bytes() == wanted
    assert journals(project) == []


def journals(folder: Path) -> list[Path]:
    return sorted((folder / "models/checkpoints").glob("generate*/outputs-*-of-2.journal"))


@pytest.mark.long
def test_two_hosts_train_as_one_and_the_end_of_one_ends_the_other(project, trained, tmp_path):
    """Two network namespaces, joined by a bridge; both see the folder of checkpoints."""
    (tmp_path / "other").mkdir()
    folders = project, copy_project(project, tmp_path / "other")
    with ExitStack() as stack:
        hosts = stack.enter_context(namespaces("a", "b"))
        if hosts is None:
            pytest.skip("needs network namespaces (root)")
        stack.enter_context(pytest.MonkeyPatch.context()).setenv(CHECKPOINTS, str(tmp_path / "shared"))

        def start() -> list[subprocess.Popen]:
            options = f"{TWO} --num_machines 2 --main_process_ip {hosts['a'][1]} --main_process_port 29517"
            return [
                started(folder, f"{options} --machine_rank {rank}", "stages.train", prefix=prefix)
                for rank, (folder, (prefix, _)) in enumerate(zip(folders, hosts.values(), strict=True))
            ]

        both = start()
        while not list((tmp_path / "shared").glob("train-*/checkpoint-16/whole.json")):
            assert all(process.poll() is None for process in both), both[0].communicate()[1]
            time.sleep(0.1)
        begun = time.monotonic()
        for child in psutil.Process(both[1].pid).children(recursive=True):
            child.kill()
        errors = [process.communicate(timeout=60)[1] for process in both]
        assert [process.returncode for process in both] == [1, 1] and time.monotonic() - begun < 60
        assert "another process of this run was lost" in errors[0] or "has ended" in errors[0], errors[0]
        assert "was ended by SIGKILL" in errors[1]

        both = start()
        said = [process.communicate(timeout=300) for process in both]
        assert [process.returncode for process in both] == [0, 0], said
        assert "train: continuing from checkpoint-" in said[0][0] and said[1][0] == ""
    require_close(project, trained)
    assert not list((tmp_path / "shared").iterdir())
