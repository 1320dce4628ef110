"""Checkpoints: where a stage keeps its progress, so that a killed run goes on when it is run again.

A checkpoint lies outside DVC's outputs, which DVC deletes before it runs a stage. It lies in a folder that is
named by the stage and by a fingerprint of everything that determines the result (`core.fingerprint`). So a
run with another parameter, other data or other code never continues from it.

The root of these folders is the environment variable ONESENTENCE_CHECKPOINTS; without it, it is
models/checkpoints of the repository. The copies in which DVC runs `dvc exp run --temp`, queued experiments
and studies lie in .dvc/tmp of a repository, and use the root of that one.

A checkpoint is used only if it is whole: it lists its files with their hashes. A kill, a full disk or a
broken copy can leave a file that is short, damaged or missing. Loading it would end in a traceback or, worse,
continue from wrong numbers. So every file is hashed before any is loaded.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from onesentence.core import recorded
from onesentence.core.errors import UserError
from onesentence.core.files import file_sha256, write_json
from onesentence.core.stopping import Stopped

ROOT = "ONESENTENCE_CHECKPOINTS"  # environment variable
DEFAULT = Path("models/checkpoints")
COPIES = (".dvc", "tmp")  # folders under which DVC and studies copy a repository
MANIFEST = "whole.json"  # in a checkpoint's folder: SHA-256 of each other file; it is written last
FINISHED = "finished.json"  # in a claimed folder, once the stage has written its outputs
LOCK = ".lock"  # suffix of the file beside a claimed folder that its user holds locked
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}  # of a file system without locks: a mounted bucket
DAY = 86_400  # seconds
PATIENCE = 60.0  # seconds to wait for a process of the same folder that is about to end
NAME = re.compile(r"(?P<stage>[a-z_]+(?:@[a-z_]+)?)-(?P<key>[0-9a-f]{16})(?:\.(?P<number>\d+))?")


def owner(folder: Path) -> Path:
    """The repository, or preset's folder, of which DVC or a study made the copy `folder`; else `folder`."""
    parts = folder.absolute().parts
    for i in range(len(parts) - 1):
        if parts[i : i + 2] == COPIES:
            return Path(*parts[:i])
    return folder.absolute()


def root() -> Path:
    """The folder of all checkpoints, as an absolute path. Raises UserError if the variable names a file."""
    named = os.environ.get(ROOT)
    if not named:
        return owner(Path.cwd()) / DEFAULT
    # A relative path means the same folder in every copy.
    path = owner(Path.cwd()) / Path(named).expanduser()
    if path.exists() and not path.is_dir():
        raise UserError(f"{ROOT}: {named!r} is not a folder; name a folder for checkpoints, or unset it")
    return path


def seal(folder: Path) -> None:
    """Mark the checkpoint `folder` as whole. Until then it counts as unfinished, whatever it contains."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    hashes = {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}
    write_json(folder / MANIFEST, hashes)


def fault(folder: Path) -> str | None:
    """Why the checkpoint `folder` cannot be used, in a few words; None if every file is as it was written."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return "it was not finished"
    try:
        hashes = json.loads(manifest.read_bytes())
    except ValueError:  # not JSON, or not UTF-8
        return f"{MANIFEST} is damaged"
    if not isinstance(hashes, dict) or not hashes:
        return f"{MANIFEST} is damaged"
    for name, sha256 in hashes.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if file_sha256(folder / name) != sha256:
            return f"{name} is truncated or damaged"
    return None


def saved_checkpoints(folder: Path) -> list[Path]:
    """The folders checkpoint-STEP in `folder`, whole or not, ordered by step."""
    numbered = [
        (int(match[1]), path)
        for path in folder.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(numbered)]


def last_checkpoint(folder: Path, stage: str) -> Path | None:
    """The newest whole checkpoint in `folder`, or None; newer ones, which are broken, are removed.

    Prints one sentence in the name of `stage`: where the run continues, and what was removed. A new run
    prints nothing.
    """
    removed: list[str] = []
    for path in reversed(saved_checkpoints(folder)):
        reason = fault(path)
        if reason is None:
            why = f": {', '.join(removed)}" if removed else ""
            print(f"{stage}: continuing from {path.name}{why}", flush=True)
            return path
        shutil.rmtree(path, ignore_errors=True)  # each process of a run does so
        removed.append(f"{path.name} was removed because {reason}")
    if removed:
        print(
            f"{stage}: starting from the beginning, no checkpoint is whole: {', '.join(removed)}", flush=True
        )
    return None


def keep_last(folder: Path, count: int) -> None:
    """Remove all checkpoints in `folder` except the last `count`."""
    for path in saved_checkpoints(folder)[:-count]:
        shutil.rmtree(path)


@contextmanager
def claimed(stage: str, key: str) -> Iterator[Path]:
    """Yield the folder of a run's checkpoints, which no other process uses meanwhile.

    stage: its name, such as "train" or "generate@tuned"; key: the fingerprint of the run (16 hex digits).

    Two variants of a study can train the same model at once, in two copies. The second one gets a folder of
    its own. A second process in the same working directory would write the same outputs: it waits PATIENCE
    seconds for the first one, which may be ending, and then a UserError names that process.

    If the body succeeds, the folder is removed; under DVC, once DVC has recorded the outputs (`sweep`).
    """
    top = root()
    try:
        top.mkdir(parents=True, exist_ok=True)
        folder, lock = _lock_a_folder(top, stage, key)
    except OSError as error:
        raise UserError(
            f"{stage}: the folder of checkpoints {top} cannot be written ({error.strerror}); name another "
            f"one in {ROOT}"
        ) from error
    try:
        (folder / FINISHED).unlink(missing_ok=True)
        _drop_finished(top, stage, but=folder)
        yield folder
        if recorded.under_dvc():
            folder.mkdir(exist_ok=True)
            write_json(folder / FINISHED, {"workspace": str(Path.cwd())})
        else:
            shutil.rmtree(folder, ignore_errors=True)
    except Stopped as stopped:
        stopped.kept = any(folder.iterdir())
        raise
    finally:
        unused = folder.is_dir() and not any(folder.iterdir())
        if unused:
            folder.rmdir()
        if not folder.exists():
            lock_of(folder).unlink(missing_ok=True)
        lock.close()


def _lock_a_folder(top: Path, stage: str, key: str) -> tuple[Path, IO[str]]:
    """The first folder of a run that no other process uses, and its lock file, which is open and locked."""
    number, waited = 1, 0.0
    while True:
        folder = top / (f"{stage}-{key}" + (f".{number}" if number > 1 else ""))
        lock = _locked(lock_of(folder))
        if lock is not None:
            folder.mkdir(exist_ok=True)
            return folder, lock
        holder = _holder(folder)
        if holder.get("workspace") != str(Path.cwd()):
            number += 1
            continue
        if waited == 0:
            print(f"{stage}: waiting for process {holder.get('pid')}, which runs this stage here", flush=True)
        if waited >= PATIENCE:
            raise UserError(
                f"{stage}: process {holder.get('pid')} runs this stage in this folder and writes the same "
                "outputs; wait for its end, or stop it"
            )
        time.sleep(0.5)
        waited += 0.5


def lock_of(folder: Path) -> Path:
    """The lock file of a claimed folder; it lies beside it and says who uses it."""
    return folder.with_name(f"{folder.name}{LOCK}")


def _locked(path: Path) -> IO[str] | None:
    """A lock file, open and locked, with this process in it; None if another process holds it.

    Where the file system knows no locks, the file is open and not locked: two equal runs at once must then
    be kept apart by their user.
    """
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                file.close()
                raise
        # Its last user may have removed the file between the two calls above; then the lock protects nothing.
        if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            break
        file.close()
    file.seek(0)
    file.truncate()
    json.dump({"pid": os.getpid(), "workspace": str(Path.cwd())}, file)
    file.flush()
    return file


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object of a file that another process may be writing; {} where it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _holder(folder: Path) -> dict[str, Any]:
    """What the lock file of a claimed folder says of its last user: pid and workspace."""
    return _read_object(lock_of(folder))


def in_use(folder: Path) -> bool:
    """Whether a process holds a claimed folder now."""
    if not lock_of(folder).is_file():
        return False
    with lock_of(folder).open("r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # the file system knows no locks
            return False
    return False


def sweep(stage: str) -> None:
    """Remove the checkpoints of finished stages whose outputs DVC has recorded since.

    stage: the one that starts now. DVC records a stage before it starts the next one. A stage that is killed
    after its last output and before that record runs again, from its last checkpoint. Folders of a working
    directory that is gone are removed after a day.
    """
    top = root()
    if not top.is_dir():
        return
    for folder in _claimed_folders(top):
        match = NAME.fullmatch(folder.name)
        if match is None or match["stage"] == stage or not (folder / FINISHED).is_file():
            continue
        here = _read_object(folder / FINISHED).get("workspace") == str(Path.cwd())
        if here or _age(folder / FINISHED) > DAY:
            remove(folder)


def _age(path: Path) -> float:
    """Seconds since a file was written; a clock that was set back gives a negative number."""
    return time.time() - path.stat().st_mtime


def _drop_finished(top: Path, stage: str, but: Path) -> None:
    """Remove finished folders of this stage and working directory: a run with other inputs replaces them."""
    for folder in _claimed_folders(top):
        match = NAME.fullmatch(folder.name)
        if match and match["stage"] == stage and folder != but:
            if _read_object(folder / FINISHED).get("workspace") == str(Path.cwd()):
                remove(folder)


def remove(folder: Path) -> bool:
    """Remove a claimed folder and its lock file, unless a process uses it; returns whether it was removed."""
    try:
        lock = _locked(lock_of(folder))
    except OSError as error:
        raise UserError(f"{folder}: cannot be removed ({error.strerror}); remove it by hand") from error
    if lock is None:
        return False
    with lock:
        shutil.rmtree(folder, ignore_errors=True)
        lock_of(folder).unlink(missing_ok=True)
    return True


def _claimed_folders(top: Path) -> list[Path]:
    """The claimed folders under a root, by name."""
    return sorted(path for path in top.iterdir() if path.is_dir() and NAME.fullmatch(path.name))


@dataclass(frozen=True)
class Stored:
    """One claimed folder as a user sees it."""

    folder: Path
    stage: str
    progress: str  # "step 200", "12 batches", "nothing yet"
    state: str  # "in use by process 17", "finished", "unfinished", "damaged: ..."
    size: int  # bytes
    age: float  # seconds since its newest file was written


def stored() -> list[Stored]:
    """Every claimed folder under the root, by name. Nothing is changed, and no hash is checked."""
    top = root()
    if not top.is_dir():
        return []
    found = []
    for folder in _claimed_folders(top):
        files = [path for path in folder.rglob("*") if path.is_file()]
        match = NAME.fullmatch(folder.name)
        assert match is not None  # _claimed_folders looks for it
        if in_use(folder):
            state = f"in use by process {_holder(folder).get('pid')}"
        else:
            state = "finished" if (folder / FINISHED).is_file() else "unfinished"
        newest = max((path.stat().st_mtime for path in files), default=folder.stat().st_mtime)
        size = sum(path.stat().st_size for path in files)
        found.append(
            Stored(folder, match["stage"], _progress(folder), state, size, max(0.0, time.time() - newest))
        )
    return found


def _progress(folder: Path) -> str:
    """How far the run of a claimed folder had come, in two words."""
    whole = [path for path in saved_checkpoints(folder) if (path / MANIFEST).is_file()]
    if whole:
        return f"step {int(whole[-1].name.rpartition('-')[2]):,}"
    lines = 0
    for path in folder.glob("*.journal"):
        with path.open("rb") as file:
            lines += sum(line.endswith(b"\n") for line in file)
    return f"{lines:,} batches" if lines else "nothing yet"
