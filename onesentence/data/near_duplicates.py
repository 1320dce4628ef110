"""Finds near-duplicate rows: body 5-gram Jaccard > 0.5, or summary unigram F1 > 0.8.

Both are bounds on the overlap o of two sets with sizes a and b:

- Jaccard: o / (a + b - o) > 0.5 means o > (a + b) / 3;
- F1: 2o / (a + b) > 0.8 means o > 0.4 (a + b).

A pair with o > c (a + b) shares at least one of the rarest a - floor(c / (1 - c) a) elements of each set
(prefix filter: Chaudhuri et al. 2006). So only those elements are indexed and looked up. The test itself is
exact.
"""

import zlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onesentence.core.text import words

BODY_BOUND = 1 / 3
SUMMARY_BOUND = 0.4

CACHED_WORDS = 500_000  # limits the cache to about 60 MB in each process, on corpora of any size
FILES = ("hashes", "starts", "values", "counts", "elements", "rows", "occupied")  # of an index on disk

_word_hash: dict[str, int] = {}


def shingles(text: str, cut: Callable[[str], list[str]] = words, n: int = 5) -> NDArray[np.uint64]:
    """Sorted distinct 64-bit hashes of the word n-grams of `text` (shape [distinct], uint64).

    cut: splits a text into words. A text of fewer than n words counts as one n-gram. Words are hashed by
    CRC-32, which is the same everywhere (`hash(str)` changes with PYTHONHASHSEED). An odd multiplier mixes
    the hashes of the n places.
    """
    return shingles_of(cut(text), n)


def shingles_of(tokens: list[str], n: int = 5) -> NDArray[np.uint64]:
    """`shingles` of a text that is split into words."""
    if not tokens:
        return np.empty(0, dtype=np.uint64)
    for token in tokens:
        if token not in _word_hash:
            _word_hash[token] = zlib.crc32(token.encode())
    if len(_word_hash) > CACHED_WORDS:
        hashes = np.array([_word_hash[token] for token in tokens], dtype=np.uint64)
        _word_hash.clear()
    else:
        hashes = np.array([_word_hash[token] for token in tokens], dtype=np.uint64)
    width = min(n, len(hashes))
    mixed = np.zeros(len(hashes) - width + 1, dtype=np.uint64)
    for place in range(width):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + hashes[place : place + len(mixed)]
        mixed ^= mixed >> np.uint64(29)
    return np.unique(mixed)


def summary_set(text: str, cut: Callable[[str], list[str]] = words) -> NDArray[np.uint64]:
    """Sorted hashes of (word, its number of occurrences so far).

    The overlap of two such sets is the overlap of the multisets of words.
    """
    return summary_set_of(cut(text))


def summary_set_of(tokens: list[str]) -> NDArray[np.uint64]:
    """`summary_set` of a text that is split into words."""
    seen: dict[str, int] = {}
    hashes = []
    for word in tokens:
        seen[word] = seen.get(word, 0) + 1
        hashes.append(zlib.crc32(word.encode()) << 32 | seen[word])
    return np.unique(np.array(hashes, dtype=np.uint64))


class OverlapIndex:
    """Finds the indexed sets whose overlap with a query set is more than `bound` x (sum of the two sizes).

    sets: one sorted array of distinct uint64 hashes for each row. The index takes about 16 bytes for each
    element, and a table of at most 256 MiB.
    """

    def __init__(self, sets: list[NDArray[np.uint64]], bound: float) -> None:
        self.bound = bound
        self.starts = np.cumsum([0, *map(len, sets)], dtype=np.int64)
        self.hashes = np.concatenate([*sets, np.empty(0, dtype=np.uint64)])  # set after set
        values, counts = np.unique(self.hashes, return_counts=True)
        # An element of a single row (most 5-grams) is treated like an element of no row: both are rare, and
        # the table stays small.
        self.values, self.counts = values[counts > 1], counts[counts > 1]
        del values, counts
        prefixes = [self._prefix(row) for row in sets]
        elements = np.concatenate([*prefixes, np.empty(0, dtype=np.uint64)])
        rows = np.repeat(np.arange(len(sets), dtype=np.int32), [len(prefix) for prefix in prefixes])
        del prefixes
        order = np.argsort(elements, kind="stable")
        self.elements, self.rows = elements[order], rows[order]
        # A table of flags by the hash's first bits. One look-up rules out nearly every element of a query
        # that is not indexed; a binary search would take 20 steps.
        shift = np.uint64(64 - min(28, max(8, (16 * len(elements)).bit_length())))
        self.occupied = np.zeros(1 << (64 - int(shift)), dtype=bool)
        self.occupied[elements >> shift] = True

    def save(self, folder: Path) -> None:
        """Write the index to a new folder, for `load`."""
        folder.mkdir(parents=True)
        for name in FILES:
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path, bound: float) -> "OverlapIndex":
        """The index that `save` wrote. Its files are mapped, so several processes share one copy."""
        index = cls.__new__(cls)
        index.bound = bound
        for name in FILES:
            # A plain view: numpy's own class for mapped arrays makes each small slice slow.
            setattr(index, name, np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray))
        return index

    def _set(self, row: int) -> NDArray[np.uint64]:
        return self.hashes[self.starts[row] : self.starts[row + 1]]

    def _size(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of elements of each of these sets."""
        sizes: NDArray[np.int64] = self.starts[rows + 1] - self.starts[rows]
        return sizes

    def _prefix(self, row: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The rarest elements of `row`, ties by hash: a match shares at least one of them."""
        if not len(self.values) or not len(row):
            return row
        place = np.minimum(np.searchsorted(self.values, row), len(self.values) - 1)
        count = np.where(self.values[place] == row, self.counts[place], 0)
        keep = len(row) - int(np.floor(self.bound / (1 - self.bound) * len(row) + 1e-9))
        return row[np.lexsort((row, count))][:keep]

    def matches(self, row: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Indices of the indexed rows that match `row`, ascending."""
        prefix = self._prefix(row)
        bits = len(self.occupied).bit_length() - 1
        prefix = prefix[self.occupied[prefix >> np.uint64(64 - bits)]]
        low = np.searchsorted(self.elements, prefix, "left")
        high = np.searchsorted(self.elements, prefix, "right")
        spans = [self.rows[a:b] for a, b in zip(low, high, strict=True) if b > a]
        if not spans:
            return np.empty(0, dtype=np.int64)
        candidates = np.unique(np.concatenate(spans)).astype(np.int64)
        sizes = self._size(candidates)
        needed = self.bound * (sizes + len(row))
        fits = needed < np.minimum(sizes, len(row))
        return np.array(
            [
                candidate
                for candidate, least in zip(candidates[fits], needed[fits], strict=True)
                if len(np.intersect1d(self._set(candidate), row, assume_unique=True)) > least
            ],
            dtype=np.int64,
        )


class NearDuplicates:
    """Finds near-duplicates among indexed (body, summary) rows. cut: splits a text into words."""

    def __init__(
        self,
        bodies: Iterable[str],
        summaries: Iterable[str],
        cut: Callable[[str], list[str]] = words,
    ) -> None:
        self.cut = cut
        self.bodies = OverlapIndex([shingles(text, cut) for text in bodies], BODY_BOUND)
        self.summaries = OverlapIndex([summary_set(text, cut) for text in summaries], SUMMARY_BOUND)

    def matches(self, body: str, summary: str) -> NDArray[np.int64]:
        """Indices of the indexed rows that are near-duplicates of (body, summary), ascending."""
        return self.matches_of(shingles(body, self.cut), summary_set(summary, self.cut))

    def matches_of(self, body: NDArray[np.uint64], summary: NDArray[np.uint64]) -> NDArray[np.int64]:
        """`matches` of a row whose hashes are known."""
        return np.union1d(self.bodies.matches(body), self.summaries.matches(summary))


def save_index(folder: Path, bodies: list[NDArray[np.uint64]], summaries: list[NDArray[np.uint64]]) -> None:
    """Write an index of rows to a new folder. bodies: their `shingles`; summaries: their `summary_set`."""
    OverlapIndex(bodies, BODY_BOUND).save(folder / "bodies")
    OverlapIndex(summaries, SUMMARY_BOUND).save(folder / "summaries")


@lru_cache(maxsize=1)  # a worker process loads it once, and not for each chunk
def load_index(folder: Path) -> NearDuplicates:
    """The index that `save_index` wrote to this folder."""
    index = NearDuplicates.__new__(NearDuplicates)
    index.cut = words
    index.bodies = OverlapIndex.load(folder / "bodies", BODY_BOUND)
    index.summaries = OverlapIndex.load(folder / "summaries", SUMMARY_BOUND)
    return index
