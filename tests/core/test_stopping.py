"""A process that is asked to stop ends with one sentence, its work saved, and no process left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, time
from onesentence.core import stage, stopping
def saving():
    with stopping.deferred():
        print("ready", flush=True)
        for step in range(1, 300):
            time.sleep(0.1)
            if stopping.requested() and sys.argv[1] == "saves":
                print("saved", flush=True)
                raise stopping.Stopped(stopping.requested(), f"after step {step}")
def plain():
    print("ready", flush=True)
    time.sleep(30)
stage.run(plain if sys.argv[1] == "plain" else saving)
"""


def started(folder: Path, way: str, **more) -> subprocess.Popen:
    (folder / "train.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, "train.py", way],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)} | more.pop("env", {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background processes with SIGINT ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **more,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "name", "code"), [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "Ctrl-C", 130)]
)
@pytest.mark.parametrize("way", ["plain", "saves"])
def test_a_signal_ends_a_stage_with_one_sentence(tmp_path, number, name, code, way):
    process = started(tmp_path, way)
    process.send_signal(number)
    out, error = process.communicate(timeout=20)
    assert process.returncode == code
    when = " after step 1" if way == "saves" else ""
    assert error.startswith(f"train: stopped by {name}{when}") and error.count("\n") == 1
    assert error.endswith("; run the same command again\n")
    assert out == ("saved\n" if way == "saves" else "")


def test_a_second_ctrl_c_ends_what_does_not_stop_by_itself(tmp_path):
    process = started(tmp_path, "never")
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)  # an echo of the first: a terminal and a parent can both send it
    time.sleep(1.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1].startswith("train: stopped by Ctrl-C; ")
    assert process.returncode == 130


PARENT = """
import subprocess, sys, time
child = subprocess.Popen(["sh", "-c", f"{sys.executable} train.py plain; true"])
print(child.pid, flush=True)
child.wait()
"""


def test_a_stage_ends_when_the_program_that_started_it_is_killed(tmp_path):
    (tmp_path / "train.py").write_text(PROGRAM)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DVC_STAGE": "train"},
        stdout=subprocess.PIPE,
        text=True,
    )
    shell = psutil.Process(int(parent.stdout.readline()))
    assert parent.stdout.readline() == "ready\n"
    children = [shell, *shell.children(recursive=True)]
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert not alive and len(gone) == 2
