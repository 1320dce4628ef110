"""The guard ends a whole process group when its starter dies, by SIGKILL too."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import alive, wait_until

from onesentence.study import guard

# Starts the guard with a command that has a child; both write their number, one of them ignores SIGTERM.
FAMILY = """
import os, signal, subprocess, sys, time
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1] + ".new", "w").write(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""
STARTER = """
import subprocess, sys, time
process = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)
time.sleep(600)
"""


def command(file: Path, kind: str) -> list[str]:
    return [sys.executable, guard.__file__, sys.executable, "-c", FAMILY, str(file), kind]


def family(file: Path) -> list[int]:
    wait_until(file.is_file)
    return [int(number) for number in file.read_text().split()]


@pytest.mark.parametrize("kind", ["mild", "stubborn"])
def test_the_group_ends_with_its_starter(tmp_path, kind):
    file = tmp_path / "pids"
    starter = subprocess.Popen([sys.executable, "-c", STARTER, *command(file, kind)])
    pids = family(file)
    assert alive(pids) == pids
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    wait_until(lambda: alive(pids) == [], guard.PATIENCE + 15)


def test_the_group_ends_with_the_pipe_and_with_a_signal(tmp_path):
    for number, end in enumerate(
        (lambda process: process.stdin.close(), lambda process: process.send_signal(signal.SIGTERM))
    ):
        file = tmp_path / f"pids-{number}"
        process = subprocess.Popen(command(file, "mild"), stdin=subprocess.PIPE, start_new_session=True)
        pids = family(file)
        end(process)
        assert process.wait(timeout=60) == 143
        assert alive(pids) == []


def test_the_exit_code_is_that_of_the_command_and_children_that_it_left_end(tmp_path):
    left = (
        "import subprocess, sys; wait = 'import time; time.sleep(600)';"
        "child = subprocess.Popen([sys.executable, '-c', wait]);"
        "open(sys.argv[1], 'w').write(str(child.pid)); sys.exit(3)"
    )
    file = tmp_path / "pid"
    done = subprocess.Popen(
        [sys.executable, guard.__file__, sys.executable, "-c", left, str(file)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    assert done.wait(timeout=60) == 3
    assert alive([int(file.read_text())]) == []
    killed = subprocess.Popen(
        [sys.executable, guard.__file__, sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    assert killed.wait(timeout=60) == 128 + 9
    assert os.getpgrp() != killed.pid
