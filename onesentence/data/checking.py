"""Turns records of any source into checked rows, a chunk at a time: what worker processes do for `prepare`.

A worker sees one chunk. What needs all rows (whether an id is unique, whether a document was read before) is
prepared here as digests and decided in the main process.
"""

import datetime
import decimal
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onesentence.core.errors import UserError
from onesentence.core.params import SPLITS
from onesentence.core.text import ASCII_WORD, WORD, first_sentence, fold, has_word, words
from onesentence.data.keys import KEY_BYTES, as_keys
from onesentence.data.records import ID
from onesentence.data.rows import Example, decode_all, encode

# Share of a single local file for test, and the same for validation. A hash of each document decides, or of
# each group if rows have groups, so that the same row has the same split in every file.
LOCAL_HELD_OUT_SHARE = 0.1
EMPTY, COPIED = 1, 2  # flags of a row: a text has no word; the summary is the document's first sentence
WHOLE_FLOAT = re.compile(r"-?(?:0|[1-9]\d*)\.0")
FIRST_LETTERS = 20_000  # they hold the first sentence in practice; splitting a whole book costs seconds


@dataclass(frozen=True)
class Rules:
    """How records become rows.

    empty: accept empty texts (`prepare` drops such rows); language: of the texts, for COPIED; None: that flag
    is not needed.
    """

    document_column: str
    summary_column: str
    group_column: str | None
    empty: bool = False
    language: str | None = None


@dataclass(frozen=True)
class Chunk:
    """Consecutive records of one file, or rows of a source that makes them itself.

    split: "" if a hash of each row decides. where and unit: name a record in errors ("data.csv", "line").
    named: whether rows have ids; first: the place of the file's first row, which decides that.
    """

    split: str
    where: str = ""
    unit: str = ""
    numbered: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    named: bool = False
    first: str = ""
    examples: list[Example] | None = None


@dataclass(frozen=True)
class Batch:
    """The rows of a chunk, checked and encoded. n: their number; error: of the record that follows them.

    lines: by split, the bytes that the source's hash is of. Keys (digests): ids, documents (the whole
    articles), groups (None: each row is its own group). texts: a short digest of each pair.
    """

    chunk: Chunk
    stored: bytes
    sizes: NDArray[np.uint32]
    sides: NDArray[np.uint8]
    flags: NDArray[np.uint8]
    ids: NDArray[np.uint64]
    texts: NDArray[np.uint64]
    documents: NDArray[np.uint64]
    groups: NDArray[np.uint64] | None
    lines: dict[str, bytes]
    numbers: NDArray[np.uint32]
    error: UserError | None

    def __len__(self) -> int:
        return len(self.sizes)

    def examples(self) -> Iterator[Example]:
        """Yield the rows."""
        return decode_all(self.stored, self.sizes)


def read_chunk(rules: Rules, chunk: Chunk) -> Batch:
    """Check and encode the rows of a chunk, up to the first error."""
    rows: list[Example] = []
    error = None
    try:
        for row in examples(rules, chunk):
            rows.append(row)
    except UserError as problem:
        error = problem
    grouped = rules.group_column is not None or chunk.examples is not None
    sides = [chunk.split or side(row.group if grouped else row.document) for row in rows]
    stored = [encode(row) for row in rows]
    lines = {split: b"" for split in SPLITS}
    for split in {*sides}:
        own = (row for row, where in zip(rows, sides, strict=True) if where == split)
        lines[split] = b"".join(map(hashed_line, own))
    pairs = [text_digest(row.document + "\x00" + row.summary)[:8] for row in rows]
    return Batch(
        # The records stay here: the main process needs only what names them.
        chunk=Chunk(chunk.split, chunk.where, chunk.unit),
        stored=b"".join(stored),
        sizes=np.array([len(each) for each in stored], dtype=np.uint32),
        sides=np.array([SPLITS.index(split) for split in sides], dtype=np.uint8),
        flags=np.array([_flags(row, rules.language) for row in rows], dtype=np.uint8),
        ids=as_keys([_digest(row.id) for row in rows]),
        texts=np.frombuffer(b"".join(pairs), dtype=np.uint64),
        documents=as_keys([text_digest(row.article) for row in rows]),
        groups=as_keys([_digest(row.group) for row in rows]) if grouped else None,
        lines=lines,
        numbers=np.array([number for number, _ in chunk.numbered[: len(rows)]], dtype=np.uint32),
        error=error,
    )


def hashed_line(row: Example) -> bytes:
    """What the hash of a source is of: the row as a JSON array on one line."""
    line = json.dumps([row.id, row.article, row.summary, row.group], ensure_ascii=False)
    return line.encode("utf-8") + b"\n"


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=KEY_BYTES).digest()


def canonical(text: str) -> str:
    """A text in one spelling: white space and the composition of letters (NFC) make no difference."""
    blanks = " ".join(text.split())
    return blanks if blanks.isascii() else unicodedata.normalize("NFC", blanks)


def text_digest(text: str) -> bytes:
    """16-byte digest of a text in its canonical spelling."""
    return _digest(canonical(text))


def side(text: str) -> str:
    """The split of a row of a single file, by a hash of its document or group in its canonical spelling."""
    digest = hashlib.blake2b(canonical(text).encode("utf-8"), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64  # evenly distributed in [0, 1)
    if place < LOCAL_HELD_OUT_SHARE:
        return "test"
    return "validation" if place < 2 * LOCAL_HELD_OUT_SHARE else "train"


def _flags(row: Example, language: str | None) -> int:
    if not has_word(row.article) or not has_word(row.summary):
        return EMPTY
    return COPIED if language is not None and is_first_sentence(row, language) else 0


def is_first_sentence(row: Example, language: str) -> bool:
    """Whether the summary has the words of the document's first sentence."""
    start = row.document[:FIRST_LETTERS]
    wanted = words(row.summary)
    # Most documents begin with another word than their summary. That is seen at once, while finding where
    # the first sentence ends means splitting the whole text into sentences.
    word_pattern: Any = ASCII_WORD if start.isascii() else WORD  # of `re` or of `regex`
    beginning = word_pattern.finditer(start)
    for word in wanted:
        match = next(beginning, None)
        if match is None or fold(match[0]) != word:
            return False
    return words(first_sentence(start, language)) == wanted


def examples(rules: Rules, chunk: Chunk) -> Iterator[Example]:
    """Yield a chunk's records as rows. Raises a UserError that names the place of a wrong one."""
    if chunk.examples is not None:
        yield from chunk.examples
        return
    for number, record in chunk.numbered:
        place = f"{chunk.where}, {chunk.unit} {number}"
        document, summary = (
            _text(place, record, column, rules.empty)
            for column in (rules.document_column, rules.summary_column)
        )
        name = _name(place, record, ID)
        if chunk.named != (name is not None):
            with_id, without = (chunk.first, place) if chunk.named else (place, chunk.first)
            raise UserError(
                f"{without}: no {ID!r}, but {with_id} has one; give every row its own id, or none"
            )
        group = _group(place, record, rules.group_column)
        # A row without an id is named by its split and number, which is unique over all files.
        yield Example(name or f"{chunk.split}{'-' if chunk.split else ''}{number}", document, summary, group)


def has_name(record: dict[str, Any]) -> bool:
    """Whether a file's first record has an id, as all of its rows then must."""
    try:
        return name_of(record.get(ID)) is not None
    except TypeError:  # the row itself will be refused
        return True


def name_of(value: object) -> str | None:
    """An id or a group as text, the same for every file format; None if the value is missing.

    Null, NaN, and text that is blank or reads "NaN" count as missing. Raises TypeError for any other type.
    """
    if isinstance(value, str):
        name = canonical(value)
        if WHOLE_FLOAT.fullmatch(name):
            # In a CSV of pandas, see below. Not by int(): it refuses thousands of digits.
            return "0" if name == "-0.0" else name.removesuffix(".0")
        return None if name.lower() in ("", "nan") else name
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | decimal.Decimal):
        if math.isnan(value):
            return None
        # pandas stores whole numbers as floats if one of them is missing, so 7.0 means 7.
        return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, int):
        return str(value)
    if value is None:
        return None
    raise TypeError(type(value).__name__)


def _text(place: str, record: dict[str, Any], column: str, empty: bool) -> str:
    value = record[column]
    if value is None and empty:
        return ""
    if not isinstance(value, str):
        raise UserError(
            f"{place}: {column!r} must be text, found {type(value).__name__}; correct or remove the row"
        )
    if not empty and not value.strip():
        raise UserError(f"{place}: {column!r} is empty; correct or remove the row")
    return _storable(value)


def _name(place: str, record: dict[str, Any], column: str) -> str | None:
    try:
        name = name_of(record.get(column))
    except TypeError as error:
        raise UserError(
            f"{place}: {column!r} must be text, a number or a date, found {error}; correct the row"
        ) from error
    return None if name is None else _storable(name)


def _group(place: str, record: dict[str, Any], column: str | None) -> str:
    """The row's group, or "" where the data have no groups."""
    if column is None:
        return ""
    group = _name(place, record, column)
    if group is None:
        raise UserError(
            f"{place}: {column!r} (data.group_column) is missing or empty; give every row a group, or "
            "set data.group_column to null"
        )
    return group


def _storable(text: str) -> str:
    """`text` with lone surrogates replaced: JSON can contain one, UTF-8 cannot store it."""
    return text.encode("utf-8", "replace").decode("utf-8")
