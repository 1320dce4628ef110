"""Compute the overlap of many outputs with their references, on all cores of the machine.

A failed or empty output scores 0 and enters the corpus scores as an empty text.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from onesentence.core.errors import UserError
from onesentence.core.pool import start_worker, worker_count
from onesentence.evaluation.overlap.bleu import Bleu
from onesentence.evaluation.overlap.chrf import Chrf
from onesentence.evaluation.overlap.chrf_plus import ChrfPlus
from onesentence.evaluation.overlap.meteor import Meteor, word_net
from onesentence.evaluation.overlap.overlap_metric import OverlapMetric
from onesentence.evaluation.overlap.rouge import Rouge
from onesentence.evaluation.resampling import Aggregate

OVERLAP_METRICS: tuple[type[OverlapMetric], ...] = (Rouge, Bleu, Chrf, Meteor, ChrfPlus)
CORPUS: dict[str, tuple[int, Aggregate]] = {
    name: entry for metric in OVERLAP_METRICS for name, entry in metric.corpus.items()
}
OPTIONAL = frozenset(name for metric in OVERLAP_METRICS if metric.optional for name in metric.declared)
CHUNK = 256  # pairs per task of a worker; no score depends on it
FEW = 1_500  # pairs below which starting workers takes longer than it saves
Row = dict[str, float | list[int]]
Result = TypeVar("Result")

# Of this process. A worker fills it once, as it starts, and not for each chunk.
_metrics: list[OverlapMetric] = []


def chosen_metrics(more: tuple[str, ...]) -> list[type[OverlapMetric]]:
    """Return the classes that are always computed, and those with one of the metrics in `more`."""
    for name in more:
        if name not in OPTIONAL:
            raise UserError(f"metric {name!r}: expected one of {', '.join(sorted(OPTIONAL))}")
    return [metric for metric in OVERLAP_METRICS if not metric.optional or {*more} & {*metric.declared}]


def _build_metrics(language: str, meteor_synonyms: bool, more: tuple[str, ...]) -> None:
    """Build the metrics of this process."""
    _metrics[:] = [metric(language, meteor_synonyms) for metric in chosen_metrics(more)]


def _start_worker(language: str, meteor_synonyms: bool, more: tuple[str, ...]) -> None:
    """Prepare a worker process."""
    start_worker()
    _build_metrics(language, meteor_synonyms, more)


def _pairs(pairs: list[tuple[str, str]]) -> list[Row]:
    """Return the scores of (reference, output) pairs."""
    return [
        {name: score for metric in _metrics for name, score in metric.scores(reference, output).items()}
        for reference, output in pairs
    ]


def _oracles(pairs: list[tuple[str, str]]) -> list[str]:
    """Return the best sentences of (document, reference) pairs."""
    (rouge,) = (metric for metric in _metrics if isinstance(metric, Rouge))
    return [rouge.best_sentence(document, reference) for document, reference in pairs]


def _in_workers(
    function: Callable[[list[tuple[str, str]]], list[Result]],
    pairs: list[tuple[str, str]],
    language: str,
    meteor_synonyms: bool,
    more: tuple[str, ...],
    workers: int | None,
) -> list[Result]:
    """Return `function` of all pairs, in order, computed by `workers` processes (None: `worker_count`)."""
    if meteor_synonyms:
        word_net()  # an error here is one sentence; in a worker it would break the pool
    options = (language, meteor_synonyms, more)
    if workers is None:
        workers = 1 if len(pairs) < FEW else worker_count()
    if workers == 1:
        _build_metrics(*options)
        return function(pairs)
    chunks = [pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK)]
    # Not forked: a fork copies the locks of threads that do not exist in the child.
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=options
    ) as pool:
        return [item for rows in pool.map(function, chunks) for item in rows]


def overlap_scores(
    references: list[str],
    outputs: list[str],
    language: str,
    meteor_synonyms: bool,
    workers: int | None = None,
    more: tuple[str, ...] = (),
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.int64]]]:
    """Return ({metric: scores [outputs]}, {corpus metric: whole-number statistics [outputs, k]}).

    outputs: "" for a failed one. workers: processes; None is one per core. more: names of optional metrics.
    """
    pairs = list(zip(references, outputs, strict=True))
    rows = _in_workers(_pairs, pairs, language, meteor_synonyms, more, workers)
    names = [name for metric in chosen_metrics(more) for name in metric.declared]
    columns = {
        name: np.array([row[name] for row in rows], dtype=np.float64) for name in names if name not in CORPUS
    }
    corpus = {name: np.array([row[name] for row in rows], dtype=np.int64) for name in names if name in CORPUS}
    return columns, corpus


def oracle_sentences(
    documents: list[str], references: list[str], language: str, workers: int | None = None
) -> list[str]:
    """Return the extractive oracle of each document (Narayan et al. 2018): its best single sentence."""
    pairs = list(zip(documents, references, strict=True))
    return _in_workers(_oracles, pairs, language, False, (), workers)


def overlap_signatures(language: str, meteor_synonyms: bool, more: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the settings of each score, by name."""
    return {
        name: text
        for metric in chosen_metrics(more)
        for name, text in metric(language, meteor_synonyms).signatures().items()
    }
