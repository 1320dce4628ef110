"""Run what is missing of a study as DVC experiments, several at a time, then compare.

Run     make study NAME=rank [JOBS=2] [QUICK=1]    (python -m stages.commands.study NAME --jobs N --quick)

Each variant and seed is an experiment of that name (`rank-8-seed0`), run in a folder of its own
(`dvc exp run --temp`). One that is there with the same code and parameters is kept; a killed study goes on
where it was, its training from the last checkpoint. One that fails is named with its log, and stops nothing.
"""

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
from tqdm import tqdm

from stages.common import errors, params
from stages.common.errors import UserError
from stages.common.experiments import experiment_refs, finished, git, remove
from stages.common.studies import Studies, Study, option

WORK = Path(".dvc/tmp/studies")
STANDALONE = Path(".dvc/tmp/exps/standalone")
STASH = "refs/exps/stash"  # where `dvc exp run --temp` keeps what it is about to run
STARTED = ("Running stage", "Stage '", "didn't change")  # the first words of `dvc` once it has its folder
WRITTEN = ("metrics/studies/", "plots/studies/", "docs/decisions.md", "README.md")  # by comparisons
TAIL = 12  # lines of a failed variant's log


@contextmanager
def alone():
    """One study at a time: two would start the same variants."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError("study: another one is running in this repository; wait for it") from error
        yield


def kill_group(process_id: int) -> None:
    """End a variant with everything that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process_id, number)
        except ProcessLookupError:
            return
        time.sleep(1)


def clear_remains() -> int:
    """End what a killed study left running, drop what it left lying; how many were still running."""
    left, files = 0, list(WORK.glob("*.pid"))
    for file in files:
        process_id, _, begun = file.read_text().partition(" ")
        if began(int(process_id)) == begun:
            left += 1
            kill_group(int(process_id))
        file.unlink()
    if files:
        git("update-ref", "-d", STASH, check=False)
        shutil.rmtree(STANDALONE, ignore_errors=True)
    return left


def began(process_id: int) -> str:
    """When a process began: by now its id may have gone to another. Empty where there is none."""
    try:
        return str(psutil.Process(process_id).create_time())
    except psutil.NoSuchProcess:
        return ""


class Running:
    """A variant under way: `dvc exp run --temp` in a process group of its own."""

    def __init__(self, name: str, values: dict[str, object], threads: int) -> None:
        self.name = name
        self.log = WORK / f"{name}.log"
        self.pid_file = WORK / f"{name}.pid"
        command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", name]
        for key, value in values.items():
            command += ["-S", option(key, value)]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",  # a waiting thread must not take the other run's core
            "STUDY_CHECKPOINTS": str(Path("models/checkpoints").resolve()),
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self.pid_file.write_text(f"{self.process.pid} {began(self.process.pid)}")
        # dvc takes the newest of its stash: the next variant may put its own there only after that.
        while self.process.poll() is None and not any(word in self.log.read_text() for word in STARTED):
            time.sleep(0.2)

    def end(self) -> None:
        """Stop it."""
        kill_group(self.process.pid)
        self.process.wait()
        self.pid_file.unlink(missing_ok=True)

    def tail(self) -> str:
        """The last lines of its log, progress bars left out."""
        lines = [line.rpartition("\r")[2].rstrip() for line in self.log.read_text().splitlines()]
        return "\n    ".join([line for line in lines if line][-TAIL:])


def run_missing(study: Study, missing: dict[str, dict], jobs: int) -> list[str]:
    """Run experiments, `jobs` at a time; names of those that failed."""
    from stages.common.runtime import THREADS

    threads = max(1, min(THREADS, (os.cpu_count() or 1) // jobs))
    refs = experiment_refs()
    waiting, running, failed = list(missing), [], []
    bar = tqdm(total=len(missing), desc=f"study {study.name}", unit="variant", smoothing=0)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                for ref in refs.get(name, ()):
                    remove(ref)
                running.append(Running(name, missing[name], threads))
            bar.set_postfix_str(", ".join(each.name for each in running))
            time.sleep(0.5)
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                each.pid_file.unlink()
                if each.process.returncode:
                    failed.append(each.name)
                    bar.write(f"study: {each.name} failed, its log is {each.log}:\n    {each.tail()}")
                bar.update()
    finally:
        for each in running:
            each.end()
        bar.close()
    return failed


def require_committed() -> None:
    """Raise a UserError where files that git tracks were changed: experiments hang off a commit."""
    changed = git("status", "--porcelain", "--untracked-files=no").splitlines()
    changed = [line for line in changed if not line[3:].startswith(WRITTEN)]
    if changed:
        raise UserError(
            f"study: {len(changed)} tracked files are changed, such as {changed[0][3:]}; commit them first "
            "(variants are compared by what was committed)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", nargs="?", help="of a study in studies.yaml; without one they are listed")
    parser.add_argument("--jobs", type=int, default=1, help="variants at a time")
    parser.add_argument("--quick", action="store_true", help="small and fast; never to be committed")
    arguments = parser.parse_args()
    studies = Studies(params.load(("model",)).model.name)
    studies.check_names()
    if arguments.name is None:
        for name in studies.names():
            study = studies.study(name)
            hours = "" if study.hours is None else f", {study.hours:g} h"
            print(f"{name}: {study.question} ({len(study.experiments())} runs{hours})")
        return
    if arguments.jobs < 1:
        raise UserError(f"--jobs: expected at least 1, found {arguments.jobs}")
    study = studies.study(arguments.name, arguments.quick)
    with alone():
        require_committed()
        left = clear_remains()
        if left:
            print(f"study {study.name}: {left} runs of a killed study were still going; they start again")
        there = finished(study)
        missing = {name: values for name, values in study.experiments().items() if name not in there}
        hours = "" if study.hours is None else f"; the whole study takes {study.hours:g} h on two cores"
        print(
            f"study {study.name}: {len(there)} of {len(there) + len(missing)} runs are there, "
            f"{len(missing)} to go, {arguments.jobs} at a time{hours}",
            flush=True,
        )
        # A termination is as good as Ctrl-C: nothing stays behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        failed = run_missing(study, missing, arguments.jobs) if missing else []
    if failed:
        raise UserError(
            f"study {study.name}: {len(failed)} runs failed: {', '.join(failed)}; logs are in {WORK}. The "
            "same command tries them again"
        )
    command = [sys.executable, "-m", "stages.compare", arguments.name] + ["--quick"] * arguments.quick
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    errors.run(main)
