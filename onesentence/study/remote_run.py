"""One variant on another machine: clone, get the inputs, run, store the results, push the experiment.

A worker starts it as a program with the path of a file (`Assignment.text`) and the clone's folder. Exit
codes: 0 the experiment is in the git remote, 1 the variant failed, TROUBLE the machine or a remote was at
fault.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onesentence.core import errors
from onesentence.core.errors import UserError
from onesentence.study.clone import RACE, Clone, variables_of
from onesentence.study.costs import TRAIN
from onesentence.study.remotes import patiently

TROUBLE = 75  # as EX_TEMPFAIL of sysexits.h: try again later


@dataclass(frozen=True)
class Assignment:
    """What a worker needs to know to run a variant.

    values: by dotted key of params.yaml; url: to clone from; storage, options: DVC's remote; identity: the
    author of the experiment's commit, name and e-mail; threads: for the stages; pipeline: of `Clone`.
    """

    name: str
    values: dict[str, Any]
    commit: str
    url: str
    storage: str
    options: dict[str, str]
    identity: tuple[str, str]
    threads: int = 1
    pipeline: str = ""

    @classmethod
    def read(cls, text: str) -> "Assignment":
        """The assignment that `text` writes."""
        content = json.loads(text)
        return cls(**content | {"identity": tuple(content["identity"])})

    def text(self) -> str:
        """It as JSON, every number with all of its digits."""
        return json.dumps(asdict(self))


def configure(clone: Clone, task: Assignment, cache: Path) -> None:
    """Set the clone's author, DVC remote and cache. They replace those of an earlier study."""
    from dvc.config import Config

    for key, value in zip(("user.name", "user.email"), task.identity, strict=True):
        clone.git("config", key, value)
    with Config(str(clone.folder / ".dvc")).edit("local") as config:
        config["cache"]["dir"] = str(cache)
        config["remote"] = {task.storage: task.options}
        config["core"]["remote"] = task.storage


def get_ready(clone: Clone, task: Assignment, cache: Path) -> None:
    """Make the clone, unless a killed run left it, and get the inputs that DVC holds."""
    again = clone.usable()
    if not again:
        print(f"clone {task.commit[:7]} from {task.url}", flush=True)
        patiently(lambda: clone.create(task.url))
    configure(clone, task, cache)
    pointers = clone.tracked()
    if pointers:
        patiently(lambda: clone.dvc("pull", "--quiet", *pointers))
    if not again:
        clone.complete()


def deliver(clone: Clone, task: Assignment) -> None:
    """Store what the variant made in DVC's remote, then push the experiment: a pushed one is complete."""
    print(f"store the results in {task.storage}", flush=True)
    patiently(lambda: clone.dvc("push", "--quiet"))
    ref = clone.ref(task.name)
    # "+": an older experiment of this name, such as that of a worker that was thought lost, is replaced.
    patiently(lambda: clone.git("push", "--quiet", "origin", f"+{ref}:{ref}"))


def lost_a_race(folder: Path) -> bool:
    """Whether the variant in a clone failed because another clone stored the same output at the same moment.

    All clones of a machine share a cache. What the variant printed is in the worker's log, beside the clone.
    """
    log = folder.with_name(f"{folder.name}.log")
    return log.is_file() and RACE in log.read_text(encoding="utf-8", errors="replace")


def run(task: Assignment, folder: Path) -> int:
    """Run a variant in the clone in `folder`; returns an exit code.

    The cache of all clones and, where the environment names no other place, checkpoints are beside it.
    """
    clone = Clone(folder, task.commit, task.pipeline)
    try:
        get_ready(clone, task, (folder.parent / "cache").resolve())
        if clone.last() != task.name:
            (clone.folder / TRAIN).unlink(missing_ok=True)  # of the variant before
        command = clone.experiment(task.name, task.values)
    except UserError as error:
        print(f"error: {error}", flush=True)
        return TROUBLE
    environment = {
        **os.environ,
        **variables_of(task.name, folder.parent / "checkpoints"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "OMP_NUM_THREADS": str(task.threads),
        "ONESENTENCE_WORKERS": str(task.threads),  # of prepare and tokenize
        "OMP_WAIT_POLICY": "PASSIVE",  # a waiting thread must not occupy another worker's core
    }

    def status() -> int:
        return subprocess.run(
            command, cwd=clone.folder, env=environment, stdin=subprocess.DEVNULL, check=False
        ).returncode

    if status() and not (lost_a_race(folder) and status() == 0):
        clone.after_failure()
        return 1
    try:
        deliver(clone, task)
    except UserError as error:
        print(f"error: {error}", flush=True)
        return TROUBLE
    return 0


def main() -> None:
    """Run the assignment of the command line."""
    file, folder = map(Path, sys.argv[1:])
    # Nobody is there to answer: git and ssh must fail where they would ask for a password.
    os.environ.setdefault("GIT_TERMINAL_PROMPT", "0")
    if "GIT_SSH" not in os.environ:
        os.environ.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
    sys.exit(run(Assignment.read(file.read_text()), folder))


if __name__ == "__main__":
    errors.run(main)
