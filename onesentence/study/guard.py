"""A program that runs a command until the command ends, or until the program that started it does.

Run     python guard.py COMMAND...

Its standard input is a pipe from its starter. Where the starter dies, by SIGKILL too, the pipe ends; then
the guard ends the whole process group: it must be the group's leader. It imports nothing of this project,
because it runs by its path.
"""

import os
import select
import signal
import subprocess
import sys
import time
from types import FrameType

import psutil

PATIENCE = 10  # seconds that the command and its children have to end by themselves


def others() -> list[int]:
    """The other processes of this process group that have not ended."""
    group, members = os.getpgrp(), []
    for process in psutil.process_iter(["status"]):
        try:
            same = process.pid != os.getpid() and os.getpgid(process.pid) == group
        except OSError:  # it has ended
            continue
        if same and process.info["status"] != psutil.STATUS_ZOMBIE:
            members.append(process.pid)
    return members


def end_group() -> None:
    """End all other processes of the group: ask, wait for PATIENCE seconds, then kill."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    deadline = time.monotonic() + PATIENCE
    if others():
        os.killpg(os.getpgrp(), signal.SIGTERM)
    while others() and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in others():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def main() -> None:
    """Run the command; exit with its status, or with 143 where its starter or a signal ended it."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
        while process.poll() is None:
            if select.select([sys.stdin], [], [], 0.2)[0] and not os.read(sys.stdin.fileno(), 1):
                raise SystemExit(143)  # the starter is gone, or has closed the pipe
        status = process.returncode
    finally:
        end_group()
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
