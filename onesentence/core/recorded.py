"""Does a stage read what DVC recorded, and is what it read still so when it ends?

DVC hashes the inputs of a stage after the stage has run. A parameter, a file or the code that is edited
meanwhile would be recorded as what the outputs were made from. And DVC trusts a file whose size and time are
those that it knows: it does not see a bit that flipped on the disk. So a stage that runs under DVC compares
each file that it reads with the hash in dvc.lock, and looks at its inputs again at its end.
"""

import configparser
import hashlib
import json
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from onesentence.core.errors import UserError

LOCK = Path("dvc.lock")
DVC = Path(".dvc")
STAGE = "DVC_STAGE"  # environment variable that DVC sets for the commands that it runs
PROJECT = Path(__file__).parents[2]
CODE = ("onesentence", "stages")


def under_dvc() -> bool:
    """Whether DVC runs this process, and will record what it reads and writes."""
    return STAGE in os.environ


class _Run:
    """What this process has read so far."""

    def __init__(self) -> None:
        self.code: dict[Path, str] = {}  # SHA-256 of each source file at the start
        self.files: dict[Path, tuple[int, int, int]] = {}  # of each file read: its inode, size and time
        self.values: list[tuple[Path, Callable[[], Any], Any]] = []  # a file, how to read it, what it held


_run = _Run()


def begin() -> None:
    """Note the code as it is when the stage starts."""
    if under_dvc():
        _run.code = _hashes()


def _hashes() -> dict[Path, str]:
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in CODE
        for path in (PROJECT / folder).rglob("*.py")
    }


def note_values(path: Path, read: Callable[[], Any]) -> None:
    """Note what `read` returns of `path`, to read it again at the end (params.yaml)."""
    if under_dvc():
        _run.values.append((path, read, read()))


def note(path: Path) -> None:
    """Note a file that the stage reads and that is no output of another one, such as the user's articles."""
    if under_dvc() and path.is_file():
        stat = path.stat()
        _run.files[path] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def require(path: Path) -> None:
    """Raise UserError if a file that the stage reads is not the one that dvc.lock records as an output."""
    if not under_dvc() or not path.is_file():
        return
    note(path)
    relative = Path(os.path.relpath(path))
    outputs = _outputs()
    for output in (relative, *relative.parents):
        recorded = outputs.get(output.as_posix())
        if recorded is None:
            continue
        if _md5_of(output) != recorded:
            objects = _damaged_objects(recorded)
            also = f" and {', '.join(map(str, objects))} (its copy in DVC's cache is damaged too)"
            raise UserError(
                f"{output}: differs from what {LOCK} records: it was edited, or the disk has damaged it; "
                f"remove it{also if objects else ''} and run `dvc checkout` (`git checkout {output}`, if git "
                "tracks it), which restores it, or `dvc repro`, which makes it again"
            )
        return


@cache
def _outputs() -> dict[str, str]:
    """MD5 of each output in dvc.lock, by its path."""
    if not LOCK.is_file():
        return {}
    try:
        stages = yaml.safe_load(LOCK.read_text(encoding="utf-8"))["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", ())}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{LOCK}: not a lock file of DVC; restore it with `git checkout {LOCK}`") from error


def require_folder(folder: Path) -> None:
    """`require` each file of a folder, such as a model's."""
    for file in sorted(folder.iterdir()):
        require(file)


def _cache() -> Path:
    """The folder of DVC's cache that holds objects by their MD5."""
    folder = DVC / "cache"
    for name in ("config", "config.local"):
        config = configparser.ConfigParser(interpolation=None)
        try:
            config.read(DVC / name, encoding="utf-8")
            if config.has_option("cache", "dir"):
                folder = DVC / config.get("cache", "dir")  # relative to the file
        except (configparser.Error, UnicodeDecodeError):  # DVC itself names the fault
            continue
    return folder / "files" / "md5"


def _damaged_objects(recorded: str) -> list[Path]:
    """Objects of DVC's cache that belong to an output with this MD5, and whose content has another one.

    While such an object exists, `dvc checkout` restores the damage.
    """
    place = _cache() / recorded[:2] / recorded[2:]
    if not place.is_file():
        return []
    if _md5_of(place) != recorded.removesuffix(".dir"):
        return [place]
    if not recorded.endswith(".dir"):
        return []
    rows = json.loads(place.read_bytes())
    return [path for row in rows for path in _damaged_objects(row["md5"])]


@cache
def _md5_of(path: Path) -> str:
    """DVC's hash of a file or a folder: that of a folder covers the names and hashes of its files."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    rows = sorted(
        (
            {"md5": _md5_of(file), "relpath": file.relative_to(path).as_posix()}
            for file in path.rglob("*")
            if file.is_file()
        ),
        key=lambda row: row["relpath"],
    )
    return hashlib.md5(json.dumps(rows, sort_keys=True).encode()).hexdigest() + ".dir"


def require_unchanged() -> None:
    """Raise UserError if an input has changed since the stage read it. Call it after the last output."""
    if not under_dvc():
        return
    for path, read, before in _run.values:
        try:
            after = read()
        except UserError:
            after = None
        if after != before:
            raise UserError(_changed(path, _difference(before, after)))
    for path, known in _run.files.items():
        now = path.stat() if path.is_file() else None
        if now is None or (now.st_ino, now.st_size, now.st_mtime_ns) != known:
            raise UserError(_changed(path, "was changed" if now else "was removed"))
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    loaded = {Path(file) for file in files if file}
    now_code = _hashes() if _run.code else {}
    for path, before in _run.code.items():
        if path in loaded and now_code.get(path) != before:
            raise UserError(_changed(path.relative_to(PROJECT), "was changed"))


def _changed(path: Path, how: str) -> str:
    return (
        f"{path}: {how} while the stage ran, so its outputs are of the earlier content; run `dvc repro` again"
    )


def _difference(before: Any, after: Any) -> str:
    """Which value was changed, in a few words. before, after: values by key."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before:
            if before[key] != after.get(key):
                return f"{key} was changed from {before[key]!r} to {after.get(key)!r}"
    return "was changed"
