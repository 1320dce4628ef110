"""Jobs that run a study's variants as DVC experiments, each in a clone of its own."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

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
CHECKPOINTS = "STUDY_CHECKPOINTS"  # a folder for `train`, of each variant: two may train the same
KEPT_CHECKPOINTS = Path("models/checkpoints/studies")
LAST = ".dvc/tmp/variant"  # in a clone: the variant that runs or ran there, behind the ref of its experiment
WRITTEN = (f"{STUDIES}/", f"{PLOTS}/", "docs/decisions.md", "docs/studies.md")  # by comparisons
TAIL = 12  # lines of a failed variant's log
# Sections of params.yaml in the order in which the graph's stages read them.
READ_IN_ORDER = "pretrain data prompt model smoke lora train seed generate evaluate report".split()
REDRAWN = 5  # seconds between two states of the bar: a log file holds them all
# Two jobs that write the same output into the cache at once: DVC finds the object half there, takes the file
# in the workspace for one that is nowhere else, and asks. It runs again, from the stages that its clone has.
RACE = "without a confirmation"
PATIENCE = 10  # seconds that a variant has to end by itself


@contextmanager
def alone():
    """One study at a time, worktrees included: two would start the same variants."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (Path(git("rev-parse", "--git-common-dir").strip()) / "study.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError("study: another one is running in this repository; wait for it") from error
        yield


def inside() -> list[psutil.Process]:
    """Processes of variants, from this study or a killed one: those that work in a clone with CHECKPOINTS
    set.
    """
    found, folder = [], WORK.resolve()
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) and CHECKPOINTS in process.environ():
                found.append(process)
        except (psutil.Error, OSError):  # gone, or another user's
            continue
    return found


def end_variants() -> int:
    """End what works in a clone; how many processes there were. The clones stay as they are."""
    there = inside()
    for process in there:
        with_signal(process, signal.SIGTERM)
    psutil.wait_procs(there, timeout=PATIENCE)
    for process in inside():  # what did not listen, or was started since
        with_signal(process, signal.SIGKILL)
    return len(there)


def fetch_finished() -> None:
    """Fetch from each clone the experiment that a killed study did not come to fetch: the last that ran
    there. Others in it are copies of the user's, who may have replaced or removed them since.
    """
    for clone in WORK.glob(f"{CLONES}*"):
        last = clone / LAST
        ref = last.read_text().partition(" ")[0] if last.is_file() else ""
        if ref and git("-C", str(clone), "for-each-ref", ref, check=False):
            fetch(clone, ref)


def fetch(clone: Path, ref: str) -> None:
    """Take an experiment out of a clone, in place of older ones of its name."""
    git("fetch", "--quiet", str(clone), f"+{ref}:{ref}")
    make_the_only(ref)
    git("-C", str(clone), "update-ref", "-d", ref)


def drop_clones() -> None:
    """Drop the clones."""
    for clone in WORK.glob(f"{CLONES}*"):
        shutil.rmtree(clone, ignore_errors=True)


def with_signal(process: psutil.Process, number: int) -> None:
    """Send it, unless the process has gone."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


class Job:
    """Where variants run, one after the other: a clone of a commit that shares git's objects and DVC's
    cache. That of a killed study is used again: stages that had ended there have ended.
    """

    def __init__(self, number: int, commit: str, threads: int) -> None:
        self.folder = WORK / f"{CLONES}{number}"
        self.name = ""
        self.raced: set[str] = set()
        self.process: subprocess.Popen | None = None
        self.commit = commit
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",  # a waiting thread must not take the other job's core
        }
        if not self.usable():
            shutil.rmtree(self.folder, ignore_errors=True)
            git("clone", "--quiet", "--shared", "--no-checkout", ".", str(self.folder))
            self.git("checkout", "--quiet", "--detach", commit)
            local = Path(".dvc/config.local")
            if local.is_file():
                shutil.copy(local, self.folder / local)
            self.dvc("cache", "dir", "--local", output_of_dvc("cache", "dir"))
            given = self.tracked()
            if given:
                self.dvc("checkout", "--quiet", *given)
            (self.folder / LAST).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / LAST).touch()

    def tracked(self) -> list[str]:
        """Pointers of the inputs of this DVC repository; a preset's pipeline is another one, with its own."""
        others = [name.removesuffix(".dvc/config") for name in self.git("ls-files", "*/.dvc/config").split()]
        return [name for name in self.git("ls-files", "*.dvc").split() if not name.startswith(tuple(others))]

    def usable(self) -> bool:
        """Whether there is a clone of this commit from a killed study; it is freed of what the kill left."""
        if not (self.folder / LAST).is_file():  # written when the clone was whole
            return False
        for lock in (self.folder / ".git").rglob("*.lock"):
            lock.unlink()
        for name in ("rwlock", "rwlock.lock", "lock", "exps"):
            found = self.folder / ".dvc/tmp" / name
            shutil.rmtree(found) if found.is_dir() else found.unlink(missing_ok=True)
        try:
            if self.git("rev-parse", "HEAD").strip() != self.commit:
                at = self.git("rev-parse", "HEAD^").strip()  # an experiment's commit that was being made
                if at != self.commit:
                    return False
            # The user has those that count, and DVC runs none whose name another has here already.
            for ref in self.git("for-each-ref", "--format=%(refname)", "refs/exps").split():
                self.git("update-ref", "-d", ref)
            self.git("update-ref", "--no-deref", "HEAD", self.commit)
            self.git("reset", "--quiet")
            made = (f":(exclude){path}" for path in ("dvc.lock", "metrics", "plots"))
            self.git("checkout", "--quiet", "--force", self.commit, "--", ".", *made)
        except UserError:
            return False
        return True

    def last(self) -> str:
        """The variant that ran here last, before a kill perhaps: what it had made is of use to it."""
        return (self.folder / LAST).read_text().partition(" ")[2]

    def ref(self, name: str) -> str:
        """Where DVC keeps an experiment of the clone's commit."""
        return f"refs/exps/{self.commit[:2]}/{self.commit[2:]}/{name}"

    def git(self, *arguments: str) -> str:
        """What git prints in the clone."""
        return git("-C", str(self.folder), *arguments)

    def dvc(self, *arguments: str) -> None:
        """Run dvc in the clone."""
        output_of_dvc("--cd", str(self.folder), *arguments)

    def start(self, name: str, values: dict[str, object]) -> None:
        """Start a variant; its output goes to its log."""
        self.name = name
        (self.folder / LAST).write_text(f"{self.ref(name)} {name}")
        # What the last variant made stays: stages that this one shares with it are skipped.
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
                env={**self.environment, CHECKPOINTS: str((KEPT_CHECKPOINTS / name).resolve())},
                start_new_session=True,  # Ctrl-C is for this program, which ends its variants itself
            )

    def ended(self) -> bool:
        """Whether a variant ran here and has ended."""
        return self.process is not None and self.process.poll() is not None

    def lost_a_race(self) -> bool:
        """Whether it failed because another job stored the same output at the same moment: True once."""
        lost = self.process.returncode != 0 and RACE in read_log(self.name)
        first = lost and self.name not in self.raced
        self.raced.add(self.name)
        return first

    def collect(self) -> bool:
        """Fetch the experiment that has ended; whether it succeeded."""
        failed = self.process.returncode != 0
        self.process = None
        if failed:
            self.git("checkout", "--quiet", "--force", "--detach", self.commit)
            return False
        fetch(self.folder, self.ref(self.name))
        shutil.rmtree(KEPT_CHECKPOINTS / self.name, ignore_errors=True)
        return True

    def compare(self, study: str, quick: bool, partial: bool) -> None:
        """Compare in the clone, with the code that the variants ran with, and take the results out of it."""
        (self.folder / LAST).write_text("")  # what comes into it now is the user's, and stays with the user
        self.git("checkout", "--quiet", "--force", self.commit, "--", params.PARAMS_FILE.as_posix())
        self.git("fetch", "--quiet", str(Path.cwd()), "+refs/exps/*:refs/exps/*")
        for file in STUDIES.glob("*.json"):  # one may borrow from another that is not committed yet
            (self.folder / STUDIES).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, self.folder / file)
        compare(study, quick, partial, self.folder)
        name = f"{QUICK if quick else ''}{study}"
        for file in (STUDIES / f"{name}.json", PLOTS / f"{name}.csv", PLOTS / f"{name}.svg"):
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as temporary:
                shutil.copy(self.folder / file, temporary)


def compare(study: str, quick: bool, partial: bool, folder: Path = Path()) -> None:
    """`onesentence.commands.compare` in a folder; exits with its status where it fails."""
    command = (
        [sys.executable, "-m", "onesentence", "compare", study]
        + ["--quick"] * quick
        + ["--partial"] * partial
    )
    status = subprocess.run(command, cwd=folder, check=False).returncode
    if status:
        sys.exit(status)


def output_of_dvc(*arguments: str) -> str:
    """What dvc prints; a UserError where it fails."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise UserError(f"study: dvc {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def log_of(name: str) -> Path:
    """What a variant printed."""
    return WORK / f"{name}.log"


def read_log(name: str) -> str:
    """A variant's log; what programs print there need not be UTF-8."""
    return log_of(name).read_text(encoding="utf-8", errors="replace")


def tail_of(name: str) -> str:
    """The last lines of a variant's log, progress bars left out."""
    lines = [line.rpartition("\r")[2].rstrip() for line in read_log(name).splitlines()]
    return "\n    ".join([line for line in lines if line][-TAIL:])


def failure_of(name: str) -> str:
    """What is said of a variant that failed: where its log is, and how it ends."""
    return f"study: {name} failed, its log is {log_of(name)}:\n    {tail_of(name)}"


def collected(job: Job, bar: tqdm) -> list[str]:
    """Fetch what a job has made; its name where it failed, which the bar then says."""
    succeeded = job.collect()
    bar.update()
    if succeeded:
        return []
    bar.write(failure_of(job.name))
    return [job.name]


def shared_stages(values: dict[str, object], others: dict[str, object]) -> int:
    """How far down the graph two variants are the same, in sections of params.yaml before one differs."""
    keys = {key for key in {**values, **others} if values.get(key) != others.get(key)}
    return min((READ_IN_ORDER.index(key.partition(".")[0]) for key in keys), default=len(READ_IN_ORDER))


def next_of(waiting: list[str], last: str, held: set[str], experiments: dict[str, dict[str, object]]) -> str:
    """The variant that a job runs next: the one that was killed there, else the first of those that share
    most stages with the last one, whose outputs its clone still has.

    held: those that were killed in other jobs' clones, where more of them is done; the last to be taken.
    """
    if last in waiting:
        return last
    free = [name for name in waiting if name not in held] or waiting
    if last not in experiments:
        return free[0]
    return max(free, key=lambda name: shared_stages(experiments[name], experiments[last]))


def run_missing(study: Study, missing: dict[str, dict], jobs: int) -> tuple[list[str], Job]:
    """Run experiments, `jobs` at a time; names of those that failed, and a clone to compare in."""
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
    """Raise a UserError where files that git tracks were changed: experiments hang off a commit."""
    changed = git("status", "--porcelain", "--untracked-files=no").splitlines()
    changed = [line for line in changed if not line[3:].startswith(WRITTEN)]
    if changed:
        raise UserError(
            f"study: {len(changed)} tracked files are changed, such as {changed[0][3:]}; commit them first "
            "(variants are compared by what was committed)"
        )
