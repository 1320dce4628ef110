"""The rows of a source: one pair, and a file on disk that holds any number of them in little memory."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onesentence.core.columns import Column
from onesentence.core.text import with_heading

LENGTHS = struct.Struct("<5I")  # bytes of a stored row's id, heading, document, summary and group


@dataclass(frozen=True)
class Example:
    """A pair as in the source.

    group: what the row belongs to, such as an author; a row without one is its own group. heading: the line
    above the document's text, such as a function's signature; empty if there is none.
    """

    id: str
    document: str
    summary: str
    group: str = ""
    heading: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", self.group or self.id)  # bypasses `frozen`, once

    @property
    def article(self) -> str:
        """Heading and document, as the model reads them."""
        return with_heading(self.heading, self.document)


def encode(row: Example) -> bytes:
    """A row as bytes: the lengths of its texts, then the texts in UTF-8."""
    texts = [text.encode("utf-8") for text in (row.id, row.heading, row.document, row.summary, row.group)]
    return b"".join((LENGTHS.pack(*map(len, texts)), *texts))


def decode(stored: bytes) -> Example:
    """The row that `encode` made these bytes of."""
    texts, start = [], LENGTHS.size
    for length in LENGTHS.unpack_from(stored):
        texts.append(stored[start : start + length].decode("utf-8"))
        start += length
    name, heading, document, summary, group = texts
    return Example(name, document, summary, group, heading)


def decode_all(stored: bytes, sizes: NDArray[np.uint32]) -> Iterator[Example]:
    """Yield the rows that follow each other in `stored`. sizes: bytes of each row."""
    start = 0
    for size in sizes.tolist():
        yield decode(stored[start : start + size])
        start += size


@dataclass(frozen=True)
class StoredRows:
    """Rows in a file. starts and sizes: the first byte and the number of bytes of each row.

    Only these numbers are in memory, so a worker process is sent a few of them and reads the rows itself.
    """

    path: Path
    starts: NDArray[np.int64]
    sizes: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, rows: NDArray[np.int64]) -> "StoredRows":
        """The rows at these indices, in this order."""
        return StoredRows(self.path, self.starts[rows], self.sizes[rows])

    def __iter__(self) -> Iterator[Example]:
        with self.path.open("rb", buffering=0) as file:
            for start, size in zip(self.starts.tolist(), self.sizes.tolist(), strict=True):
                # Not mapped: the pages of a mapped file count as memory of this process.
                yield decode(os.pread(file.fileno(), size, start))


class RowWriter:
    """Writes rows to a file, to be read in any order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._sizes = Column(np.uint32)

    def extend(self, stored: bytes, sizes: NDArray[np.uint32]) -> None:
        """Append encoded rows. sizes: bytes of each."""
        self._file.write(stored)
        self._sizes.extend(sizes)

    def close(self) -> StoredRows:
        """Finish the file; returns its rows."""
        self._file.close()
        sizes = self._sizes.values
        starts = np.zeros(len(sizes), dtype=np.int64)
        np.cumsum(sizes[:-1], out=starts[1:])
        return StoredRows(self.path, starts, sizes)
