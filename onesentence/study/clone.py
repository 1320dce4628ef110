"""A clone of a commit in which variants run, one after the other. It imports nothing of a scheduler."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from onesentence.core import params
from onesentence.core.checkpoints import ROOT as CHECKPOINTS
from onesentence.core.errors import UserError
from onesentence.study.declaration import option
from onesentence.study.experiments import git

LAST = ".dvc/tmp/variant"  # in a clone: "REF NAME" of the variant that runs or last ran there
# Environment variable of a variant's processes: its name. They are found by it.
VARIANT = "ONESENTENCE_VARIANT"
# In the log of a job that lost a race: two jobs write the same output into the cache at once, and DVC asks
# before it replaces a file in the workspace that it cannot find in the cache. Such a job runs again from its
# last stage.
RACE = "without a confirmation"


def variables_of(name: str, otherwise: Path) -> dict[str, str]:
    """The environment variables of a variant's processes: its name, and the root of all checkpoints.

    otherwise: the root of checkpoints where the environment names none.
    """
    return {VARIANT: name, CHECKPOINTS: str(Path(os.environ.get(CHECKPOINTS) or otherwise).resolve())}


class Clone:
    """A clone of a commit. The clone of a killed study is used again, with the stages that had ended there.

    root: where it is, or will be after `create`; commit: 40 hexadecimal digits; pipeline: its folder in
    the repository, "" or a preset's `presets/NAME`. folder: of the pipeline in the clone.
    """

    def __init__(self, root: Path, commit: str, pipeline: str = "") -> None:
        self.root = root
        self.folder = root / pipeline
        self.commit = commit

    def create(self, source: str, *options: str) -> None:
        """Clone the commit from a path or a URL, in place of what the folder holds.

        options: of `git clone`. `complete` must follow when the inputs are in it, too.
        """
        shutil.rmtree(self.root, ignore_errors=True)
        git("clone", "--quiet", "--no-checkout", *options, "--", source, str(self.root))
        git("-C", str(self.root), "checkout", "--quiet", "--detach", self.commit)
        if not self.folder.is_dir():
            place = self.folder.relative_to(self.root)
            raise UserError(f"study: commit {self.commit[:7]} has no {place}; commit that first")

    def complete(self) -> None:
        """Mark the clone as complete: `usable` accepts it from now on."""
        (self.root / LAST).parent.mkdir(parents=True, exist_ok=True)
        (self.root / LAST).touch()

    def tracked(self) -> list[str]:
        """The .dvc files of this DVC repository's inputs; a preset's pipeline is another repository."""
        return tracked(self.folder)

    def usable(self) -> bool:
        """Whether a killed study left a clone of this commit; removes locks and half-made commits from it."""
        if not (self.root / LAST).is_file():  # written once the clone was complete
            return False
        for lock in (self.root / ".git").rglob("*.lock"):
            lock.unlink()
        for name in ("rwlock", "rwlock.lock", "lock", "exps"):
            leftover = self.folder / ".dvc/tmp" / name
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        # DVC writes it in place. Where the kill came at that moment, the clone has no record of its stages.
        torn = () if has_whole_lock(self.folder) else ("dvc.lock",)
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
            kept = {"dvc.lock", "metrics", "plots"} - set(torn)
            outputs = (f":(exclude){path}" for path in sorted(kept))
            for path in torn:
                (self.folder / path).unlink()  # the commit may have none
            self.git("checkout", "--quiet", "--force", self.commit, "--", ".", *outputs)
        except UserError:
            return False
        return True

    def last(self) -> str:
        """The variant that ran here last, perhaps until a kill: it can go on from its stages here."""
        file = self.root / LAST
        return file.read_text().partition(" ")[2] if file.is_file() else ""

    def ref(self, name: str) -> str:
        """The ref of an experiment of the clone's commit."""
        return ref_of(self.commit, name)

    def git(self, *arguments: str) -> str:
        """The output of git in the pipeline's folder of the clone."""
        return git("-C", str(self.folder), *arguments)

    def dvc(self, *arguments: str) -> None:
        """Run dvc in the pipeline's folder of the clone."""
        output_of_dvc("--cd", str(self.folder), *arguments)

    def experiment(self, name: str, values: dict[str, Any]) -> list[str]:
        """Make the clone ready for a variant; returns the command that runs it, for the clone's folder."""
        (self.root / LAST).write_text(f"{self.ref(name)} {name}")
        # The outputs of the last variant stay: DVC skips the stages that this one shares with it.
        self.git("checkout", "--quiet", "--force", self.commit, "--", params.PARAMS_FILE.as_posix())
        command = [sys.executable, "-m", "dvc", "exp", "run", "--name", name]
        for key, value in values.items():
            command += ["-S", option(key, value)]
        return command

    def after_failure(self) -> None:
        """Take the clone back to its commit after a variant that failed in it."""
        self.git("checkout", "--quiet", "--force", "--detach", self.commit)


def has_whole_lock(folder: Path) -> bool:
    """Whether dvc.lock in a folder is missing or one that DVC reads. DVC refuses every command otherwise."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    path = folder / "dvc.lock"
    if not path.is_file():
        return True
    try:
        COMPILED_LOCKFILE_SCHEMA(params.parse_yaml(path.read_text(encoding="utf-8", errors="replace"), path))
    except (Invalid, UserError):
        return False
    return True


def ref_of(commit: str, name: str) -> str:
    """The git ref of an experiment that is run at a commit."""
    return f"refs/exps/{commit[:2]}/{commit[2:]}/{name}"


def tracked(folder: Path) -> list[str]:
    """The .dvc files of the inputs of the DVC repository in `folder`, without those of presets' pipelines."""

    def listed(pattern: str) -> list[str]:  # -z: git would quote blanks and letters outside ASCII
        return git("-C", str(folder), "ls-files", "-z", "--", pattern).split("\0")[:-1]

    others = tuple(name.removesuffix(".dvc/config") for name in listed("*/.dvc/config"))
    return [name for name in listed("*.dvc") if not name.startswith(others)]


def output_of_dvc(*arguments: str) -> str:
    """The output of a dvc command; a UserError where it fails."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise UserError(f"dvc {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout.strip()
