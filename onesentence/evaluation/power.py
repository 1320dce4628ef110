"""How many articles a test needs: from the minimum detectable effect (MDE) of an evaluation that was made.

The MDE falls with the root of the number of units. Articles of one cluster are alike, so that new clusters
count and more articles of the same ones count less: with a design effect d, as many articles drawn one by
one would have an MDE smaller by the root of d (Bloom 1995; Killip, Mahfoud and Pearce 2004 on clusters).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from onesentence.core.errors import UserError
from onesentence.evaluation.metrics import HEADLINE
from onesentence.evaluation.resampling import FEW, SUBSETS, detectable_effect


@dataclass(frozen=True)
class Needed:
    """What one paired comparison needs for a wanted MDE.

    pair: left-right; mde: of the evaluation (points); articles, clusters: with as many articles a cluster as
    now; one_each: articles where each is of another cluster, None where the design effect is unknown.
    """

    pair: str
    mde: float
    articles: int
    clusters: int
    one_each: int | None


def needed(evaluation: dict[str, Any], wanted: float) -> list[Needed]:
    """What each comparison of metrics/evaluation.json needs to detect `wanted` points of the headline metric.

    A comparison without an MDE (nothing varies, or too few clusters) is left out; a UserError where all are.
    """
    n, resampling = evaluation["n"], evaluation["resampling"]
    clusters, alpha = resampling["clusters"], 1 - evaluation["confidence"]
    # Student's t of few clusters makes their MDE larger; more clusters will not have that part of it.
    few = resampling["interval"] == SUBSETS
    wide = detectable_effect(alpha, max(1.0, resampling["effective_clusters"] - 1)) if few else 1.0
    narrow = detectable_effect(alpha, np.inf) if few else 1.0
    found = []
    for pair, entries in evaluation["comparisons"].items():
        entry = entries[HEADLINE]
        if entry["mde"] is None:
            continue
        factor = (entry["mde"] * narrow / wide / wanted) ** 2
        if few:
            factor = max(factor, FEW / clusters)
        effect = entry["design_effect"]
        found.append(
            Needed(
                pair,
                entry["mde"],
                math.ceil(n * factor),
                math.ceil(clusters * factor),
                None if effect is None else math.ceil(n * factor / effect),
            )
        )
    if not found:
        raise UserError(
            "estimate: metrics/evaluation.json has no minimum detectable effect to start from (nothing "
            "varies, or there are too few clusters); evaluate more articles first"
        )
    return found
