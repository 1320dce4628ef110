"""Describes the rows that the pipeline uses: lengths, novelty, groups, near-duplicates of training rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from onesentence.core.columns import Column
from onesentence.core.pool import Pool
from onesentence.core.text import words
from onesentence.data.near_duplicates import load_index, shingles_of, summary_set_of
from onesentence.data.rows import StoredRows
from onesentence.data.selection import in_chunks

QUANTILES = (0, 5, 25, 50, 75, 95, 100)
NGRAMS = (1, 2, 3, 4)
NOVELTY_ROWS = 2_000  # the first rows of a split's random order: enough for a share with an error of 1 point


@dataclass(frozen=True)
class Part:
    """What a description needs of some rows.

    Lengths in words; novelty: shares [rows, NGRAMS], NaN where a summary has no such n-gram; bodies and
    summaries: their hashes, for an index; matches: the indexed rows with a near-duplicate among these rows.
    """

    document_words: NDArray[np.int32]
    summary_words: NDArray[np.int32]
    novelty: NDArray[np.float64]
    bodies: list[NDArray[np.uint64]]
    summaries: list[NDArray[np.uint64]]
    matches: NDArray[np.int64]


def novel_share(document: list[str], summary: list[str], n: int) -> float:
    """`novel_ngram_share` of texts that are split into words, which takes most of its time; NaN for None."""

    def grams(tokens: list[str]) -> set[tuple[str, ...]]:
        return set(zip(*(tokens[i:] for i in range(n)), strict=False))

    summary_grams = grams(summary)
    if not summary_grams:
        return np.nan
    return len(summary_grams - grams(document)) / len(summary_grams)


def describe_part(index: Path | None, item: tuple[StoredRows, int]) -> Part:
    """Read some rows and describe them.

    index: the folder of an index to look each row up in; None: return the hashes that an index is made of.
    item: the rows, and of how many of them the novelty is needed.
    """
    lengths, novelty = [], []
    bodies, summaries = [], []
    matches: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    for number, row in enumerate(item[0]):
        document, summary = words(row.document), words(row.summary)
        lengths.append((len(words(row.article)) if row.heading else len(document), len(summary)))
        if number < item[1]:
            novelty.append([novel_share(document, summary, n) for n in NGRAMS])
        body, summary_hashes = shingles_of(document), summary_set_of(summary)
        if index is None:
            bodies.append(body)
            summaries.append(summary_hashes)
        else:
            matches.append(load_index(index).matches_of(body, summary_hashes))
    counts = np.array(lengths, dtype=np.int32).reshape(-1, 2)
    return Part(
        counts[:, 0],
        counts[:, 1],
        np.array(novelty, dtype=np.float64).reshape(-1, len(NGRAMS)),
        bodies,
        summaries,
        np.unique(np.concatenate(matches)),
    )


def parts(
    rows: StoredRows, pool: Pool, label: str, index: Path | None = None
) -> Iterator[tuple[StoredRows, Part]]:
    """Yield (some rows, what a description needs of them), in order. index: see `describe_part`."""

    def items() -> Iterator[tuple[StoredRows, int]]:
        before = 0
        for chunk in in_chunks(rows):
            yield chunk, max(0, NOVELTY_ROWS - before)
            before += len(chunk)

    described = pool.map(partial(describe_part, index), items())
    with tqdm(total=len(rows), desc=label, unit="row") as bar:
        for chunk, part in zip(in_chunks(rows), described, strict=True):
            yield chunk, part
            bar.update(len(chunk))


class Description:
    """Collects the parts of a split. Needs 8 bytes a row."""

    def __init__(self) -> None:
        self._document_words, self._summary_words = Column(np.int32), Column(np.int32)
        self._novelty = Column(np.float64, len(NGRAMS))

    def add(self, part: Part) -> None:
        """Append the part that follows."""
        self._document_words.extend(part.document_words)
        self._summary_words.extend(part.summary_words)
        self._novelty.extend(part.novelty)

    def values(self) -> dict[str, Any]:
        """Length quantiles in words, and the mean percentage of new n-grams in the summaries."""
        novelty = {}
        for n, shares in zip(NGRAMS, self._novelty.values.T, strict=True):
            known = shares[~np.isnan(shares)]
            novelty[str(n)] = 100 * float(np.mean(known)) if len(known) else None
        return {
            "document_words": quantiles(self._document_words.values),
            "summary_words": quantiles(self._summary_words.values),
            "novel_ngrams_percent": novelty,
        }


def quantiles(lengths: NDArray[np.int32]) -> dict[str, int]:
    """Lengths at the percentiles of QUANTILES; each is a length that occurs."""
    values = np.percentile(lengths, QUANTILES, method="inverted_cdf")
    return {f"p{q}": int(value) for q, value in zip(QUANTILES, values, strict=True)}


def group_sizes(groups: NDArray[np.int32]) -> dict[str, int]:
    """The number of groups, and the number of rows in the largest one. groups: the group of each row."""
    sizes = np.unique(groups, return_counts=True)[1]
    return {"groups": len(sizes), "largest_group": int(sizes.max())}
