"""Jobs that run a study's variants as DVC experiments on this machine. Each job has a clone of its own."""

import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.files import atomic_write
from onesentence.study.clone import LAST, RACE, VARIANT, Clone, output_of_dvc, variables_of
from onesentence.study.costs import FOLDER as COSTS
from onesentence.study.costs import TRAIN, cost_of_run
from onesentence.study.experiments import QUICK, git, make_the_only, pipeline_here
from onesentence.study.figures import PLOTS
from onesentence.study.pool import WORK, Ended, log_of, read_log
from onesentence.study.results import STUDIES
from onesentence.study.scores import SCORES

CLONES = "clone-"
KEPT_CHECKPOINTS = Path("models/checkpoints")
WRITTEN = (f"{STUDIES}/", f"{PLOTS}/")  # comparisons write these in their pipeline, and those at the top
PAGES = ("docs/decisions.md", "docs/studies", f"{COSTS}/")
PATIENCE = 10  # seconds that a variant has to end by itself


@contextmanager
def alone() -> Iterator[None]:
    """Allow one study at a time in all worktrees: two would start the same variants."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (Path(git("rev-parse", "--git-common-dir").strip()) / "study.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError("study: another study is running in this repository; wait for its end") from error
        yield


def inside() -> list[psutil.Process]:
    """Processes of variants of this study or a killed one: they run in a clone and have VARIANT set."""
    processes, folder = [], WORK.resolve()
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) and VARIANT in process.environ():
                processes.append(process)
        except (psutil.Error, OSError):  # it has ended, or is another user's
            continue
    return processes


def end_variants() -> int:
    """End the processes of variants and return their number. The clones stay as they are."""
    running = inside()
    for process in running:
        with_signal(process, signal.SIGTERM)
    psutil.wait_procs(running, timeout=PATIENCE)
    for process in inside():  # those that ignored it, or started since
        with_signal(process, signal.SIGKILL)
    return len(running)


def fetch_finished() -> None:
    """Fetch from each clone the last experiment that ran there, which a killed study may not have fetched.

    Other experiments in a clone are copies of the user's, who may have replaced or removed them since.
    """
    for clone in WORK.glob(f"{CLONES}*"):
        last = clone / LAST
        ref = last.read_text().partition(" ")[0] if last.is_file() else ""
        if ref and git("-C", str(clone), "for-each-ref", ref, check=False):
            fetch(clone, ref)


def fetch(clone: Path, ref: str) -> None:
    """Move an experiment from a clone into this repository; it takes its name from older ones."""
    git("fetch", "--quiet", str(clone.resolve()), f"+{ref}:{ref}")
    make_the_only(ref)
    git("-C", str(clone), "update-ref", "-d", ref)


def drop_clones() -> None:
    """Delete the clones."""
    for clone in WORK.glob(f"{CLONES}*"):
        shutil.rmtree(clone, ignore_errors=True)


def with_signal(process: psutil.Process, number: int) -> None:
    """Send a signal to a process, unless it has ended."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


class Job(Clone):
    """A clone on this machine that runs one variant at a time. It shares git's objects and DVC's cache.

    inputs: whether it needs what the stages read; a comparison does not.
    """

    def __init__(self, number: int, commit: str, threads: int, inputs: bool = True) -> None:
        super().__init__(WORK / f"{CLONES}{number}", commit, pipeline_here())
        self.name = ""
        self.raced: set[str] = set()
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0  # when the variant was (time.monotonic)
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "OMP_NUM_THREADS": str(threads),
            "ONESENTENCE_WORKERS": str(threads),  # of prepare and tokenize: jobs share the cores
            "OMP_WAIT_POLICY": "PASSIVE",  # a waiting thread must not occupy the other job's core
        }
        if not self.usable():
            self.create(git("rev-parse", "--show-toplevel").strip(), "--shared")
            local = Path(".dvc/config.local")
            if local.is_file():
                shutil.copy(local, self.folder / local)  # of this pipeline, a preset's or the default
            # A path in the repository: DVC writes ASCII alone into its configuration, which that of the
            # repository may not be.
            self.dvc("cache", "dir", "--local", os.path.relpath(output_of_dvc("cache", "dir"), self.folder))
            pointers = self.tracked()
            if pointers and inputs:
                self.dvc("checkout", "--quiet", *pointers)
            if inputs:
                self.complete()

    def start(self, name: str, values: dict[str, Any]) -> None:
        """Start a variant; its output goes to its log."""
        if self.last() != name:
            (self.folder / TRAIN).unlink(missing_ok=True)  # of the variant before
        self.name, self.started = name, time.monotonic()
        command = self.experiment(name, values)
        with log_of(name).open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self.environment, **variables_of(name, KEPT_CHECKPOINTS)},
                start_new_session=True,  # Ctrl-C reaches only this program, which ends its variants itself
            )

    def ended(self) -> bool:
        """Whether a variant ran here and has ended."""
        return self.process is not None and self.process.poll() is not None

    def failed(self) -> bool:
        """Whether the variant that ran here ended with an error."""
        return self.process is not None and self.process.returncode != 0

    def lost_a_race(self) -> bool:
        """Whether it failed because another job stored the same output at the same moment.

        True once for each variant: a second failure is reported.
        """
        lost = self.failed() and RACE in read_log(self.name)
        first = lost and self.name not in self.raced
        self.raced.add(self.name)
        return first

    def collect(self) -> bool:
        """Fetch the experiment that has ended; returns whether it succeeded."""
        failed = self.failed()
        self.process = None
        if failed:
            self.after_failure()
            return False
        fetch(self.root, self.ref(self.name))
        return True


def compare_in(clone: Clone, study: str, quick: bool, partial: bool) -> None:
    """Compare in a clone, with the code that the variants ran with, and copy the results out of it."""
    # Experiments that come in now are the user's: none is to be fetched back.
    last = clone.root / LAST
    last.parent.mkdir(parents=True, exist_ok=True)  # no variant has run in the clone of a scheduler's head
    last.write_text("")
    clone.git("checkout", "--quiet", "--force", clone.commit, "--", params.PARAMS_FILE.as_posix())
    clone.git("fetch", "--quiet", git("rev-parse", "--show-toplevel").strip(), "+refs/exps/*:refs/exps/*")
    name = f"{QUICK if quick else ''}{study}"
    scores = SCORES / f"{name}.parquet"
    # As they are here: a study may borrow from one that is not committed yet, and runs may be there as scores
    # alone, or be removed to run again.
    shutil.rmtree(clone.folder / SCORES, ignore_errors=True)
    for file in (*STUDIES.glob("*.json"), *SCORES.glob("*.parquet")):
        (clone.folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, clone.folder / file)
    compare(study, quick, partial, clone.folder)
    for file in (scores, STUDIES / f"{name}.json", PLOTS / f"{name}.csv", PLOTS / f"{name}.svg"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            shutil.copy(clone.folder / file, temporary)


def compare(study: str, quick: bool, partial: bool, folder: Path = Path()) -> None:
    """Run `onesentence compare` in a folder; exits with its status where it fails."""
    command = (
        [sys.executable, "-m", "onesentence", "compare", study]
        + ["--quick"] * quick
        + ["--partial"] * partial
    )
    status = subprocess.run(command, cwd=folder, check=False).returncode
    if status:
        sys.exit(status)


def clones_for(count: int, missing: Collection[str]) -> list[int]:
    """The numbers of `count` clones: first those in which a missing variant was killed.

    A stage that DVC has recorded there would run again in another clone, training from its first step: the
    stages after it have removed its checkpoints.
    """
    lasts = {
        int(folder.name.removeprefix(CLONES)): Clone(folder, "").last() for folder in WORK.glob(f"{CLONES}*")
    }
    started = sorted(number for number, last in lasts.items() if last in missing)
    others = (number for number in itertools.count() if number not in started)
    return sorted([*started, *itertools.islice(others, count)][:count])


class Jobs:
    """The pool of this machine: `count` jobs, each with a clone of the commit.

    missing: the variants that will run.
    """

    def __init__(self, count: int, commit: str, missing: Collection[str]) -> None:
        from onesentence.core.runtime import THREADS

        threads = max(1, min(THREADS, (os.cpu_count() or 1) // count))
        self.jobs = {str(number): Job(number, commit, threads) for number in clones_for(count, missing)}
        self.values: dict[str, dict[str, Any]] = {}

    def places(self) -> list[str]:
        return [place for place, job in self.jobs.items() if job.process is None]

    def last(self, place: str) -> str:
        return self.jobs[place].last()

    def held(self, place: str) -> set[str]:
        return {job.last() for other, job in self.jobs.items() if other != place}

    def start(self, place: str, name: str, values: dict[str, Any]) -> None:
        self.values[name] = values
        self.jobs[place].start(name, values)

    def ended(self) -> list[Ended]:
        ended = []
        for job in self.jobs.values():
            if job.ended() and job.lost_a_race():
                job.start(job.name, self.values[job.name])
            elif job.ended():
                seconds = time.monotonic() - job.started
                done = job.collect()
                cost = cost_of_run(job.folder, seconds, len(self.jobs)) if done else None
                ended.append(Ended(job.name, "done" if done else "failed", cost))
        return ended

    def running(self) -> list[str]:
        return [job.name for job in self.jobs.values() if job.process]

    def news(self) -> list[str]:
        return []

    def close(self) -> None:
        end_variants()

    def clone(self) -> Job:
        return next(iter(self.jobs.values()))

    def drop(self) -> None:
        drop_clones()


def require_committed() -> None:
    """Raise a UserError where files that git tracks were changed: an experiment belongs to a commit."""
    changed = git("status", "--porcelain", "--untracked-files=no").splitlines()
    here = pipeline_here()
    written = (*PAGES, *(f"{here}/{folder}" if here else folder for folder in WRITTEN))
    changed = [line for line in changed if not line[3:].startswith(written)]
    if changed:
        raise UserError(
            f"study: {len(changed)} tracked files are changed, such as {changed[0][3:]}; commit them first, "
            "since variants run on the committed files"
        )
