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
from onesentence.evaluation.resampling import ENOUGH, SUBSETS, detectable_effect


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


def few_factor(factor: float, effective: float, alpha: float) -> float:
    """How many times as many clusters are needed where clusters are few.

    factor: of the standard error alone. effective: the effective number of clusters now. With few clusters,
    Student's t makes the MDE larger. That part shrinks as clusters are added, and is gone from ENOUGH on.
    """
    from scipy.optimize import brentq  # not at the top: with scipy.stats it takes half a second to load

    def errors(clusters: float) -> float:
        return detectable_effect(alpha, np.inf if clusters >= ENOUGH else max(1.0, clusters - 1))

    def excess(times: float) -> float:
        return float(errors(times * effective) / errors(effective) * math.sqrt(factor / times) - 1)

    # Two clusters are the least that show any variation. Beyond them, the excess falls with every cluster.
    low, high = min(2.0 / effective, 1.0), max(factor, 1.0)
    while excess(high) > 0:
        high *= 2
    return low if excess(low) <= 0 else float(brentq(excess, low, high))


def holm_factor(tests: int, confidence: float) -> float:
    """Return how many times as many articles the strictest step of Holm's correction needs as a single test.

    tests: how many the correction covers. Few clusters need more than this.
    """
    alpha = 1 - confidence
    return (detectable_effect(alpha / tests, np.inf) / detectable_effect(alpha, np.inf)) ** 2


def needed(evaluation: dict[str, Any], wanted: float) -> list[Needed]:
    """Return what each comparison of metrics/evaluation.json needs to detect `wanted` points of HEADLINE.

    A comparison without an MDE (nothing varies, or too few clusters) is left out. Raises UserError if no
    comparison has one.
    """
    n, resampling = evaluation["n"], evaluation["resampling"]
    clusters, alpha = resampling["clusters"], 1 - evaluation["confidence"]
    few = resampling["interval"] == SUBSETS
    rows = []
    for pair, entries in evaluation["comparisons"].items():
        entry = entries[HEADLINE]
        if entry["mde"] is None:
            continue
        factor = (entry["mde"] / wanted) ** 2
        if few:
            factor = few_factor(factor, resampling["effective_clusters"], alpha)
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
