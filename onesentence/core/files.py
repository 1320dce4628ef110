"""Reads and writes files: each is written completely or not at all, with the same bytes on every run."""

import hashlib
import json
import math
import os
import shutil
import signal
from collections import Counter
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

from onesentence.core import machine_faults, recorded
from onesentence.core.errors import UserError

# A small file can declare or hold text that no memory holds. Real text compresses 3 to 20 times; a file may
# expand this many times, and any file to the bytes of EXPANDED_ALWAYS.
EXPANSION = 1_000
EXPANDED_ALWAYS = 2**30
VALUE_BYTES = 8  # of a number, or more than of a text's place
REPRODUCE = "remove it and run `dvc checkout`, to take it from DVC's cache, or `dvc repro`, to remake it"

# Decimal places of every float in a tracked file. `rounded` is the only place that rounds.
DECIMALS = 4


def is_there(name: str | Path) -> bool:
    """Whether a file or folder has this name; false for one that is too long for any."""
    try:
        return Path(name).exists()
    except OSError:
        return False


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, for a file or a folder, and rename it to `path` on success.

    A link to a file is replaced by the new file, because it may point into DVC's cache. A link to a folder
    (on another drive, for example) stays, and the folder it points to is replaced.
    """
    if path.is_symlink() and path.is_dir():
        path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if temporary.is_dir():  # of a killed process with the same number, as in a container
        shutil.rmtree(temporary)
    try:
        yield temporary
        if path.is_dir() and temporary.is_dir():  # a folder with files cannot be overwritten by a rename
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
    """Restore the files `paths` to their present state if the body fails or is stopped.

    journal: the folder that holds their copies meanwhile. After a kill that no program can catch (SIGKILL)
    the journal still exists, and the next call restores the files first. Empty folders that the body created
    for these files are removed.
    """

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)  # an exception, so that the files are restored below

    # A signal that is ignored on purpose stays ignored (nohup ignores SIGHUP).
    heeded = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    handlers = {number: signal.signal(number, stop) for number in heeded}
    try:
        restore(journal)
        _keep(paths, journal)
        yield
    except BaseException:
        restore(journal)
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    _forget(journal)


def _keep(paths: list[Path], journal: Path) -> None:
    """Copy the files `paths` to `journal`, with a record of which of them existed."""
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
    """Restore the files that `restoring` copied to `journal`; False if there is no journal."""
    if not journal.is_dir():
        return False
    record = json.loads((journal / "journal.json").read_text(encoding="utf-8"))
    for number, (name, existed) in enumerate(zip(record["paths"], record["existed"], strict=True)):
        copy, path = journal / str(number), Path(name)
        if not existed:
            path.unlink(missing_ok=True)
        elif copy.exists() or copy.is_symlink():  # else an earlier `restore`, stopped half-way, moved it
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(copy, path)  # a rename needs no space, so it works on a full disk
    _remove_empty(map(Path, record["new_folders"]))
    _forget(journal)
    return True


def _missing_folders(paths: list[Path]) -> list[Path]:
    """Folders above `paths` that do not exist, innermost first."""
    missing = {folder for path in paths for folder in path.parents if not folder.exists()}
    return sorted(missing, key=lambda folder: -len(folder.parts))


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _forget(journal: Path) -> None:
    """Remove a journal. It is renamed first, so that a kill never leaves half a journal to restore from."""
    obsolete = journal.with_name(f".{journal.name.lstrip('.')}.tmp")
    shutil.rmtree(obsolete, ignore_errors=True)
    journal.replace(obsolete)
    shutil.rmtree(obsolete)


def output_file(value: str) -> Path:
    """The path of an option --output, tested for writing before any work is done (an argparse type).

    Raises UserError for a folder, for a special file and for a path where no file can be created.
    """
    path = Path(value)
    folders: list[Path] = []
    if not path.name:  # "", ".", "/"
        raise UserError(f"--output: found {value!r}, expected the path of a file")
    trial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.is_dir():
            raise UserError(f"--output: {path} is a folder; expected the path of a file")
        # The finished file is renamed to this path: it would replace a device or a pipe, and root could
        # replace the machine's /dev/null.
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
    """Refuse an --output that is one of the files that the command reads."""
    for path in inputs:
        if output and path and output.is_file() and output.resolve() == path.resolve():
            raise UserError(f"--output: {output} is read by the same command; name another file")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with \\n line ends, completely or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def rounded(value: Any) -> Any:
    """`value` with every float in it rounded to DECIMALS places. Raises ValueError for NaN and infinity."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} in a result; write an undefined value as null")
        return round(value, DECIMALS) + 0.0  # + 0.0 turns -0.0 into 0.0
    return value


def write_json(path: Path, value: dict[str, Any] | list[Any], one_line_below: int | None = None) -> None:
    """Write `value` as indented JSON with rounded floats, keys in their present order.

    one_line_below: the nesting depth from which a value is written on one line, so that a git diff shows a
    changed score as one changed line; None: every value on its own line.
    """
    write_text(path, _json_text(rounded(value), "\n", one_line_below) + "\n")


def _json_text(value: Any, line: str, one_line_below: int | None) -> str:
    """`value` as JSON. line: a line break followed by the indentation of `value`."""
    if one_line_below is None:
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).replace("\n", line)
    if one_line_below == 0 or not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    items = [
        f"{line}  {json.dumps(key, ensure_ascii=False)}: {_json_text(item, line + '  ', one_line_below - 1)}"
        for key, item in value.items()
    ]
    return "{" + ",".join(items) + line + "}"


def read_json(path: Path, advice: str = REPRODUCE) -> dict[str, Any]:
    """Read a JSON file that another stage wrote. advice: what to do if it is damaged."""
    require_output(path)
    content = parse_json(path.read_bytes(), path, advice)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}; {advice}")
    return content


@contextmanager
def read_as_written_now(path: Path, advice: str = "run `dvc repro`") -> Iterator[None]:
    """Inside, a key that the content of a file lacks is a UserError: other code wrote the file.

    advice: how to get a file that this code wrote.
    """
    try:
        yield
    except KeyError as error:
        raise UserError(
            f"{path}: has no {error.args[0]!r}, which is read here: another version of the code wrote it; "
            f"{advice}"
        ) from error


def require_output(path: Path) -> None:
    """Raise UserError unless a stage's output exists and is the one that DVC recorded."""
    if not path.is_file():
        raise UserError(f"{path}: not found; run `dvc repro` to make it")
    recorded.require(path)


def damaged(path: Path, error: Exception, advice: str = REPRODUCE) -> UserError:
    """The error for a parquet file that cannot be read, though a stage wrote it."""
    reason = " ".join(str(error).split())
    return UserError(f"{path}: not a whole parquet file ({reason:.200}); {advice}")


def parse_json(text: str | bytes, where: object, advice: str = REPRODUCE) -> Any:
    """The value of a JSON text in UTF-8. Raises UserError for anything else.

    where: the file, and its line, that the error names; advice: what to do.
    """
    try:
        return json.loads(
            text if isinstance(text, str) else text.decode("utf-8"), object_pairs_hook=distinct_keys
        )
    except RecursionError:
        reason = "too many brackets inside each other"
    except ValueError as error:  # not UTF-8, not JSON, or a number of thousands of digits
        reason = str(error)
    raise UserError(f"{where}: not valid JSON ({reason}); {advice}")


def distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs; ValueError for a key that occurs twice, of which Python keeps the last."""
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {twice!r} occurs twice")
    return value


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line. JSON escapes lone surrogates and NULs, so any text can be written."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file that a stage wrote."""
    require_output(path)
    rows = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            row = parse_json(line, f"{path}, line {number}")
            if not isinstance(row, dict):
                raise UserError(
                    f"{path}, line {number}: expected an object, found {type(row).__name__}; {REPRODUCE}"
                )
            rows.append(row)
    return rows


def write_parquet(path: Path, columns: dict[str, pa.Array], notes: dict[str, str] | None = None) -> None:
    """Write columns of equal length as parquet, with the schema and `notes` as the only metadata."""
    table = pa.table(columns).replace_schema_metadata(notes)
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=8_192)


def read_parquet(path: Path, columns: list[str] | None = None, advice: str = REPRODUCE) -> pa.Table:
    """The columns of a parquet file that an earlier stage wrote. advice: what to do if it is damaged."""
    require_output(path)
    try:
        with pq.ParquetFile(path) as file:
            require_expandable(path, file.metadata)
            return file.read(columns=columns)
    except (pa.ArrowException, OSError, ValueError, KeyError, RuntimeError) as error:
        if machine_faults.sentence_of(error):
            raise  # a fault of the machine, not of the file's content
        raise damaged(path, error, advice) from error


def require_expandable(path: Path, metadata: pq.FileMetaData, whole: bool = True) -> None:
    """Refuse a parquet file that declares more data than a real file of its size has, or than memory holds.

    whole: whether all of it will be in memory at once.
    """
    declared = 0
    # Not by the metadata of columns: reading those of a damaged file ends the process (pyarrow 26).
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        if group.num_rows < 0 or group.total_byte_size < 0:
            raise UserError(f"{path}: declares less than no rows or bytes: not a whole parquet file")
        # pyarrow makes room for as many values as the group claims to have, before it reads one.
        declared += max(group.total_byte_size, group.num_rows * metadata.num_columns * VALUE_BYTES)
    require_expansion(path, declared)
    if whole and declared > EXPANDED_ALWAYS:
        import psutil

        free = psutil.virtual_memory().available
        if declared > free:
            raise UserError(
                f"{path}: expands to {declared:,} bytes, and {free:,} bytes of memory are free; split "
                "the file"
            )


def require_expansion(path: Path, expanded: int) -> None:
    """Refuse a file that expands to more than EXPANSION times its size."""
    size = path.stat().st_size
    if expanded > max(EXPANDED_ALWAYS, EXPANSION * size):
        raise UserError(
            f"{path}: {size:,} bytes that expand to {expanded:,} or more (expected at most {EXPANSION:,} "
            "times as many): a file made to fill the memory; get it from another place"
        )


def id_arrays(column: pa.ChunkedArray) -> list[NDArray[np.int32]]:
    """Rows of a list<int32> column as int32 arrays. They are views: a tenth of the memory of lists of int."""
    array = column.combine_chunks()
    values, offsets = array.values.to_numpy(), array.offsets.to_numpy()
    return [values[start:end] for start, end in pairwise(offsets)]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
