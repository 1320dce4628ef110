"""Several processes of one run: what they agree on, who speaks, and how they end."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onesentence.core import processes
from onesentence.core.checkpoints import ROOT as CHECKPOINTS
from onesentence.core.errors import UserError
from onesentence.core.processes import LAUNCH

REPO = Path(__file__).parents[2]


def test_a_program_that_nobody_launched_is_one_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", LAUNCH):
        monkeypatch.delenv(name, raising=False)
    assert (processes.count(), processes.index(), processes.first()) == (1, 0, True)
    assert not processes.sharded() and not processes.to_launch()
    assert processes.share([3, 4, 5]) == [3, 4, 5]
    assert processes.summed(1.5, 2) == [1.5, 2] and processes.gathered("here") == ["here"]
    processes.join(sharding=True)
    monkeypatch.setenv("WORLD_SIZE", "8")  # a cluster's own variable, without a number of this process
    assert processes.count() == 1 and processes.kind() == "1 process"


def test_items_are_dealt_out_in_turn_and_none_twice(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    found = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        found.append(list(processes.share(range(7))))
        assert processes.first() == (rank == 0)
    assert found == [[0, 3, 6], [1, 4], [2, 5]]
    assert processes.kind() == "3 processes"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--num_processes 1", "expected options of `accelerate launch` with --num_processes of at least 2"),
        ("--use_fsdp", "expected options of `accelerate launch` with --num_processes of at least 2"),
        ("--num_processes 2 program.py", "and no program"),
        ("--num_processes two", "invalid int value: 'two'"),
        ("--num_process_count 2", "such as '--num_processes 2'"),
        ("--num_processes '2", "close the quotation"),
        ("--num_processes 2 --num_machines 2", "several machines need --main_process_ip and"),
    ],
)
def test_options_that_accelerate_does_not_take_are_named(monkeypatch, options, message):
    monkeypatch.setenv(LAUNCH, options)
    monkeypatch.delenv("RANK", raising=False)
    assert processes.to_launch()
    with pytest.raises(UserError) as raised:
        processes._options("stages.train", [])
    assert message in str(raised.value) and str(raised.value).startswith(f"{LAUNCH}: ")
    assert "\n" not in str(raised.value)


# A stage of two processes. Its argument says what happens in it.
PROGRAM = """
import atexit, os, signal, sys, time
from pathlib import Path
from onesentence.core import processes, stage, stopping
from onesentence.core.errors import UserError

class Late:
    # As a tensor that a thread of Gloo still holds: it aborts the process if Python is torn down.
    abort = staticmethod(os.abort)

    def __del__(self):
        self.abort()

def main():
    what, number = sys.argv[1], processes.index()
    if what == "one-is-silent":
        processes.SILENT_SECONDS = 10.0  # as after 45 seconds, but the test need not wait for them
    processes.join(sharding=False)
    Path(f"pid-{number}").write_text(str(os.getpid()))
    if what == "agree":
        said = processes.gathered("é" * (number + 1))
        assert said == ["é", "éé"], said
        assert processes.summed(number + 1, 0.25) == [3.0, 0.5]
        assert processes.stop_requested() is None
        with processes.claimed_together("try", "0" * 16) as folder:
            (folder / f"from-{number}").touch()
            processes.wait_for_all()
            assert {path.name for path in folder.iterdir()} == {"from-0", "from-1"}
        with stopping.deferred():
            if number == 1:
                os.kill(os.getpid(), signal.SIGHUP)
            assert processes.stop_requested() == signal.SIGHUP
        print("from", number)
    elif what == "ends-late":
        atexit.register(print, "at exit", number)
        sys.late = Late()
    elif what == "other-data":
        with processes.claimed_together("try", str(number) * 16):
            pass
    elif what == "both-fail":
        raise UserError("the same bad input")
    elif what == "one-fails" and number == 1:
        raise UserError("only here")
    elif what == "one-is-killed" and number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "one-is-silent" and number == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    processes.wait_for_all()

stage.run(main, launchable=True)
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    (folder / "stages").mkdir()
    (folder / "stages/__init__.py").touch()
    (folder / "stages/several.py").write_text(PROGRAM)
    return folder


def started(folder: Path, what: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "stages.several", what],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(REPO),
            LAUNCH: "--num_processes 2",
            CHECKPOINTS: str(folder / "checkpoints"),
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "5",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def is_gone(folder: Path, number: int) -> bool:
    return not Path("/proc", (folder / f"pid-{number}").read_text()).exists()


def test_processes_agree_and_the_first_one_speaks(program):
    out, error = (process := started(program, "agree")).communicate(timeout=120)
    assert process.returncode == 0, error
    assert (out, error) == ("from 0\n", "")  # nothing of gloo, accelerate or torch
    assert list((program / "checkpoints").iterdir()) == []


def test_what_is_left_to_native_threads_cannot_fail_a_run_that_is_done(program):
    out, error = (process := started(program, "ends-late")).communicate(timeout=120)
    assert (process.returncode, out, error) == (0, "at exit 0\n", "")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("other-data", "error: try: process 1 has other data, settings, code, packages or devices than"),
        ("both-fail", "error: the same bad input\n"),
        ("one-fails", "error: only here\n"),
    ],
)
def test_a_failure_is_one_sentence_and_ends_every_process(program, what, said):
    begun = time.monotonic()
    _, error = (process := started(program, what)).communicate(timeout=120)
    assert process.returncode == 1
    assert said in error and error.count(said) == 1 and "Traceback" not in error, error
    assert time.monotonic() - begun < 60
    assert is_gone(program, 0) and is_gone(program, 1)


def test_a_killed_process_ends_the_other(program):
    _, error = (process := started(program, "one-is-killed")).communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in error
    # Whichever notices it first: the launcher, or the process that has lost its connection.
    assert "process 1 of 2 was ended by SIGKILL" in error or "another process of this run was lost" in error
    assert is_gone(program, 0) and is_gone(program, 1)


@pytest.mark.slow
def test_a_process_that_gives_no_sign_of_life_is_given_up(program):
    """A stopped process keeps its connections open, as a machine does that is gone."""
    begun = time.monotonic()
    _, error = (process := started(program, "one-is-silent")).communicate(timeout=180)
    assert process.returncode == 1
    assert "error: process 1 of 2 does not answer any more; run the same command again" in error
    assert time.monotonic() - begun < 120  # to start, to be silent, and to end what does not end by itself
    assert is_gone(program, 0) and is_gone(program, 1)
