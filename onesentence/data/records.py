"""Reads the records of one local file: JSON Lines, a JSON array, CSV, tab-separated text or parquet.

Text may be compressed with gzip. It may be UTF-8, or UTF-16 or UTF-32 if the first bytes of the file show
that. Anything else is a UserError that names the file and the line.
"""

import codecs
import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from onesentence.core.errors import UserError
from onesentence.core.files import EXPANDED_ALWAYS, require_expandable, require_expansion

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
EXPECTED = f"{', '.join(FORMATS)} (all but .parquet also with .gz)"
DELIMITERS = (",", ";", "\t", "|")  # Excel writes ; in countries with a decimal comma, tabs for .txt
LONGEST = 2**26  # characters of a line or a field: no article has as many
BATCH = 1_024  # rows of a parquet file that are read at once
GZIP_EXPANSION = 200  # text compresses 3 to 20 times, and text that repeats itself 50 times
Records = Iterator[tuple[int, dict[str, Any]]]  # with the number of the line or row, from 1
BinaryFile = gzip.GzipFile | io.BufferedReader
ID = "id"  # the column with the name of a row, which is optional
# Byte-order marks, longer ones first: UTF-32's begins with UTF-16's.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def format_of(path: Path) -> str | None:
    """The one of FORMATS that a file name has, in any case, compressed or not; None for other files."""
    name = path.name.lower()
    plain = name.removesuffix(".gz")
    suffix = Path(plain).suffix
    return suffix if suffix in FORMATS and (plain == name or suffix != ".parquet") else None


def records(path: Path, needed: dict[str, str]) -> Records:
    """Yield (line or row number from 1, record) of a file; each record has the columns `needed`.

    needed: column names, by the key of params.yaml that errors should name.
    """
    suffix = format_of(path)
    if suffix is None:
        raise UserError(f"{path}: expected one of {EXPECTED}, found {path.suffix or 'no suffix'}")
    if suffix == ".parquet":
        yield from _parquet_records(path, needed)
        return
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            if suffix == ".json":
                yield from _json_records(path, file, needed)
            elif suffix == ".jsonl":
                yield from _json_lines(path, _text_lines(path, file, "JSON"), needed)
            else:
                yield from _csv_records(path, _text_lines(path, file, "CSV"), needed)
    except RecursionError as error:
        raise UserError(f"{path}: too many brackets inside each other; correct the file") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def check_columns(where: str, names: list[str], needed: dict[str, str], note: str = "") -> None:
    """Refuse a column name that occurs twice, and a needed column that is missing.

    where: the place that errors name; note: what they add after the list of names.
    """
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise UserError(f"{where}: column {twice[0]!r} occurs twice; rename or remove one of the two")
    for key, column in needed.items():
        if column not in names:
            raise UserError(
                f"{where}: no column {column!r} (data.{key}); has {', '.join(names) or 'none'}{note}; "
                f"name the right one in data.{key}"
            )


def _text_lines(path: Path, file: BinaryFile, kind: str) -> Iterator[str]:
    """Yield the lines of a text file with their ends; only \\n ends a line. Invalid bytes are an error."""
    start = file.read(4)
    file.seek(0)
    encoding = next((name for mark, name in MARKS if start.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in start[:2]:  # ASCII in UTF-16 without a mark
        encoding = "utf-16-be" if start[:1] == b"\0" else "utf-16-le"
    number = 0
    try:
        if encoding == "utf-8":
            # Decoded line by line, because TextIOWrapper decodes blocks and an error could not name its line.
            for raw in _bounded(path, file.readline):
                yield raw.decode("utf-8" if number else "utf-8-sig")
                number += 1
        else:
            for line in _bounded(path, io.TextIOWrapper(file, encoding, newline="\n").readline):
                yield line
                number += 1
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, line {number + 1}: not valid {kind} in {encoding.upper()[:6].rstrip('-')}: byte "
            f"0x{error.object[error.start]:02x} ({error.reason}); save the file as UTF-8, in Excel as "
            "'CSV UTF-8'"
        ) from error


Line = TypeVar("Line", bytes, str)


def _bounded(path: Path, readline: Callable[[int], Line]) -> Iterator[Line]:
    """Yield the lines that `readline` gives; a UserError for one that is too long, and for a gzip bomb."""
    most = max(EXPANDED_ALWAYS, GZIP_EXPANSION * path.stat().st_size)
    number = read = 0
    while line := readline(LONGEST + 1):
        number, read = number + 1, read + len(line)
        if len(line) > LONGEST:
            raise UserError(f"{path}, line {number}: longer than {LONGEST:,} characters; cut or remove it")
        if read > most:
            raise UserError(
                f"{path}: {path.stat().st_size:,} bytes that expand to more than {most:,}: a file made to "
                "fill the memory; get it from another place"
            )
        yield line


class _Object(dict[str, Any]):
    """A JSON object. twice: the first key that occurs twice in it, or None.

    A plain dict would silently keep the last value of such a key.
    """

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs) if len(self) < len(pairs) else {}
        self.twice = next((key for key, count in counts.items() if count > 1), None)


def _check_object(where: str, record: object, needed: dict[str, str]) -> None:
    """Refuse a JSON value that is not an object with distinct keys and the needed columns."""
    if not isinstance(record, _Object):
        raise UserError(f"{where}: expected an object, found {type(record).__name__}")
    if record.twice is not None:
        raise UserError(f"{where}: column {record.twice!r} occurs twice; rename or remove one of the two")
    check_columns(where, list(record), needed)


def _json_lines(path: Path, lines: Iterable[str], needed: dict[str, str]) -> Records:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line, object_pairs_hook=_Object)
        except (ValueError, RecursionError) as error:  # not JSON, or nested too deeply
            raise UserError(f"{where}: not valid JSON: {error}") from error
        _check_object(where, record, needed)
        yield number, record


def _json_records(path: Path, file: BinaryFile, needed: dict[str, str]) -> Records:
    """Yield the objects of a JSON array. Other content is read as JSON Lines, common in .json files."""
    lines = list(_text_lines(path, file, "JSON"))
    text = "".join(lines)
    if not text.lstrip().startswith("["):
        yield from _json_lines(path, lines, needed)
        return
    try:
        array = json.loads(text, object_pairs_hook=_Object)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error
    for number, record in enumerate(array, start=1):
        _check_object(f"{path}, row {number}", record, needed)
        yield number, record


def _header(line: str, delimiter: str) -> list[str]:
    """The columns of a first line; none if it is invalid, which reading the whole file reports."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _delimiter(line: str, suffix: str | None, needed: dict[str, str]) -> str:
    """The delimiter that gives the header the needed columns, else the one that gives most columns."""
    order = sorted(DELIMITERS, key=lambda d: (d == "\t") != (suffix == ".tsv"))
    for delimiter in order:
        if set(needed.values()) <= set(_header(line, delimiter)):
            return delimiter
    return max(order, key=lambda delimiter: len(_header(line, delimiter)))


def _csv_records(path: Path, lines: Iterator[str], needed: dict[str, str]) -> Records:
    csv.field_size_limit(LONGEST)
    skipped, header, delimiter = 0, next(lines, ""), None
    # Excel's way to declare the delimiter.
    if header.startswith("sep=") and len(header.rstrip("\r\n")) == 5:
        skipped, delimiter, header = 1, header[4], next(lines, "")
    delimiter = delimiter or _delimiter(header, format_of(path), needed)
    read: list[str] = []  # the lines of the row that is being read

    def kept() -> Iterator[str]:
        for line in chain([header], lines):
            read.append(line)
            yield line

    reader = csv.DictReader(kept(), delimiter=delimiter, strict=True)
    try:
        names = list(reader.fieldnames or [])
        note = "" if delimiter == "," else f" (separated by {delimiter!r})"
        if len(names) == 1:
            note = f", and none of the delimiters {', '.join(map(repr, DELIMITERS))}"
        check_columns(str(path), names, needed, note)
        read.clear()
        for record in reader:
            number = skipped + reader.line_num
            _require_one_row(path, number, read, delimiter, len(names))
            read.clear()
            if None in record:  # DictReader's key for fields beyond the columns
                raise UserError(
                    f"{path}, line {number}: more fields than columns; quote text that holds {delimiter!r}"
                )
            yield number, record
    except csv.Error as error:
        text = "line ends are CR alone, expected LF or CRLF" if "new-line" in str(error) else str(error)
        line = skipped + reader.line_num + 1
        raise UserError(f"{path}, line {line}: not valid CSV: {text}") from error


def _require_one_row(path: Path, number: int, lines: list[str], delimiter: str, columns: int) -> None:
    """Refuse a row of several lines, each of which is a whole row: two quotes of text have joined them.

    A text that begins with a quote begins a quoted field, which goes on to the next quote, lines later.
    Only where tabs or bars separate: text holds commas, so that lines of a quoted text can look like rows.
    """
    counts = [line.count(delimiter) for line in lines if line.strip()]
    if delimiter in "\t|" and len(counts) > 1 and set(counts) == {columns - 1}:
        raise UserError(
            f"{path}, lines {number - len(lines) + 1} to {number}: a quote at the start of a field joins "
            f"these lines, and each of them is a whole row; if the quotes are text, write each one twice and "
            "put quotes around the field, or use .jsonl"
        )


def _parquet_records(path: Path, needed: dict[str, str]) -> Records:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:  # see core/parquet.py
            names = file.schema_arrow.names
            check_columns(str(path), names, needed)
            require_expandable(path, file.metadata, whole=False)
            # Other columns are not read: they may hold values that Python cannot represent.
            columns = list(dict.fromkeys([*needed.values(), *({ID} & set(names))]))
            rows = _rows_at_once(path, file, columns)
            for batch in file.iter_batches(rows, columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    # KeyError: a time zone that does not exist; RuntimeError: metadata that contradict each other.
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{path}: not a valid parquet file after row {number}: {text}") from error


def _rows_at_once(path: Path, file: "pq.ParquetFile", columns: list[str]) -> int:
    """How many rows of a parquet file to read at once. Refuses a file whose texts expand to fill the memory.

    A dictionary, or texts that share their beginnings, store one long text for many rows in a few bytes, and
    the file declares those bytes alone. Where its rows could expand far, their lengths are added up first.
    """
    # Not by the metadata of columns: reading those of a damaged file ends the process (pyarrow 26).
    groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
    longest = max((group.total_byte_size for group in groups), default=0)  # no text is longer
    if file.metadata.num_rows * longest <= EXPANDED_ALWAYS:
        return BATCH
    types = {name: file.schema_arrow.field(name).type for name in columns}
    if any(type_.num_fields for type_ in types.values()):
        return 1  # a list or a struct: its first row is refused
    texts = [name for name, type_ in types.items() if _is_text(type_)]
    try:
        _require_real_lengths(path, texts, texts, BATCH)
        return BATCH
    except OSError as error:
        if "Not yet implemented" not in str(error):
            raise
    # Texts that share their beginnings have no dictionary: they are copied to be measured, so few at once.
    rows = max(1, min(BATCH, EXPANDED_ALWAYS // 4 // max(1, longest)))
    _require_real_lengths(path, texts, [], rows)
    return rows


def _require_real_lengths(path: Path, texts: list[str], in_dictionary: list[str], rows: int) -> None:
    """Refuse a parquet file whose texts have together far more bytes than the file.

    in_dictionary: the columns that are measured in their dictionary, without a copy for each row.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    total = 0
    with pq.ParquetFile(path, read_dictionary=in_dictionary, pre_buffer=False) as file:
        for batch in file.iter_batches(rows, columns=texts):
            for column in batch.columns:
                if pa.types.is_dictionary(column.type):
                    sizes = pc.binary_length(column.dictionary).take(column.indices)
                else:
                    sizes = pc.binary_length(column)
                total += pc.sum(sizes).as_py() or 0
            require_expansion(path, total)


def _is_text(type_: "pa.DataType") -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(kind(type_) for kind in kinds)
