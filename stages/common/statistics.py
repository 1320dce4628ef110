"""What a score is worth: intervals, paired tests, and the smallest difference that could have been seen.

A metric comes as whole-number statistics of each article, [articles, k], and an aggregate that turns their
sums [..., k] into scores [...]: that serves a mean, a mean over the articles where it is defined, and a
corpus score such as BLEU alike. Whole numbers make every sum exact in float64, so a result depends on no
order of addition, number of threads or kind of CPU.

Sources: percentile and BCa bootstrap, Efron and Tibshirani 1993 (chapters 13, 14); paired bootstrap test,
Koehn 2004; approximate randomization, Noreen 1989, Riezler and Maxwell 2005; p = (c + 1) / (n + 1), Davison
and Hinkley 1997; Holm 1979; minimum detectable difference, Bloom 1995, for language tasks Card et al. 2020.
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.special import ndtr, ndtri

SEED = 0  # of the resampling alone: every metric and system sees the same resamples
AT_ONCE = 100  # resamples drawn at once; bounds memory: 100 x 11,334 counts of 8 bytes are 9 MB
SCALE = 1_000_000  # scores are held to 6 decimals, as whole numbers of millionths
POWER = 0.8  # of the minimum detectable difference
TIE = 1e-12  # scores nearer than that are equal: above rounding, below one millionth over any test set

Aggregate = Callable[[np.ndarray], np.ndarray]


def mean_statistics(values: np.ndarray) -> np.ndarray:
    """Statistics [articles, 2] of scores [articles]: millionths and whether defined. NaN is undefined."""
    defined = ~np.isnan(values)
    millionths = np.rint(np.where(defined, values, 0.0) * SCALE).astype(np.int64)
    return np.stack([millionths, defined.astype(np.int64)], axis=1)


def mean_of(sums: np.ndarray) -> np.ndarray:
    """The aggregate of `mean_statistics`: [..., 2] to [...]; NaN where no article is defined."""
    with np.errstate(invalid="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / np.maximum(sums[..., 1], 1) / SCALE, np.nan)


def _exact(statistics: np.ndarray) -> np.ndarray:
    """Statistics as float64, in which sums of whole numbers below 2**53 are exact."""
    if int(np.abs(statistics).max(initial=0)) * len(statistics) >= 2**53:  # int: int64 would wrap around
        raise ValueError("statistics too large for exact sums")
    return statistics.astype(np.float64)


def _sizes(resamples: int) -> Iterator[int]:
    for start in range(0, resamples, AT_ONCE):
        yield min(AT_ONCE, resamples - start)


def resampled_sums(statistics: np.ndarray, resamples: int) -> np.ndarray:
    """Sums [resamples, k] of statistics [articles, k] over articles drawn with replacement.

    The draw depends on the number of articles and resamples alone, so calls for several systems are paired.
    """
    rng = np.random.default_rng(SEED)
    n, values, found = len(statistics), _exact(statistics), []
    for size in _sizes(resamples):
        picks = rng.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(picks.ravel(), minlength=size * n).reshape(size, n)  # how often each was drawn
        found.append(counts.astype(np.float64) @ values)
    return np.concatenate(found)


def swapped_sums(left: np.ndarray, right: np.ndarray, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums ([resamples, k], [resamples, k]) after each article's outputs changed sides on a coin's toss."""
    rng = np.random.default_rng(SEED)
    moved, difference = [], _exact(right - left)
    for size in _sizes(resamples):
        tosses = rng.random((size, len(left))) < 0.5
        moved.append(tosses.astype(np.float64) @ difference)
    moved = np.concatenate(moved)
    return left.sum(axis=0) + moved, right.sum(axis=0) - moved


def percentile_interval(values: np.ndarray, confidence: float) -> tuple[float | None, float | None]:
    """Percentile interval of resampled scores; undefined ones (NaN) are left out."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None, None
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def bca_interval(
    values: np.ndarray, estimate: float, jackknife: np.ndarray, confidence: float
) -> tuple[float | None, float | None]:
    """Bias-corrected and accelerated interval of resampled scores.

    jackknife [articles]: the score without each article. (None, None) where it is undefined: nothing
    varies, or every resample lies on one side of the estimate.
    """
    values, jackknife = values[~np.isnan(values)], jackknife[~np.isnan(jackknife)]
    if not len(values) or not len(jackknife):
        return None, None
    equal = np.abs(values - estimate) <= TIE
    below = ((values < estimate) & ~equal).mean() + equal.mean() / 2
    influence = jackknife.mean() - jackknife
    spread = float((influence**2).sum())
    if not 0 < below < 1 or spread <= TIE**2:
        return None, None
    bias = ndtri(below)
    acceleration = float((influence**3).sum()) / (6 * spread**1.5)
    ends = bias + ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = np.quantile(values, ndtr(bias + ends / (1 - acceleration * ends)))
    return float(low), float(high)


def number(value) -> float | None:
    """A score for JSON: NaN is null."""
    return None if np.isnan(value) else float(value)


def score_of(statistics: np.ndarray, aggregate: Aggregate, sums: np.ndarray, confidence: float) -> dict:
    """A score with its percentile and BCa intervals; None where undefined.

    statistics [articles, k]; sums [resamples, k] from `resampled_sums`.
    """
    total = statistics.sum(axis=0)
    estimate = aggregate(total)
    values = aggregate(sums)
    low, high = percentile_interval(values, confidence)
    bca_low, bca_high = bca_interval(values, estimate, aggregate(total - statistics), confidence)
    return {"value": number(estimate), "low": low, "high": high, "bca_low": bca_low, "bca_high": bca_high}


def summary_of(values: np.ndarray, resamples: int, confidence: float) -> dict:
    """Mean of `values` [articles] (NaN: undefined, left out) with its intervals, as `score_of`."""
    statistics = mean_statistics(values)
    return score_of(statistics, mean_of, resampled_sums(statistics, resamples), confidence)


def p_value(distances: np.ndarray, observed: float) -> float:
    """Share of distances at least as large as the observed one, counting the observed one itself.

    An undefined distance counts as large: a test must not gain from it.
    """
    extreme = ~(distances < abs(observed) - TIE)
    return float((extreme.sum() + 1) / (len(distances) + 1))


def paired_difference(
    left: np.ndarray,
    right: np.ndarray,
    aggregate: Aggregate,
    sums: tuple[np.ndarray, np.ndarray],
    swapped: tuple[np.ndarray, np.ndarray],
    confidence: float,
) -> dict:
    """left - right on the same articles: intervals, two tests, the minimum detectable difference.

    left, right: statistics [articles, k]; sums: of both from `resampled_sums`; swapped: from `swapped_sums`.
    p_bootstrap: share of resampled differences that lie as far from the observed one as 0 does.
    p_randomization: share of random exchanges of the two systems' outputs that differ as much.
    detectable: the true difference that this test set would show at `confidence` in POWER of all cases,
    (z(confidence) + z(POWER)) times the bootstrap's standard error.
    """
    totals = left.sum(axis=0), right.sum(axis=0)
    observed = float(aggregate(totals[0]) - aggregate(totals[1]))
    if np.isnan(observed):
        names = (
            "value",
            "low",
            "high",
            "bca_low",
            "bca_high",
            "p_bootstrap",
            "p_randomization",
            "detectable",
        )
        return dict.fromkeys(names)
    values = aggregate(sums[0]) - aggregate(sums[1])
    low, high = percentile_interval(values, confidence)
    jackknife = aggregate(totals[0] - left) - aggregate(totals[1] - right)
    bca_low, bca_high = bca_interval(values, observed, jackknife, confidence)
    error = float(np.nanstd(values, ddof=1))
    return {
        "value": observed,
        "low": low,
        "high": high,
        "bca_low": bca_low,
        "bca_high": bca_high,
        "p_bootstrap": p_value(np.abs(values - observed), observed),
        "p_randomization": p_value(np.abs(aggregate(swapped[0]) - aggregate(swapped[1])), observed),
        "detectable": float(ndtri((1 + confidence) / 2) + ndtri(POWER)) * error,
    }


def difference_of(left: np.ndarray, right: np.ndarray, resamples: int, confidence: float) -> dict:
    """`paired_difference` of the means of scores left and right, [articles] each."""
    left, right = mean_statistics(left), mean_statistics(right)
    sums = resampled_sums(left, resamples), resampled_sums(right, resamples)
    return paired_difference(left, right, mean_of, sums, swapped_sums(left, right, resamples), confidence)


def holm(p_values: list[float | None]) -> list[float | None]:
    """Holm's adjusted p-values of a family, in its order; None is no test and stays None."""
    tested = [p for p in p_values if p is not None]
    adjusted: dict[int, float] = {}
    highest = 0.0
    for rank, i in enumerate(
        sorted((i for i, p in enumerate(p_values) if p is not None), key=p_values.__getitem__)
    ):
        highest = max(highest, min(1.0, (len(tested) - rank) * p_values[i]))
        adjusted[i] = highest
    return [adjusted.get(i) for i in range(len(p_values))]


def wilson_interval(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927): not empty at 0 and 1, as a bootstrap's is."""
    z = float(ndtri((1 + confidence) / 2))
    share, shrunk = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrunk
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / shrunk
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))
