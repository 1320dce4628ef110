"""Batches: which rows share one, and their order."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onesentence.core.files import id_arrays, read_parquet
from onesentence.core.params import Train

Ids = NDArray[np.int32]
Row = tuple[Ids, Ids]  # the token ids of a prompt, and those of its completion

EVAL_BATCH = 8  # rows; more do not fit in the CPU's cache (measured: 8 give 1.4 times the tokens/s of 32)


def batch_order(
    lengths: list[int], batch_size: int, epochs: int, seed: int, novelty: list[float] | None = None
) -> list[list[int]]:
    """The row indices of every batch of a run. Each epoch visits every row once.

    Rows of similar length share a batch, since padding costs time. A random order is cut into pools of 16
    batches; each pool is sorted by length and cut into batches; the batches of the epoch are shuffled. The
    last batch of an epoch may be smaller.

    With novelty (one number a row), an epoch is a curriculum: pools are ordered from the least to the most
    novel, and batches are shuffled within their pool (a scoring function and a pacing of one pass: Hacohen
    and Weinshall 2019).
    """
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(epochs):
        order = rng.permutation(len(lengths)).tolist()
        if novelty is not None:
            order.sort(key=lambda i: novelty[i])
        epoch = []
        # A pool of 16 batches: large enough for rows of one length, small enough to stay random.
        for start in range(0, len(order), 16 * batch_size):
            pool = sorted(order[start : start + 16 * batch_size], key=lambda i: (lengths[i], i))
            cut = [pool[k : k + batch_size] for k in range(0, len(pool), batch_size)]
            epoch += cut if novelty is None else [cut[i] for i in rng.permutation(len(cut))]
        batches += epoch if novelty is not None else [epoch[i] for i in rng.permutation(len(epoch))]
    return batches


def token_novelty(prompt: Ids, completion: Ids) -> float:
    """Share (0 to 1) of the summary's distinct token 2-grams that its prompt lacks; 1 if it has no 2-gram."""
    pairs = set(pairwise(completion.tolist()))
    return len(pairs - set(pairwise(prompt.tolist()))) / len(pairs) if pairs else 1.0


def batches_of(rows: Sequence[Row], settings: Train, seed: int) -> list[list[int]]:
    """The row indices of every batch of a run over (prompt, completion) rows.

    settings: params.yaml's `train` section, which sets whole epochs, or a number of optimizer steps over as
    many epochs as they need.
    """
    lengths = [len(prompt) + len(completion) for prompt, completion in rows]
    novelty = [token_novelty(*row) for row in rows] if settings.order == "extractive_first" else None
    size = settings.batch_size
    if settings.steps is None:
        assert settings.epochs is not None  # params.yaml must set one of the two
        return batch_order(lengths, size, settings.epochs, seed, novelty)
    count = settings.steps * settings.gradient_accumulation
    epochs = -(-count // -(-len(rows) // size))  # -(-a // b) rounds up
    return batch_order(lengths, size, epochs, seed, novelty)[:count]


def measured_batches(rows: Sequence[Row]) -> list[list[Row]]:
    """The batches on which a loss is measured: rows of similar length together."""
    ordered = sorted(rows, key=lambda row: len(row[0]) + len(row[1]))
    return [ordered[start : start + EVAL_BATCH] for start in range(0, len(ordered), EVAL_BATCH)]


def most_labels(batches: Sequence[Sequence[Row]]) -> int:
    """The number of labels in the batch that has most; logits are computed for labels only."""
    return max(sum(len(completion) for _, completion in batch) for batch in batches)


def read_rows(path: Path) -> list[Row]:
    """(prompt ids, completion ids), int32, of each row of a tokenized split, in its order."""
    table = read_parquet(path, ["prompt_ids", "completion_ids"])
    return list(zip(id_arrays(table["prompt_ids"]), id_arrays(table["completion_ids"]), strict=True))
