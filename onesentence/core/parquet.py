"""Reads and writes parquet files a piece at a time, with the bytes that writing them at once would give."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from onesentence.core.files import atomic_write, damaged, require_output

ROW_GROUP = 8_192  # rows; those of files.write_parquet
BATCH_ROWS = 256  # that are read at once


class RowGroups:
    """Collects rows of a parquet file and writes them in groups of ROW_GROUP; one group is in memory."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer = writer
        self._waiting = schema.empty_table()
        self._written = False

    def add(self, table: pa.Table) -> None:
        """Append rows with the schema of the file, any number of them."""
        self._waiting = pa.concat_tables([self._waiting, table])
        while len(self._waiting) >= ROW_GROUP:
            self._write(ROW_GROUP)

    def close(self) -> None:
        """Write the rows that are left. A file without rows has one empty group, as `write_table` gives."""
        if len(self._waiting) or not self._written:
            self._write(len(self._waiting))

    def _write(self, count: int) -> None:
        # One array a column, as `write_table` gets them: where arrays end decides where pages end.
        rows = self._waiting.slice(0, count).combine_chunks()
        self._writer.write_table(rows, row_group_size=ROW_GROUP)
        self._waiting = self._waiting.slice(count)
        self._written = True


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema) -> Iterator[RowGroups]:
    """Yield what collects the rows of a new parquet file; the file appears when it is whole."""
    with atomic_write(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        groups = RowGroups(writer, schema)
        yield groups
        groups.close()
        writer.close()  # before the file gets its name


@contextmanager
def parquet_reader(path: Path) -> Iterator[pq.ParquetFile]:
    """Yield a parquet file that an earlier stage wrote."""
    require_output(path)
    try:
        # Fetching ahead keeps the bytes of every row group to the end: 115 bytes a row in `tokenize`.
        file = pq.ParquetFile(path, pre_buffer=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise damaged(path, error) from error
    with file:
        yield file


def read_rows(file: pq.ParquetFile, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a parquet file as tuples of `columns`; few of them are in memory."""
    for batch in file.iter_batches(BATCH_ROWS, columns=columns):
        yield from zip(*(batch[name].to_pylist() for name in columns), strict=True)
