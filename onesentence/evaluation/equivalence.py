"""Is one system as good as another? The test of equivalence of paired scores.

A difference that is not significant shows nothing: the articles may be too few. Two one-sided tests (TOST:
Schuirmann 1987) can show that two systems are equivalent. The hypothesis to reject is that they differ by at
least a margin, which is declared beforehand. It is rejected if the 1 - 2 alpha interval of the difference
(90 % at a confidence of 95 %) is inside the margin. The interval is that of the clustered draws
(`Sample.draws`), so articles that were drawn together count together.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from onesentence.evaluation.comparison import ROUNDING
from onesentence.evaluation.resampling import (
    TIE,
    Sample,
    mean_of,
    mean_statistics,
    percentile_interval,
)

EQUIVALENT: Final = "equivalent"  # the interval is inside the margin
DIFFERENT: Final = "different"  # the interval is outside of it: the systems differ by more
UNDECIDED: Final = "undecided"  # the interval holds an end of the margin: too few articles to say


def tost_confidence(confidence: float) -> float:
    """Return the confidence of the interval that decides: 1 - 2 alpha, so 0.9 for 0.95."""
    return 2 * confidence - 1


def verdict_of(low: float | None, high: float | None, margin: float) -> str:
    """Return EQUIVALENT, DIFFERENT or UNDECIDED by the 1 - 2 alpha interval of a difference and the margin.

    low, high: None if the interval is undefined. An interval that ends on the margin is not inside it.
    """
    if low is None or high is None:
        return UNDECIDED
    if -margin < low and high < margin:
        return EQUIVALENT
    return DIFFERENT if high < -margin or low > margin else UNDECIDED


def equivalence_of(
    left: NDArray[np.float64],
    right: NDArray[np.float64],
    margin: float,
    resamples: int,
    confidence: float,
    sample: Sample | None = None,
) -> dict[str, Any]:
    """Return the test of equivalence of mean scores left and right, [articles] each, in their own points.

    margin: above 0; differences below it do not matter. sample: None if every article was drawn by itself.
    value: left - right. low, high: its 1 - 2 alpha interval; None if clusters are too few for one. p: the
    larger of the two one-sided p-values, each the share of drawn differences beyond one end of the margin
    (the inversion of the percentile interval), and at least 1/2 to the power of (effective clusters - 1):
    a few articles that are alike may be chance. None without an interval. verdict: `verdict_of`. UNDECIDED
    instead where a draw is undefined, where articles are too few for any verdict (that power of 1/2 is above
    1 - confidence), and where it would be EQUIVALENT and p is above 1 - confidence.
    Raises ValueError if the margin is not above 0.
    """
    if not margin > 0:
        raise ValueError(f"margin: expected a number above 0, found {margin}")
    sample = sample or Sample.independent(len(left))
    sides = mean_statistics(left), mean_statistics(right)
    value = float(mean_of(sides[0].sum(axis=0)) - mean_of(sides[1].sum(axis=0)))
    result: dict[str, Any] = {
        "value": None if np.isnan(value) else value,
        **dict.fromkeys(("low", "high")),
        "margin": margin,
        "p": None,
        "verdict": UNDECIDED,
    }
    width = tost_confidence(confidence)
    if np.isnan(value) or sample.too_few_for(width):
        return result
    # The same draws for both sides: an article's luck is in both and cancels.
    values = mean_of(sample.draws(sides[0], resamples)) - mean_of(sample.draws(sides[1], resamples))
    low, high = percentile_interval(values, width, sample)
    # An undefined draw (NaN) counts as beyond the margin, and leaves the verdict open: it cannot make systems
    # equivalent.
    beyond = [~(values > -margin + TIE), ~(values < margin - TIE)]
    # A few articles that are alike may be chance, as coins that agree.
    chance = 0.5 ** (sample.effective - 1)
    p = max(chance, *(float((side.sum() + 1) / (len(values) + 1)) for side in beyond))
    verdict = verdict_of(low, high, margin)
    unproved = verdict == EQUIVALENT and p > 1 - confidence + ROUNDING
    if np.isnan(values).any() or chance > 1 - confidence + ROUNDING or unproved:
        verdict = UNDECIDED
    return result | {"low": low, "high": high, "p": p, "verdict": verdict}
