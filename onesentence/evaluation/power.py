"""How many articles a test needs, computed from the minimum detectable effect (MDE) of a past evaluation.

The MDE falls with the square root of the number of units. Articles of one cluster are alike: new clusters
count, and more articles of the same clusters count less. With a design effect d, the same number of articles
drawn one by one has an MDE smaller by the square root of d (Bloom 1995; for clusters, Killip, Mahfoud and
Pearce 2004).
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
    """What one paired comparison needs to reach a wanted MDE.

    pair: "left-right". mde: of the evaluation, in points. articles, clusters: needed if clusters keep their
    mean size. one_each: articles needed if each is its own cluster; None if the design effect is unknown.
    """

    pair: str
    mde: float
    articles: int
    clusters: int
    one_each: int | None


def needed(evaluation: dict[str, Any], wanted: float) -> list[Needed]:
    """Return what each comparison of metrics/evaluation.json needs to detect `wanted` points of HEADLINE.

    A comparison without an MDE (nothing varies, or too few clusters) is left out. Raises UserError if no
    comparison has one.
    """
    n, resampling = evaluation["n"], evaluation["resampling"]
    clusters, alpha = resampling["clusters"], 1 - evaluation["confidence"]
    # With few clusters, Student's t makes the MDE larger. A test set of many clusters loses that part.
    few = resampling["interval"] == SUBSETS
    errors_now = detectable_effect(alpha, max(1.0, resampling["effective_clusters"] - 1)) if few else 1.0
    errors_then = detectable_effect(alpha, np.inf) if few else 1.0
    rows = []
    for pair, entries in evaluation["comparisons"].items():
        entry = entries[HEADLINE]
        if entry["mde"] is None:
            continue
        factor = (entry["mde"] * errors_then / errors_now / wanted) ** 2
        if few:
            factor = max(factor, FEW / clusters)  # below FEW clusters, `errors_then` does not hold
        effect = entry["design_effect"]
        rows.append(
            Needed(
                pair,
                entry["mde"],
                math.ceil(n * factor),
                math.ceil(clusters * factor),
                None if effect is None else math.ceil(n * factor / effect),
            )
        )
    if not rows:
        raise UserError(
            "estimate: metrics/evaluation.json has no minimum detectable effect to start from (nothing "
            "varies, or there are too few clusters); evaluate more articles first"
        )
    return rows
