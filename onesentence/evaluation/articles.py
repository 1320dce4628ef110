"""Score article after article with a model, and keep what is finished for a run that may be stopped."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from onesentence.core.journal import Journal

BATCH = 32  # articles of a journal's entry: what a stopped run computes again at most


def score_articles(
    what: str,
    systems: list[str],
    count: int,
    score: Callable[[int], list[float]],
    journal: Journal | None,
) -> dict[str, NDArray[np.float64]]:
    """Return scores [count] by system.

    what: the metric's name, for the progress bar and the journal. score: the scores of an article, one for
    each system. journal: entries of earlier runs are taken from it, and new ones are added.
    """
    rows: list[list[float]] = []
    for entry in journal.entries if journal else ():
        if entry["what"] == what:
            rows += entry["rows"]
    done = len(rows)
    with tqdm(total=count, initial=done, desc=what, unit="article") as bar:
        for start in range(done, count, BATCH):
            batch = []
            for i in range(start, min(start + BATCH, count)):
                batch.append(score(i))
                bar.update()
            if journal:
                journal.append({"what": what, "rows": batch})
            rows += batch
    return {name: np.array([row[k] for row in rows], dtype=np.float64) for k, name in enumerate(systems)}
