"""How a stage ends when it is stopped: by Ctrl-C, by SIGTERM, or because the program that started it is gone.

Work that can be cut off at any point ends at once, with `Stopped`. Work that saves its progress first runs in
`deferred`: it asks `requested` when it can stop. A second Ctrl-C ends that too.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOOK_SECONDS = 1.0  # between two looks at the processes that started this one
AGAIN = 1.0  # seconds after which another Ctrl-C is the user's second one, and no echo of the first
SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}


class Stopped(BaseException):
    """The run was stopped. The message says how far it came and how to go on."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number = number
        self.kept = False  # whether the same command goes on from a checkpoint

    @property
    def name(self) -> str:
        """SIGTERM, for example; Ctrl-C for SIGINT."""
        return "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as a shell reports it."""
        return 128 + self.number


class _State:
    """What the handlers know. Handlers run in the main thread, between two of its instructions."""

    number: int | None = None  # of the first signal
    since = 0.0  # when it came (time.monotonic)
    deferred = 0  # how many `deferred` blocks the main thread is in


_state = _State()


def install() -> None:
    """End this process by `Stopped` at Ctrl-C, SIGTERM and SIGHUP. Call it in the main thread.

    A signal that the parent process ignores on purpose stays ignored (nohup ignores SIGHUP).
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    first = _state.number is None
    if first:
        _state.number, _state.since = number, time.monotonic()
    if not _state.deferred:
        raise Stopped(number)
    if not first and number == signal.SIGINT and time.monotonic() - _state.since > AGAIN:
        raise Stopped(number)


@contextmanager
def deferred() -> Iterator[None]:
    """Let the body run on after a signal; it asks `requested` and ends by itself."""
    _state.deferred += 1
    try:
        yield
    finally:
        _state.deferred -= 1


def requested() -> int | None:
    """The number of the signal that asked this process to stop; None if none has come."""
    return _state.number


def ancestors() -> list[tuple[int, str]]:
    """(pid, start time) of the processes that started this one, up to the first that is no shell.

    Only the chain up to there counts: it is `dvc`, or a user's own program. Empty on systems without /proc.
    """
    chain: list[tuple[int, str]] = []
    pid = os.getppid()
    while pid > 1:
        found = _process(pid)
        if found is None:
            break
        name, parent, started = found
        chain.append((pid, started))
        if name not in SHELLS:
            break
        pid = parent
    return chain


def _process(pid: int) -> tuple[str, int, str] | None:
    """(name, parent's pid, start time) of a process; None if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()  # state, parent's pid, ...; see proc(5)
    return None if fields[0] in "ZX" else (name, int(fields[1]), fields[19])


def follow_parent() -> None:
    """Stop this process, as SIGTERM does, when the program that started it is gone.

    `dvc repro` that is killed leaves its stage running. That stage would go on writing outputs which the next
    `dvc repro` writes too. A thread looks every LOOK_SECONDS.
    """
    chain = ancestors()
    if not chain:
        return

    def look() -> None:
        while all((found := _process(pid)) is not None and found[2] == start for pid, start in chain):
            time.sleep(LOOK_SECONDS)
        if _state.number is None:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, name="follow-parent", daemon=True).start()


def leave(stopped: Stopped, what: str) -> None:
    """Print one sentence on stderr and exit. what: the stage or command that was stopped."""
    sys.stdout.flush()
    when = f" {stopped}" if str(stopped) else ""
    more = "the same command goes on from there" if stopped.kept else "run the same command again"
    print(f"{what}: stopped by {stopped.name}{when}; {more}", file=sys.stderr)
    sys.exit(stopped.exit_code)
