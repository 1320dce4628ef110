"""Reading and writing files: whole or not at all, and the same bytes on every run."""

import hashlib
import json
import math
import os
import shutil
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onesentence.core.errors import UserError

# Every float in a tracked file is rounded to this many places, here and nowhere else.
DECIMALS = 4


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, file or folder, and rename it to `path` on success.

    A link to a file gives way to the new file, since DVC's cache may be behind it; a link to a folder (on
    another drive, say) stays, and the folder behind it is replaced.
    """
    if path.is_symlink() and path.is_dir():
        path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if path.is_dir() and temporary.is_dir():  # no renaming onto a folder that has files in it
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.replace(old)
            try:
                temporary.replace(path)
            except OSError:
                old.replace(path)
                raise
            shutil.rmtree(old)
        else:
            temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


@contextmanager
def restoring(paths: list[Path], journal: Path) -> Iterator[None]:
    """Put the files `paths` back as they are now where the body fails or is stopped.

    journal: folder that keeps their copies meanwhile. After a kill that no program can catch it is still
    there, and the next call puts the files back first. Folders that the body makes for them and leaves
    empty go as well.
    """

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)  # an error like others, so that the files are put back

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        restore(journal)
        _keep(paths, journal)
        yield
    except BaseException:
        restore(journal)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    _forget(journal)


def _keep(paths: list[Path], journal: Path) -> None:
    existed = [path.exists() or path.is_symlink() for path in paths]
    record = {
        "paths": list(map(str, paths)),
        "existed": existed,
        "new_folders": list(map(str, _missing_folders(paths))),
    }
    with atomic_write(journal) as temporary:
        temporary.mkdir()
        for number, path in enumerate(paths):
            if existed[number]:
                shutil.copy2(path, temporary / str(number), follow_symlinks=False)
        write_text(temporary / "journal.json", json.dumps(record))


def restore(journal: Path) -> bool:
    """Put back what `restoring` kept in `journal`; False where there is nothing to put back."""
    if not journal.is_dir():
        return False
    record = json.loads((journal / "journal.json").read_text(encoding="utf-8"))
    for number, (name, existed) in enumerate(zip(record["paths"], record["existed"], strict=True)):
        kept, path = journal / str(number), Path(name)
        if not existed:
            path.unlink(missing_ok=True)
        elif kept.exists() or kept.is_symlink():  # else a restoring that was stopped has put it back
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(kept, path)  # renamed: it takes no space on a disk that is full
    _remove_empty(map(Path, record["new_folders"]))
    _forget(journal)
    return True


def _missing_folders(paths: list[Path]) -> list[Path]:
    """Folders above `paths` that do not exist, inner ones first."""
    missing = {folder for path in paths for folder in path.parents if not folder.exists()}
    return sorted(missing, key=lambda folder: -len(folder.parts))


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _forget(journal: Path) -> None:
    """Remove a journal: renamed first, so that a kill leaves no half of it to restore from."""
    done = journal.with_name(f".{journal.name.lstrip('.')}.tmp")
    shutil.rmtree(done, ignore_errors=True)
    journal.replace(done)
    shutil.rmtree(done)


def output_file(value: str) -> Path:
    """The path in an option --output, found writable before any work is done (an argparse type).

    Raises UserError for a folder, for what is no regular file, and for a place where no file can be made.
    """
    path = Path(value)
    folders: list[Path] = []
    trial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.is_dir():
            raise UserError(f"--output: {path} is a folder; expected the path of a file")
        # A file is renamed to its place: a device or a pipe would be gone, for root the machine's /dev/null.
        special = path.exists() and not path.is_file()
        if special or path.absolute().is_relative_to("/dev"):
            raise UserError(f"--output: {value!r} is not a regular file; expected the path of a file")
        folders += _missing_folders([path])
        path.parent.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise UserError(
            f"--output: {path} cannot be written ({error.filename}: {error.strerror}); name a file in a "
            "folder that can be written to"
        ) from error
    finally:
        _remove_empty(folders)
    return path


def require_other_file(output: Path | None, inputs: Iterable[Path | None]) -> None:
    """Refuse an --output that would overwrite one of the files that a command reads."""
    for path in inputs:
        if output and path and output.is_file() and output.resolve() == path.resolve():
            raise UserError(f"--output: {output} is read by the same command; name another file")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with \\n line ends, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def rounded(value: Any) -> Any:
    """`value` with every float in it rounded to DECIMALS places; NaN and infinity are errors."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} in a result: an undefined value is written as null")
        return round(value, DECIMALS) + 0.0  # + 0.0 turns -0.0 into 0.0
    return value


def write_json(path: Path, value: dict[str, Any] | list[Any], one_line_below: int | None = None) -> None:
    """Write `value` as indented JSON with rounded floats, keys in the order given.

    one_line_below: nesting depth from which a value stands on one line, so that a git diff shows a changed
    score as one changed line; None = every value on its own.
    """
    write_text(path, _json_text(rounded(value), "\n", one_line_below) + "\n")


def _json_text(value: Any, line: str, one_line_below: int | None) -> str:
    """`value` as JSON; `line` is the line break with the indentation where it stands."""
    if one_line_below is None:
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).replace("\n", line)
    if one_line_below == 0 or not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    items = [
        f"{line}  {json.dumps(key, ensure_ascii=False)}: {_json_text(item, line + '  ', one_line_below - 1)}"
        for key, item in value.items()
    ]
    return "{" + ",".join(items) + line + "}"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that another stage wrote."""
    if not path.is_file():
        raise UserError(f"{path}: not there; run `dvc repro` to make it")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line. JSON escapes lone surrogates and NULs, so that any text passes."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file that a stage wrote."""
    if not path.is_file():
        raise UserError(f"{path}: not there; run `dvc repro` to make it")
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write_parquet(path: Path, columns: dict[str, pa.Array], notes: dict[str, str] | None = None) -> None:
    """Write columns of equal length as parquet; its metadata are the schema and `notes`."""
    table = pa.table(columns).replace_schema_metadata(notes)
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=8_192)


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The columns of a parquet file that an earlier stage wrote."""
    if not path.is_file():
        raise UserError(f"{path}: not there; run `dvc repro` to make it")
    return pq.read_table(path, columns=columns)


def id_arrays(column: pa.ChunkedArray) -> list[NDArray[np.int32]]:
    """Rows of a list<int32> column as int32 arrays: views, a tenth of the memory of lists of int."""
    whole = column.combine_chunks()
    values, offsets = whole.values.to_numpy(), whole.offsets.to_numpy()
    return [values[start:end] for start, end in pairwise(offsets)]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
