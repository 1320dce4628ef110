"""Which rows of a source are worth keeping: no empty, repeated or trivial ones, no document in two splits."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from onesentence.core.columns import Column
from onesentence.core.params import SPLITS
from onesentence.core.pool import Pool
from onesentence.data.checking import COPIED, EMPTY
from onesentence.data.keys import KeyTable
from onesentence.data.rows import RowWriter, StoredRows
from onesentence.data.sources import Source

NOWHERE = -1  # of a document or group that no split has yet


@dataclass(frozen=True)
class ReadRows:
    """All rows of a source, as read. In memory are 26 bytes a row; while they are read, 80.

    sides: index of the split in SPLITS; flags: EMPTY or COPIED; documents, groups: equal numbers mark equal
    documents and equal groups.
    """

    stored: StoredRows
    sides: NDArray[np.uint8]
    flags: NDArray[np.uint8]
    documents: NDArray[np.int32]
    groups: NDArray[np.int32]


def read_rows(source: Source, pool: Pool, language: str, file: Path) -> ReadRows:
    """Read every row of a source into `file`. Test is read first, and train last."""
    writer = RowWriter(file)
    columns = {"sides": Column(np.uint8), "flags": Column(np.uint8)}
    columns |= {"documents": Column(np.int32), "groups": Column(np.int32)}
    documents, groups = KeyTable(), KeyTable()
    with tqdm(desc="read and check", unit="row") as bar:
        for batch, ids in source.batches(pool, language, SPLITS[::-1]):
            writer.extend(batch.stored, batch.sizes)
            columns["sides"].extend(batch.sides)
            columns["flags"].extend(batch.flags)
            columns["documents"].extend(documents.add(batch.documents)[0])
            # A row that is its own group has the id of its group.
            columns["groups"].extend(ids if batch.groups is None else groups.add(batch.groups)[0])
            bar.update(len(batch))
    return ReadRows(writer.close(), **{name: column.values for name, column in columns.items()})


def clean(
    rows: ReadRows, grouped: bool = False
) -> tuple[dict[str, NDArray[np.int64]], dict[str, Counter[str]]]:
    """(indices of good rows by split, counts by split: rows read, and rows dropped for each reason).

    Test is cleaned first and train last, so that of two equal documents the held-out one stays. grouped: do
    the same for groups (a newspaper, an author), so that no group is in two splits. Docstrings are not
    grouped, because near-duplicates move to train while the rest of their file stays.
    """
    cleaned: dict[str, NDArray[np.int64]] = {}
    counts: dict[str, Counter[str]] = {}
    side_of_document = np.full(rows.documents.max(initial=-1) + 1, NOWHERE, dtype=np.int8)
    side_of_group = np.full(rows.groups.max(initial=-1) + 1 if grouped else 0, NOWHERE, dtype=np.int8)
    for split in reversed(SPLITS):
        side, count = SPLITS.index(split), Counter[str]()
        left = np.flatnonzero(rows.sides == side)
        count["read"] = len(left)
        left = _keep(left, rows.flags[left] != EMPTY, count, "empty document or summary")

        elsewhere = side_of_document[rows.documents[left]] != NOWHERE
        left = _keep(left, ~elsewhere, count, "document is in another split")
        first = np.zeros(len(left), dtype=bool)
        first[np.unique(rows.documents[left], return_index=True)[1]] = True
        side_of_document[rows.documents[left]] = side
        left = _keep(left, first, count, "duplicate document")

        copied = rows.flags[left] == COPIED
        left = _keep(left, ~copied, count, "summary is the document's first sentence")
        if grouped:
            elsewhere = side_of_group[rows.groups[left]] != NOWHERE
            left = _keep(left, ~elsewhere, count, "group is in another split")
            side_of_group[rows.groups[left]] = side
        cleaned[split], counts[split] = left, count
    return cleaned, counts


def _keep(
    rows: NDArray[np.int64], good: NDArray[np.bool_], count: Counter[str], reason: str
) -> NDArray[np.int64]:
    """The good ones of `rows`; counts the others, if there are any."""
    if not good.all():
        count[reason] += int((~good).sum())
    return rows[good]
