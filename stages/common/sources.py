"""Where the pairs come from: harvested docstrings, a hub dataset, or local files.

Every source gives the same thing: for each split an iterator of `Raw` rows with text in them, or a
UserError that names the file, the line and the key.
"""

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stages.common import harvest
from stages.common.errors import UserError
from stages.common.params import SPLITS
from stages.common.runtime import quiet_libraries
from stages.common.split import harvested_rows

FORMATS = (".jsonl", ".csv", ".parquet")
REQUIREMENTS = Path("requirements.txt")
# Shares of a single local file, decided by a hash of each document.
LOCAL_HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Raw:
    """A pair as the source has it. file: of a harvested row, else ""."""

    id: str
    document: str
    summary: str
    file: str = ""


@dataclass
class Source:
    """splits: rows by split, each readable once; notes: what metrics/data.json says of the source."""

    splits: dict[str, Iterator[Raw]]
    notes: dict = field(default_factory=dict)


def open_source(data) -> Source:
    """Open the source that params.yaml's `data` section names."""
    if data.source == "docstrings":
        return _docstrings()
    if data.source == "local":
        return _local(Path(data.path), data)
    return _hub(data)


def _docstrings() -> Source:
    entries = harvest.harvest(REQUIREMENTS)
    rows, dropped = harvested_rows(entries)
    by_split = {
        split: iter([Raw(r.id, r.document, r.summary, r.file) for r in rows if r.split == split])
        for split in SPLITS
    }
    notes = {
        "entries": len(entries),
        "entries_dropped": dict(sorted(dropped.items())),
        "entries_sha256": harvest.entries_hash(entries),
    }
    return Source(by_split, notes)


def _hub(data) -> Source:
    import datasets

    quiet_libraries()
    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(data.source, revision=data.revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # The libraries' own messages run over several lines and name hosts.
        raise UserError(
            f"data.source: {data.source!r} at revision {data.revision!r} could not be loaded "
            f"({type(error).__name__}); a hub dataset needs a network connection or a copy in the local "
            "cache. Check the id and the revision, or use data.source: docstrings or local"
        ) from error
    missing = [split for split in SPLITS if split not in loaded]
    if missing:
        raise UserError(
            f"data.source: {data.source!r} has no split {', '.join(missing)}; has {', '.join(loaded)}"
        )
    splits = {}
    for split in SPLITS:
        where = f"{data.source} ({split})"
        _need_columns(where, loaded[split].column_names, data)
        splits[split] = _checked(where, enumerate(loaded[split], start=1), data, split, "row")
    return Source(splits)


def _local(path: Path, data) -> Source:
    if not path.exists():
        raise UserError(f"data.path: {path} not found; set it with `make data FROM=PATH`")
    if path.is_file():
        rows = list(_checked(str(path), _records(path, data), data, "", "line"))
        split = [_side_of_document(row.document) for row in rows]
        return Source(
            {
                name: iter([row for row, side in zip(rows, split, strict=True) if side == name])
                for name in SPLITS
            }
        )
    splits = {}
    for name in SPLITS:
        file = split_file(path, name)
        splits[name] = _checked(str(file), _records(file, data), data, name, "line")
    return Source(splits)


def split_file(folder: Path, split: str) -> Path:
    """The one file of a split in a folder of local data."""
    files = [folder / f"{split}{suffix}" for suffix in FORMATS if (folder / f"{split}{suffix}").is_file()]
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise UserError(f"{folder}: expected exactly one {split} file ({', '.join(FORMATS)}), found {found}")
    return files[0]


def _side_of_document(document: str) -> str:
    digest = hashlib.blake2b(document.encode("utf-8"), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < LOCAL_HELD_OUT_SHARE:
        return "test"
    return "validation" if place < 2 * LOCAL_HELD_OUT_SHARE else "train"


def _records(path: Path, data) -> Iterator[tuple[int, dict]]:
    """(line or row number from 1, record) of a local file."""
    if path.suffix == ".jsonl":
        yield from _jsonl_records(path, data)
    elif path.suffix == ".csv":
        yield from _csv_records(path, data)
    elif path.suffix == ".parquet":
        yield from _parquet_records(path, data)
    else:
        raise UserError(f"{path}: expected one of {', '.join(FORMATS)}, found {path.suffix or 'no suffix'}")


def _csv_records(path: Path, data) -> Iterator[tuple[int, dict]]:
    csv.field_size_limit(2**31 - 1)
    with path.open("rb") as file:
        # Decoded line by line, so that an error names its line and not a block's.
        lines = (line.decode("utf-8-sig" if n == 0 else "utf-8") for n, line in enumerate(file))
        reader = csv.DictReader(lines, strict=True)
        try:
            _need_columns(str(path), reader.fieldnames or [], data)
            for record in reader:
                if None in record:  # DictReader's place for what has no column
                    raise UserError(
                        f"{path}, line {reader.line_num}: more fields than columns; quote text with commas"
                    )
                yield reader.line_num, record
        except (csv.Error, UnicodeDecodeError) as error:
            line = reader.line_num + 1
            raise UserError(f"{path}, line {line}: not valid CSV in UTF-8: {error}") from error


def _parquet_records(path: Path, data) -> Iterator[tuple[int, dict]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        file = pq.ParquetFile(path)
        _need_columns(str(path), file.schema_arrow.names, data)
        for batch in file.iter_batches(1_024):
            for record in batch.to_pylist():
                number += 1
                yield number, record
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{path}: not a sound parquet file after row {number}: {text}") from error


def _jsonl_records(path: Path, data) -> Iterator[tuple[int, dict]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested without end
                raise UserError(f"{path}, line {number}: not valid JSON in UTF-8: {error}") from error
            if not isinstance(record, dict):
                raise UserError(f"{path}, line {number}: expected an object, found {type(record).__name__}")
            _need_columns(f"{path}, line {number}", list(record), data)
            yield number, record


def _need_columns(where: str, names: list[str], data) -> None:
    for key in ("document_column", "summary_column"):
        column = getattr(data, key)
        if column not in names:
            raise UserError(
                f"{where}: no column {column!r} (data.{key}); has {', '.join(names) or 'none'}. "
                f"Name the right one in data.{key}"
            )


def _checked(where: str, records: Iterator[tuple[int, dict]], data, split: str, unit: str) -> Iterator[Raw]:
    """Raw rows of records. Text that is no text is an error; so is an empty one in a local file."""
    for number, record in records:
        texts = []
        for column in (data.document_column, data.summary_column):
            value = record[column]
            if not isinstance(value, str):
                raise UserError(
                    f"{where}, {unit} {number}: {column!r} must be text, found {type(value).__name__}; "
                    "correct or remove the row"
                )
            if unit == "line" and not value.strip():
                raise UserError(f"{where}, {unit} {number}: {column!r} is empty; correct or remove the row")
            texts.append(value)
        name = record.get("id")
        name = str(name) if name not in (None, "") else f"{split}{'-' if split else ''}{number}"
        # A lone surrogate (JSON can spell one) cannot be stored as UTF-8.
        yield Raw(*(text.encode("utf-8", "replace").decode("utf-8") for text in (name, *texts)))
