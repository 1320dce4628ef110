"""Jobs that run a study's variants as DVC experiments. Each job has a clone of its own."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.files import atomic_write
from onesentence.study.comparison import STUDIES
from onesentence.study.declaration import QUICK, option
from onesentence.study.experiments import git, make_the_only
from onesentence.study.figures import PLOTS
from onesentence.study.variants import Study

WORK = Path(".dvc/tmp/studies")
CLONES = "clone-"
# Environment variable that marks the processes of variants, by the variant's name.
VARIANT = "ONESENTENCE_VARIANT"
LAST = ".dvc/tmp/variant"  # in a clone: "REF NAME" of the variant that runs or last ran there
WRITTEN = (f"{STUDIES}/", f"{PLOTS}/", "docs/decisions.md", "docs/studies.md")  # comparisons write these
TAIL = 12  # lines of a failed variant's log
# Sections of params.yaml in the order in which the graph's stages read them.
READ_IN_ORDER = "pretrain data prompt model smoke lora train seed generate evaluate report export".split()
REDRAWN = 5  # seconds between two states of the progress bar: a log file stores every one
# In the log of a job that lost a race: two jobs write the same output into the cache at once, and DVC asks
# before it replaces a file in the workspace that it cannot find in the cache. Such a job runs again from its
# last stage.
RACE = "without a confirmation"
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
    git("fetch", "--quiet", str(clone), f"+{ref}:{ref}")
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


class Job:
    """A clone of a commit in which variants run, one after the other. It shares git's objects and DVC's
    cache.

    The clone of a killed study is used again, with the stages that had ended there.
    """

    def __init__(self, number: int, commit: str, threads: int) -> None:
        self.folder = WORK / f"{CLONES}{number}"
        self.name = ""
        self.raced: set[str] = set()
        self.process: subprocess.Popen[bytes] | None = None
        self.commit = commit
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "OMP_NUM_THREADS": str(threads),
            "ONESENTENCE_WORKERS": str(threads),  # of prepare and tokenize: jobs share the cores
            "OMP_WAIT_POLICY": "PASSIVE",  # a waiting thread must not occupy the other job's core
        }
        if not self.usable():
            shutil.rmtree(self.folder, ignore_errors=True)
            git("clone", "--quiet", "--shared", "--no-checkout", ".", str(self.folder))
            self.git("checkout", "--quiet", "--detach", commit)
            local = Path(".dvc/config.local")
            if local.is_file():
                shutil.copy(local, self.folder / local)
            self.dvc("cache", "dir", "--local", output_of_dvc("cache", "dir"))
            pointers = self.tracked()
            if pointers:
                self.dvc("checkout", "--quiet", *pointers)
            (self.folder / LAST).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / LAST).touch()

    def tracked(self) -> list[str]:
        """The .dvc files of this DVC repository's inputs; a preset's pipeline is another repository."""
        others = [name.removesuffix(".dvc/config") for name in self.git("ls-files", "*/.dvc/config").split()]
        return [name for name in self.git("ls-files", "*.dvc").split() if not name.startswith(tuple(others))]

    def usable(self) -> bool:
        """Whether a killed study left a clone of this commit; removes locks and half-made commits from it."""
        if not (self.folder / LAST).is_file():  # written once the clone was complete
            return False
        for lock in (self.folder / ".git").rglob("*.lock"):
            lock.unlink()
        for name in ("rwlock", "rwlock.lock", "lock", "exps"):
            leftover = self.folder / ".dvc/tmp" / name
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        try:
            if self.git("rev-parse", "HEAD").strip() != self.commit:
                # The kill may have come while DVC committed an experiment on top of the commit.
                parent = self.git("rev-parse", "HEAD^").strip()
                if parent != self.commit:
                    return False
            # The user has the experiments that count, and DVC runs none whose name exists in the clone.
            for ref in self.git("for-each-ref", "--format=%(refname)", "refs/exps").split():
                self.git("update-ref", "-d", ref)
            self.git("update-ref", "--no-deref", "HEAD", self.commit)
            self.git("reset", "--quiet")
            outputs = (f":(exclude){path}" for path in ("dvc.lock", "metrics", "plots"))
            self.git("checkout", "--quiet", "--force", self.commit, "--", ".", *outputs)
        except UserError:
            return False
        return True

    def last(self) -> str:
        """The variant that ran here last, perhaps until a kill: it can go on from its stages here."""
        return (self.folder / LAST).read_text().partition(" ")[2]

    def ref(self, name: str) -> str:
        """The ref of an experiment of the clone's commit."""
        return f"refs/exps/{self.commit[:2]}/{self.commit[2:]}/{name}"

    def git(self, *arguments: str) -> str:
        """The output of git in the clone."""
        return git("-C", str(self.folder), *arguments)

    def dvc(self, *arguments: str) -> None:
        """Run dvc in the clone."""
        output_of_dvc("--cd", str(self.folder), *arguments)

    def start(self, name: str, values: dict[str, object]) -> None:
        """Start a variant; its output goes to its log."""
        self.name = name
        (self.folder / LAST).write_text(f"{self.ref(name)} {name}")
        # The outputs of the last variant stay: DVC skips the stages that this one shares with it.
        self.git("checkout", "--quiet", "--force", self.commit, "--", params.PARAMS_FILE.as_posix())
        command = [sys.executable, "-m", "dvc", "exp", "run", "--name", name]
        for key, value in values.items():
            command += ["-S", option(key, value)]
        with log_of(name).open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self.environment, VARIANT: name},
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
            self.git("checkout", "--quiet", "--force", "--detach", self.commit)
            return False
        fetch(self.folder, self.ref(self.name))
        return True

    def compare(self, study: str, quick: bool, partial: bool) -> None:
        """Compare in the clone, with the code that the variants ran with, and copy the results out of it."""
        (self.folder / LAST).write_text(
            ""
        )  # experiments that come in now are the user's: none is to be fetched back
        self.git("checkout", "--quiet", "--force", self.commit, "--", params.PARAMS_FILE.as_posix())
        self.git("fetch", "--quiet", str(Path.cwd()), "+refs/exps/*:refs/exps/*")
        for file in STUDIES.glob("*.json"):  # a study may borrow from one that is not committed yet
            (self.folder / STUDIES).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, self.folder / file)
        compare(study, quick, partial, self.folder)
        name = f"{QUICK if quick else ''}{study}"
        for file in (STUDIES / f"{name}.json", PLOTS / f"{name}.csv", PLOTS / f"{name}.svg"):
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as temporary:
                shutil.copy(self.folder / file, temporary)


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


def output_of_dvc(*arguments: str) -> str:
    """The output of a dvc command; a UserError where it fails."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise UserError(f"study: dvc {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def log_of(name: str) -> Path:
    """The file with a variant's output."""
    return WORK / f"{name}.log"


def read_log(name: str) -> str:
    """The text of a variant's log. Bytes that are not UTF-8 are replaced: any program may print there."""
    return log_of(name).read_text(encoding="utf-8", errors="replace")


def tail_of(name: str) -> str:
    """The last lines of a variant's log, without progress bars."""
    lines = [line.rpartition("\r")[2].rstrip() for line in read_log(name).splitlines()]
    return "\n    ".join([line for line in lines if line][-TAIL:])


def failure_of(name: str) -> str:
    """The message about a variant that failed: the place of its log, and the log's end."""
    return f"study: {name} failed; its log {log_of(name)} ends with:\n    {tail_of(name)}"


def collected(job: Job, bar: "tqdm[Any]") -> list[str]:
    """Fetch the experiment of a job that has ended; returns its name where it failed, and prints why."""
    succeeded = job.collect()
    bar.update()
    if succeeded:
        return []
    bar.write(failure_of(job.name))
    return [job.name]


def shared_stages(values: dict[str, object], others: dict[str, object]) -> int:
    """How far down the graph two variants are equal: the number of sections of params.yaml before one
    differs.
    """
    keys = {key for key in {**values, **others} if values.get(key) != others.get(key)}
    return min((READ_IN_ORDER.index(key.partition(".")[0]) for key in keys), default=len(READ_IN_ORDER))


def next_of(waiting: list[str], last: str, held: set[str], experiments: dict[str, dict[str, object]]) -> str:
    """The variant that a job runs next.

    It is the variant that was killed there; else the first of those that share most stages with the last one,
    whose outputs its clone still has. held: variants that were killed in other jobs' clones, where more of
    them is done; they come last.
    """
    if last in waiting:
        return last
    free = [name for name in waiting if name not in held] or waiting
    if last not in experiments:
        return free[0]
    return max(free, key=lambda name: shared_stages(experiments[name], experiments[last]))


def run_missing(study: Study, missing: dict[str, dict[str, Any]], jobs: int) -> tuple[list[str], Job]:
    """Run experiments, `jobs` at a time; returns the names of those that failed, and a clone to compare
    in.
    """
    from onesentence.core.runtime import THREADS

    threads = max(1, min(THREADS, (os.cpu_count() or 1) // jobs))
    commit = git("rev-parse", "HEAD").strip()
    waiting, failed, drawn = list(missing), [], 0.0
    experiments = study.experiments()
    whole = len(experiments)
    bar = tqdm(
        total=whole, initial=whole - len(missing), desc=f"study {study.name}", unit="variant", smoothing=0
    )
    try:
        workers = [Job(number, commit, threads) for number in range(min(jobs, len(missing)))]
        while waiting or any(job.process for job in workers):
            for job in workers:
                if job.ended() and job.lost_a_race():
                    job.start(job.name, missing[job.name])
                elif job.ended():
                    failed += collected(job, bar)
                if waiting and job.process is None:
                    held = {other.last() for other in workers if other is not job}
                    name = next_of(waiting, job.last(), held, experiments)
                    waiting.remove(name)
                    job.start(name, missing[name])
            bar.set_postfix_str(", ".join(job.name for job in workers if job.process), refresh=False)
            if time.monotonic() - drawn >= REDRAWN:
                drawn = time.monotonic()
                bar.refresh()
            time.sleep(0.5)
    finally:
        end_variants()
        bar.close()
    return failed, workers[0]


def require_committed() -> None:
    """Raise a UserError where files that git tracks were changed: an experiment belongs to a commit."""
    changed = git("status", "--porcelain", "--untracked-files=no").splitlines()
    changed = [line for line in changed if not line[3:].startswith(WRITTEN)]
    if changed:
        raise UserError(
            f"study: {len(changed)} tracked files are changed, such as {changed[0][3:]}; commit them first, "
            "since variants run on the committed files"
        )
