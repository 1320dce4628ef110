"""Reading and writing files: whole or not at all, and the same bytes on every run."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.common.errors import UserError

# Every float in a tracked file is rounded to this many places, here and nowhere else.
DECIMALS = 4


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, file or folder, and rename it to `path` on success."""
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


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with \\n line ends, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def rounded(value):
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


def write_json(path: Path, value: dict | list, one_line_below: int | None = None) -> None:
    """Write `value` as indented JSON with rounded floats, keys in the order given.

    one_line_below: nesting depth from which a value stands on one line, so that a git diff shows a changed
    score as one changed line; None = every value on its own.
    """
    write_text(path, _json_text(rounded(value), "\n", one_line_below) + "\n")


def _json_text(value, line: str, one_line_below: int | None) -> str:
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


def read_json(path: Path) -> dict:
    """Read a JSON file that another stage wrote."""
    if not path.is_file():
        raise UserError(f"{path}: not there; run `dvc repro` to make it")
    return json.loads(path.read_text(encoding="utf-8"))


def write_jsonl(path: Path, rows: list[dict]) -> None:
    """Write one JSON object a line. JSON escapes lone surrogates and NULs, so that any text passes."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict]:
    """Rows of a JSONL file that a stage wrote."""
    if not path.is_file():
        raise UserError(f"{path}: not there; run `dvc repro` to make it")
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write_parquet(path: Path, columns: dict[str, pa.Array], notes: dict[str, str] | None = None) -> None:
    """Write columns of equal length as parquet; its metadata are the schema and `notes`."""
    table = pa.table(columns).replace_schema_metadata(notes)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=8_192)


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The columns of a parquet file that an earlier stage wrote."""
    if not path.is_file():
        raise UserError(f"{path}: not there; run `dvc repro` to make it")
    return pq.read_table(path, columns=columns)


def id_arrays(column: pa.ChunkedArray) -> list[np.ndarray]:
    """Rows of a list<int32> column as int32 arrays: views, a tenth of the memory of lists of int."""
    whole = column.combine_chunks()
    values, offsets = whole.values.to_numpy(), whole.offsets.to_numpy()
    return [values[start:end] for start, end in pairwise(offsets)]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
