"""Which good rows of a source the pipeline uses: a share of them, in an order that a seed fixes."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from onesentence.core.errors import UserError
from onesentence.core.params import SPLITS
from onesentence.core.pool import Pool, chunked
from onesentence.core.text import novel_ngram_share
from onesentence.data.rows import Example, StoredRows


def subset(
    rows: NDArray[np.int64], size: int | None, seed: int, split: str, after: str = "after cleaning"
) -> NDArray[np.int64]:
    """The first `size` of `rows` (None: all) in an order that `seed` fixes. A larger size only adds rows.

    after: what left `rows`, for the error where they are too few.
    """
    if size is not None and size > len(rows):
        raise UserError(
            f"data.{split}_size: asks for {size:,} rows, but {split} has {len(rows):,} {after}; lower "
            "it, or set it to null for all rows"
        )
    # Each split has its own generator, so that the size of one split does not change the choice in another.
    order = np.random.default_rng([seed, SPLITS.index(split)]).permutation(len(rows))
    return rows[order[:size]]


def in_chunks(rows: StoredRows) -> Iterator[StoredRows]:
    """Yield `rows` in pieces that a worker can hold in memory."""
    sizes = rows.sizes  # about a byte for a letter
    for chunk in chunked(range(len(rows)), lambda row: int(sizes[row])):
        yield rows.take(np.array(chunk, dtype=np.int64))


def novelties(rows: StoredRows) -> NDArray[np.float64]:
    """The share of new 2-grams of each row's summary; of new words for a summary of one word."""

    def share(row: Example) -> float:
        pairs = novel_ngram_share(row.document, row.summary, 2)
        return pairs if pairs is not None else novel_ngram_share(row.document, row.summary, 1) or 0.0

    return np.array([share(row) for row in rows], dtype=np.float64)


def most_novel_half(rows: NDArray[np.int64], stored: StoredRows, pool: Pool) -> NDArray[np.int64]:
    """The half of `rows` whose summaries have the largest share of new 2-grams, in the order of `rows`.

    rows: indices into `stored`. An odd number is rounded up.
    """
    novelty = np.empty(len(rows), dtype=np.float64)
    done = 0
    with tqdm(total=len(rows), desc="novelty of train", unit="row") as bar:
        for part in pool.map(novelties, in_chunks(stored.take(rows))):
            novelty[done : done + len(part)] = part
            done += len(part)
            bar.update(len(part))
    # A stable sort: of equally new rows, the earlier ones are chosen on every machine.
    chosen = np.sort(np.argsort(-novelty, kind="stable")[: -(-len(rows) // 2)])
    return rows[chosen]
