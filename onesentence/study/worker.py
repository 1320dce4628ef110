"""What a Dask worker does: it checks itself, and runs one variant in a process group of its own."""

import asyncio
import fcntl
import hashlib
import importlib.metadata
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

import dask.config
from distributed import Variable, get_client, get_worker

from onesentence.core.runtime import THREADS
from onesentence.study import guard
from onesentence.study.clone import Clone
from onesentence.study.costs import cost_of_run
from onesentence.study.experiments import REQUIREMENTS
from onesentence.study.remote_run import Assignment
from onesentence.study.remotes import is_folder

POLL = 1.0  # seconds between two looks at the lease
LEASE = 60.0  # seconds without a sign of the head after which its variants end
REACHED = 60.0  # seconds that a remote has to answer
SENT_BACK = 200_000  # characters of a log's end
CODE = Path(__file__).parent
ROOT = CODE.parent.parent
# Runs the module of this very version, whatever folder is the current one.
START = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module('onesentence.study.remote_run', run_name='__main__')"
)


class WorkerTroubleError(Exception):
    """A machine or a remote was at fault. The scheduler tries the variant again, on any worker."""


@dataclass(frozen=True)
class Profile:
    """What head and workers must have in common.

    packages: the version of each package that requirements.txt pins, without its local part (`+cpu`), or "";
    code: a hash of the modules that run on workers.
    """

    python: str
    packages: dict[str, str]
    code: str

    def difference(self, other: "Profile") -> str:
        """How another profile differs, in a few words; "" if it does not."""
        if self.python != other.python:
            return f"Python {other.python}, here {self.python}"
        unlike = [name for name in self.packages if other.packages.get(name) != self.packages[name]]
        if unlike:
            name = unlike[0]
            more = f" and {len(unlike) - 1} more" if len(unlike) > 1 else ""
            theirs = other.packages.get(name) or "none"
            return f"{name} {theirs}, here {self.packages[name] or 'none'}{more}"
        return "" if self.code == other.code else "another version of onesentence/study"


@dataclass(frozen=True)
class Lease:
    """The sign of a living head: a Dask variable that holds the head's id and a number that grows.

    name: of the variable, the same for each head of one repository, since only one runs at a time.
    """

    name: str
    head: str


@dataclass(frozen=True)
class Outcome:
    """How a variant ended on a worker.

    state: "done", "failed", "unfit" (the worker must run none) or "ended" (the head is gone, or wants it so);
    text: the log's end, or what makes the worker unfit; place: the worker's address; cost: of `costs`, of a
    variant that is done.
    """

    state: Literal["done", "failed", "unfit", "ended"]
    text: str
    place: str
    cost: dict[str, Any] | None = None


@dataclass(frozen=True)
class Report:
    """What a worker says of itself: its profile, the variants in its clones, and its problems in words."""

    profile: Profile
    lasts: tuple[str, ...]
    problems: tuple[str, ...]


def profile(pins: tuple[str, ...]) -> Profile:
    """The profile of this process. pins: names of packages."""
    packages = {}
    for name in pins:
        try:
            packages[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            packages[name] = ""
    code = hashlib.sha256()
    for module in ("clone", "costs", "guard", "remote_run", "remotes", "worker"):
        code.update((CODE / f"{module}.py").read_bytes())
    return Profile(platform.python_version(), packages, code.hexdigest())


def pinned(text: str) -> tuple[str, ...]:
    """Names of the packages that the text of a requirements.txt pins, sorted."""
    lines = (line.partition("#")[0].partition(";")[0].strip() for line in text.splitlines())
    return tuple(sorted(line.partition("==")[0].strip() for line in lines if "==" in line))


def own_profile() -> Profile:
    """The profile of the head: of the packages that requirements.txt of this folder pins."""
    return profile(pinned(Path(REQUIREMENTS).read_text(encoding="utf-8")))


def work_folder(dask_worker: Any, url: str) -> Path:
    """The folder of this machine's clones of a repository, below the worker's `--local-directory`.

    It outlives the worker: the one that replaces it goes on there. The host's name is part of the path
    because machines may share the folder.
    """
    shared = Path(dask_worker.local_directory).parent
    return shared / "onesentence" / socket.gethostname() / hashlib.sha256(url.encode()).hexdigest()[:12]


async def report(pins: tuple[str, ...], url: str, options: dict[str, str], dask_worker: Any = None) -> Report:
    """What the worker says of itself. It runs beside the worker's event loop, which must not wait.

    dask_worker: Dask passes the worker.
    """
    work = work_folder(dask_worker, url)
    return await asyncio.to_thread(_report, pins, work, url, options)


def _report(pins: tuple[str, ...], work: Path, url: str, options: dict[str, str]) -> Report:
    lasts = tuple(sorted({Clone(folder, "").last() for folder in clones(work)} - {""}))
    return Report(profile(pins), lasts, tuple(problems(url, options)))


def problems(url: str, options: dict[str, str]) -> list[str]:
    """What keeps this machine from using the remotes, in words."""
    found = []
    asking = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes"}
    command = ["git", "ls-remote", "--quiet", "--exit-code", "--", url, "HEAD"]
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=REACHED,
            stdin=subprocess.DEVNULL,
            env={**asking, **os.environ},
        )
    except subprocess.TimeoutExpired:
        found.append(f"git remote {url}: no answer in {REACHED:.0f} seconds")
    except FileNotFoundError:
        found.append("git is not installed")
    else:
        if done.returncode and done.stderr.strip():  # an empty remote has no HEAD, and that is no error
            found.append(f"git remote {url}: {done.stderr.strip().splitlines()[-1]}")
    place = options["url"]
    if is_folder(place):
        if not Path(place).is_dir():
            found.append(
                f"DVC's remote {place}: this folder does not exist there; use a shared one, or a URL"
            )
        elif not os.access(place, os.W_OK):
            found.append(f"DVC's remote {place}: this folder cannot be written to there")
    else:
        missing = missing_plugin(place)
        if missing:
            found.append(f"DVC's remote {place}: the package {missing} is not installed there")
    return found


def missing_plugin(url: str) -> str:
    """The package of a DVC plugin that a URL needs and that is not installed; "" if there is none."""
    from dvc.fs import registry

    scheme = url.partition("://")[0]
    try:
        return f"dvc-{scheme}" if registry[scheme].get_missing_deps() else ""
    except (ImportError, KeyError):
        return f"dvc-{scheme}"


def clones(work: Path) -> list[Path]:
    """The clones in a work folder, in their order."""
    found = [folder for folder in work.glob("clone-*") if folder.is_dir()]
    return sorted(found, key=lambda folder: int(folder.name.partition("-")[2]))


def locked(folder: Path) -> IO[str] | None:
    """A lock on a clone, held while the file is open here or in a child; None if another process has it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def claim(work: Path, name: str, after: str) -> tuple[Path, IO[str]]:
    """The clone to run a variant in, with a lock on it.

    It is the one that the variant ran in before, else the one where `after` did, else any, else a new one.
    Where the variant's last run is just ending in its clone, this waits for that end.
    """
    deadline = time.monotonic() + guard.PATIENCE + 5
    while True:
        lasts = {folder: Clone(folder, "").last() for folder in clones(work)}
        for folder in sorted(lasts, key=lambda each: (lasts[each] != name, lasts[each] != after)):
            lock = locked(folder)
            if lock is not None:
                return folder, lock
            if lasts[folder] == name and time.monotonic() < deadline:
                break  # its last run is ending: wait
        else:
            number = 0
            while (work / f"clone-{number}").exists() or (lock := locked(work / f"clone-{number}")) is None:
                number += 1
            return work / f"clone-{number}", lock
        time.sleep(0.2)


def environment() -> dict[str, str]:
    """The variables of this process without those that Dask sets for its own computations, such as one
    thread for each library.
    """
    own = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    return {key: value for key, value in os.environ.items() if value != str(own.get(key))}


class Watch:
    """Watches a lease."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.variable = Variable(lease.name, client=get_client())
        self.beat: Any = None
        self.since = time.monotonic()

    def lost(self) -> bool:
        """Whether the head has given the lease up, was replaced, or has been silent for LEASE seconds."""
        try:
            head, beat = self.variable.get(timeout=POLL)
        except OSError:  # no answer in time, or no connection
            return time.monotonic() - self.since > LEASE
        if head != self.lease.head:
            return True
        if beat != self.beat:
            self.beat, self.since = beat, time.monotonic()
        return time.monotonic() - self.since > LEASE


def run_variant(task: Assignment, lease: Lease, expected: Profile, after: str, neighbours: int) -> Outcome:
    """Run a variant on this worker; its experiment is in the git remote if it is "done".

    expected: the head's profile; after: the variant that this worker ran last, or ""; neighbours: number of
    workers on this machine, with which its cores are shared. Raises WorkerTroubleError where the machine or a
    remote is at fault.
    """
    place = get_worker().address
    difference = expected.difference(profile(tuple(expected.packages)))
    if difference:
        return Outcome("unfit", difference, place)
    watch = Watch(lease)
    work = work_folder(get_worker(), task.url)
    folder, lock = claim(work, task.name, after)
    with lock:
        threads = max(1, min(THREADS, (os.cpu_count() or 1) // max(1, neighbours)))
        file, log = work / f"{folder.name}.json", work / f"{folder.name}.log"
        file.write_text(replace(task, threads=threads).text())
        started = time.monotonic()
        status = supervise([sys.executable, "-c", START, str(ROOT), str(file), str(folder)], log, lock, watch)
        seconds = time.monotonic() - started
        cost = cost_of_run(folder / task.pipeline, seconds, neighbours) if status == 0 else None
    text = log.read_text(encoding="utf-8", errors="replace")[-SENT_BACK:]
    if status is None:
        return Outcome("ended", text, place)
    if status not in (0, 1):
        raise WorkerTroubleError(
            f"exit code {status} on {socket.gethostname()}; its log ends with:\n{text[-2_000:]}"
        )
    return Outcome("failed" if status else "done", f"[ran on {socket.gethostname()}]\n{text}", place, cost)


def supervise(command: list[str], log: Path, lock: IO[str], watch: Watch) -> int | None:
    """Run a command in a process group of its own; returns its exit code, or None where the lease was lost.

    A guard ends the group when this process dies, and holds the clone's lock until then.
    """
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, guard.__file__, *command],
            cwd=log.parent,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.fileno()],
            start_new_session=True,
        )
    try:
        while True:
            try:
                return process.wait(timeout=POLL)
            except subprocess.TimeoutExpired:
                if watch.lost():
                    return None
    finally:
        if process.stdin:
            process.stdin.close()  # the guard ends the group
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=guard.PATIENCE + 5)
        if process.returncode is None or process.returncode < 0:  # the guard hangs, or was killed
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def drop(url: str, dask_worker: Any = None) -> None:
    """Delete this machine's clones of a repository, their cache and checkpoints, except what others use.

    dask_worker: Dask passes the worker.
    """
    await asyncio.to_thread(_drop, work_folder(dask_worker, url))


def _drop(work: Path) -> None:
    busy = False
    for folder in clones(work):
        lock = locked(folder)
        if lock is None:
            busy = True
            continue
        with lock:
            shutil.rmtree(folder, ignore_errors=True)
    if not busy:
        for name in ("cache", "checkpoints"):
            shutil.rmtree(work / name, ignore_errors=True)
