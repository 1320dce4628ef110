"""What a score is worth: intervals, paired tests, and the smallest difference that could have been seen.

A metric comes as whole-number statistics of each article, [articles, k], and an aggregate that turns their
sums [..., k] into scores [...]: that serves a mean, a mean over the articles where it is defined, and a
corpus score such as BLEU alike. Whole numbers make every sum exact in float64, so a result depends on no
order of addition, number of threads or kind of CPU.

Articles that were drawn together are alike: functions of one source file, stories of one newspaper. What is
resampled, exchanged or left out is therefore a whole cluster of articles (`Sample`), the unit that was drawn.
Clusters add up as articles do, so that every method below works on the sums of clusters, [clusters, k].

Sources: percentile and BCa bootstrap, Efron and Tibshirani 1993 (chapters 13, 14), of clusters, Davison and
Hinkley 1997 (section 3.8); paired bootstrap test, Koehn 2004; approximate randomization, Noreen 1989, Riezler
and Maxwell 2005; p = (c + 1) / (n + 1), Davison and Hinkley 1997; Holm 1979; minimum detectable difference,
Bloom 1995, for language tasks Card et al. 2020; means of random subsets, Hartigan 1969; design effect, Kish
1965; clustered errors of evaluations, Miller 2024.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

SEED = 0  # of the resampling alone: every metric and system sees the same resamples
AT_ONCE = 100  # resamples drawn at once; bounds memory: 100 x 11,334 counts of 8 bytes are 9 MB
SCALE = 1_000_000  # scores are held to 6 decimals, as whole numbers of millionths
POWER = 0.8  # of the minimum detectable difference
TIE = 1e-12  # scores nearer than that are equal: above rounding, below one millionth over any test set
FEW = 30  # effective clusters below which a test set is warned of
# Effective clusters from which a percentile interval covers in over 93 % of cases instead of 95; with eight
# it does in less than 90 (simulated: tests/evaluation/test_clusters.py).
ENOUGH = 100
# What an interval's ends are percentiles of.
BOOTSTRAP, SUBSETS = "bootstrap of clusters", "random subsets of clusters"

Aggregate = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Sample:
    """How the articles of a test set were drawn. clusters: [articles], the number of the cluster of each,
    counted from 0 in the order in which clusters first appear."""

    clusters: NDArray[np.int64]

    @classmethod
    def of(cls, groups: Sequence[str]) -> "Sample":
        """From the label of each article's cluster."""
        numbers: dict[str, int] = {}
        return cls(np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64))

    @classmethod
    def independent(cls, n: int) -> "Sample":
        """Every article was drawn by itself."""
        return cls(np.arange(n))

    def subset(self, chosen: np.ndarray) -> "Sample":
        """Of the articles at these places, or where a mask of all is true."""
        return Sample.of(self.clusters[chosen].tolist())

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Articles of each cluster, [clusters]."""
        return np.bincount(self.clusters)

    @property
    def count(self) -> int:
        """Number of clusters."""
        return len(self.sizes)

    @cached_property
    def effective(self) -> float:
        """Number of clusters of equal size that would tell as much: (sum of sizes)^2 / sum of squared sizes,
        Kish's effective sample size with the sizes as weights."""
        return float(self.sizes.sum() ** 2 / (self.sizes**2).sum())

    @property
    def single(self) -> bool:
        """Whether every article is a cluster of its own."""
        return self.count == len(self.clusters)

    @property
    def few(self) -> bool:
        """Whether a percentile interval of these clusters would cover too rarely, so that `draws` takes
        random subsets. Articles drawn one by one keep the percentile interval, with a warning below FEW."""
        return not self.single and self.effective < ENOUGH

    @property
    def very_few(self) -> bool:
        """Whether nothing that a bootstrap of these clusters says is to be relied on."""
        return not self.single and self.effective < FEW

    def sums(self, statistics: np.ndarray) -> np.ndarray:
        """Statistics [clusters, k] of clusters from those of their articles, [articles, k]."""
        found = np.zeros((self.count, statistics.shape[1]), dtype=statistics.dtype)
        np.add.at(found, self.clusters, statistics)
        return found

    def draws(self, statistics: np.ndarray, resamples: int) -> np.ndarray:
        """Sums [resamples, k] of statistics [articles, k] over drawn clusters, whose scores spread as the
        score itself would over other test sets.

        The draw depends on the clusters and resamples alone, so calls for several systems are paired.
        """
        units = self.sums(statistics)
        return subset_sums(units, resamples) if self.few else resampled_sums(units, resamples)

    def exchanges(self, left: np.ndarray, right: np.ndarray, resamples: int) -> tuple[np.ndarray, np.ndarray]:
        """`swapped_sums` of statistics [articles, k]: all outputs of a cluster change sides together."""
        return swapped_sums(self.sums(left), self.sums(right), resamples)

    def too_few_for(self, confidence: float) -> bool:
        """Whether no interval at this confidence can be given: of one unit nothing is known, and of G
        clusters the two most extreme of 2^G equally likely exchanges are 2^(1 - G) of all, which must be less
        than what the interval leaves out."""
        return self.count < 2 or (self.few and 2.0 ** (1 - self.count) > 1 - confidence + TIE)


def mean_statistics(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Statistics [articles, 2] of scores [articles]: millionths and whether defined. NaN is undefined."""
    defined = ~np.isnan(values)
    millionths = np.rint(np.where(defined, values, 0.0) * SCALE).astype(np.int64)
    return np.stack([millionths, defined.astype(np.int64)], axis=1)


def mean_of(sums: np.ndarray) -> NDArray[np.float64]:
    """The aggregate of `mean_statistics`: [..., 2] to [...]; NaN where no article is defined."""
    with np.errstate(invalid="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / np.maximum(sums[..., 1], 1) / SCALE, np.nan)


def _exact(statistics: np.ndarray) -> NDArray[np.float64]:
    """Statistics as float64, in which sums of whole numbers below 2**53 are exact."""
    if int(np.abs(statistics).max(initial=0)) * len(statistics) >= 2**53:  # int: int64 would wrap around
        raise ValueError("statistics too large for exact sums")
    return statistics.astype(np.float64)


def _sizes(resamples: int) -> Iterator[int]:
    for start in range(0, resamples, AT_ONCE):
        yield min(AT_ONCE, resamples - start)


def resampled_sums(statistics: np.ndarray, resamples: int) -> NDArray[np.float64]:
    """Sums [resamples, k] of statistics [units, k] over units, articles or clusters, drawn with replacement.

    The draw depends on the number of units and resamples alone, so calls for several systems are paired.
    """
    rng = np.random.default_rng(SEED)
    n, values, found = len(statistics), _exact(statistics), []
    for size in _sizes(resamples):
        picks = rng.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(picks.ravel(), minlength=size * n).reshape(size, n)  # how often each was drawn
        found.append(counts.astype(np.float64) @ values)
    return np.concatenate(found)


def _tosses(units: int, resamples: int) -> Iterator[NDArray[np.bool_]]:
    """Coins' tosses, bool [at most AT_ONCE, units] at a time."""
    rng = np.random.default_rng(SEED)
    for size in _sizes(resamples):
        yield rng.random((size, units)) < 0.5


def subset_sums(statistics: np.ndarray, resamples: int) -> NDArray[np.float64]:
    """Sums [resamples, k] of statistics [units, k] over random subsets, each unit in it on a coin's toss.

    Of units whose distances from the mean are symmetric, of whatever sizes, the subsets' means fall on both
    sides of the true mean as coins do (Hartigan 1969, "Using subsample values as typical values"): their
    percentiles are an interval that covers as often as it says, however few units there are. Of a mean it
    holds the values that a test by random changes of sign (`swapped_sums`, the wild bootstrap with
    Rademacher's weights) does not reject; of a corpus score, about those. Skewed units cover less. An empty
    subset is replaced by the whole, its complement.
    """
    values, found = _exact(statistics), []
    for tosses in _tosses(len(statistics), resamples):
        tosses[~tosses.any(axis=1)] = True
        found.append(tosses.astype(np.float64) @ values)
    return np.concatenate(found)


def swapped_sums(left: np.ndarray, right: np.ndarray, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums ([resamples, k], [resamples, k]) after each unit's outputs changed sides on a coin's toss."""
    difference = _exact(right - left)
    parts = [tosses.astype(np.float64) @ difference for tosses in _tosses(len(left), resamples)]
    moved = np.concatenate(parts)
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


def number(value: float) -> float | None:
    """A score for JSON: NaN is null."""
    return None if np.isnan(value) else float(value)


def jackknife_variance(
    statistics: np.ndarray, aggregate: Callable[[np.ndarray], np.ndarray], sizes: np.ndarray
) -> float:
    """Variance of a score from leaving out one unit at a time.

    statistics: [units, k]; sizes: articles of each, [units]. A unit's influence is weighted by the root of 1
    - its share of the articles: unbiased for a mean of independent units (Bell and McCaffrey 2002, "CR2"),
    and the ordinary jackknife where sizes are equal. NaN where the score without a unit is undefined.
    """
    total = statistics.sum(axis=0)
    influence = aggregate(total) - aggregate(total - statistics)
    return float((influence**2 * (1 - sizes / sizes.sum())).sum())


def design_effect(
    statistics: np.ndarray, aggregate: Callable[[np.ndarray], np.ndarray], sample: Sample
) -> float | None:
    """Variance of a score over that of as many articles drawn one by one (Kish 1965); None where undefined.

    statistics: [articles, k]. 1 where every article is its own cluster.
    """
    if sample.single:
        return 1.0
    if sample.count < 2:
        return None
    clustered = jackknife_variance(sample.sums(statistics), aggregate, sample.sizes)
    independent = jackknife_variance(statistics, aggregate, np.ones(len(statistics)))
    # Below a millionth of a point nothing varies but rounding.
    if not (np.isfinite(clustered) and independent > 1 / SCALE**2):
        return None
    return clustered / independent


def _intervals(
    values: np.ndarray,
    bootstrap: np.ndarray | None,
    estimate: float,
    jackknife: np.ndarray,
    sample: Sample,
    confidence: float,
) -> dict[str, float | None]:
    """low, high, bca_low and bca_high of a score.

    values: of draws; bootstrap: of the bootstrap, which BCa corrects, None where it is not to be relied on;
    jackknife: scores without each cluster.
    """
    low, high, bca_low, bca_high = None, None, None, None
    if not sample.too_few_for(confidence):
        low, high = percentile_interval(values, confidence)
        if bootstrap is not None:
            bca_low, bca_high = bca_interval(bootstrap, estimate, jackknife, confidence)
    return {"low": low, "high": high, "bca_low": bca_low, "bca_high": bca_high}


def _bootstrap(
    values: np.ndarray, units: np.ndarray, aggregate: Callable[[np.ndarray], np.ndarray], sample: Sample
) -> np.ndarray | None:
    """Scores [resamples] of the bootstrap of units [clusters, k]: the drawn `values` where those are it."""
    if not sample.few:
        return values
    return None if sample.very_few else aggregate(resampled_sums(units, len(values)))


def score_of(
    statistics: np.ndarray,
    aggregate: Aggregate,
    sums: np.ndarray,
    confidence: float,
    sample: Sample | None = None,
) -> dict[str, Any]:
    """A score with its percentile and BCa intervals and its design effect; None where undefined.

    statistics [articles, k]; sums [resamples, k] from `Sample.draws`; sample: None where every article was
    drawn by itself. Of few clusters low and high are percentiles of random subsets (`subset_sums`), and None
    where there are too few for any interval. BCa is of the bootstrap, and None where clusters are very few.
    """
    sample = sample or Sample.independent(len(statistics))
    total, units = statistics.sum(axis=0), sample.sums(statistics)
    estimate, values = float(aggregate(total)), aggregate(sums)
    bootstrap = _bootstrap(values, units, aggregate, sample)
    ends = _intervals(values, bootstrap, estimate, aggregate(total - units), sample, confidence)
    effect = None if np.isnan(estimate) else design_effect(statistics, aggregate, sample)
    return {"value": number(estimate), **ends, "design_effect": effect}


def summary_of(
    values: NDArray[np.float64], resamples: int, confidence: float, sample: Sample | None = None
) -> dict[str, Any]:
    """Mean of `values` [articles] (NaN: undefined, left out) with its intervals, as `score_of`."""
    statistics = mean_statistics(values)
    sample = sample or Sample.independent(len(values))
    return score_of(statistics, mean_of, sample.draws(statistics, resamples), confidence, sample)


def p_value(distances: np.ndarray, observed: float) -> float:
    """Share of distances at least as large as the observed one, counting the observed one itself.

    An undefined distance counts as large: a test must not gain from it.
    """
    extreme = ~(distances < abs(observed) - TIE)
    return float((extreme.sum() + 1) / (len(distances) + 1))


def detectable_effect(alpha: float, df: float) -> float:
    """The true distance from 0, in standard errors, that a two-sided test at alpha shows in POWER of cases.

    Of Student's t where the error is estimated with few degrees of freedom: the noncentral one.
    """
    from scipy.optimize import brentq  # not at the top: with scipy.stats it takes half a second to load
    from scipy.stats import nct
    from scipy.stats import t as student

    if not np.isfinite(df):
        return float(student.ppf(1 - alpha / 2, df) + student.ppf(POWER, df))
    least = student.ppf(1 - alpha / 2, df)
    return float(brentq(lambda far: nct.sf(least, df, far) - POWER, 0.0, 3.0 * least + 10.0))


def minimum_detectable_effect(
    values: np.ndarray, variance: float, sample: Sample, confidence: float
) -> float | None:
    """The true difference that one test would show in POWER of all cases; None where nothing varies.

    values: [resamples], drawn differences; variance: of the jackknife, used with Student's t on the effective
    number of clusters where clusters are few.
    """
    if sample.too_few_for(confidence):
        return None
    if sample.few:
        found = np.sqrt(variance) * detectable_effect(1 - confidence, max(1.0, sample.effective - 1))
    else:
        found = float(ndtri((1 + confidence) / 2) + ndtri(POWER)) * float(np.nanstd(values, ddof=1))
    return float(found) if found > TIE else None


def paired_difference(
    left: np.ndarray,
    right: np.ndarray,
    aggregate: Aggregate,
    sums: tuple[np.ndarray, np.ndarray],
    swapped: tuple[np.ndarray, np.ndarray],
    confidence: float,
    sample: Sample | None = None,
) -> dict[str, Any]:
    """left - right on the same articles: intervals, two tests, the minimum detectable difference.

    left, right: statistics [articles, k]; sums: of both from `Sample.draws`; swapped: from
    `Sample.exchanges`; sample: None where every article was drawn by itself.
    p_bootstrap: share of resampled differences that lie as far from the observed one as 0 does; None where
    clusters are very few. p_randomization: share of random exchanges of the two systems' outputs, cluster by
    cluster, that differ as much; exact however few clusters there are.
    detectable: the true difference that this test set would show at `confidence` in POWER of all cases,
    (z(confidence) + z(POWER)) times the bootstrap's standard error; None where nothing varies.
    """
    sample = sample or Sample.independent(len(left))
    both = np.concatenate([left, right], axis=1)
    width = left.shape[1]

    def difference(totals: np.ndarray) -> np.ndarray:
        return aggregate(totals[..., :width]) - aggregate(totals[..., width:])

    total, units = both.sum(axis=0), sample.sums(both)
    observed = float(difference(total))
    if np.isnan(observed):
        names = (
            *("value", "low", "high", "bca_low", "bca_high", "design_effect"),
            *("p_bootstrap", "p_randomization", "mde"),
        )
        return dict.fromkeys(names)
    values = aggregate(sums[0]) - aggregate(sums[1])
    bootstrap = _bootstrap(values, units, difference, sample)
    variance = jackknife_variance(units, difference, sample.sizes)
    return {
        "value": observed,
        **_intervals(values, bootstrap, observed, difference(total - units), sample, confidence),
        "design_effect": design_effect(both, difference, sample),
        "p_bootstrap": None if bootstrap is None else p_value(np.abs(bootstrap - observed), observed),
        "p_randomization": p_value(np.abs(aggregate(swapped[0]) - aggregate(swapped[1])), observed),
        "mde": minimum_detectable_effect(values, variance, sample, confidence),
    }


def difference_of(
    left: NDArray[np.float64],
    right: NDArray[np.float64],
    resamples: int,
    confidence: float,
    sample: Sample | None = None,
) -> dict[str, Any]:
    """`paired_difference` of the means of scores left and right, [articles] each."""
    sides = mean_statistics(left), mean_statistics(right)
    sample = sample or Sample.independent(len(left))
    sums = sample.draws(sides[0], resamples), sample.draws(sides[1], resamples)
    swapped = sample.exchanges(*sides, resamples)
    return paired_difference(*sides, mean_of, sums, swapped, confidence, sample)


def holm(p_values: list[float | None]) -> list[float | None]:
    """Holm's adjusted p-values of a family, in its order; None is no test and stays None."""
    ranked = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: dict[int, float] = {}
    highest = 0.0
    for rank, (p, i) in enumerate(ranked):
        highest = max(highest, min(1.0, (len(ranked) - rank) * p))
        adjusted[i] = highest
    return [adjusted.get(i) for i in range(len(p_values))]


def wilson_interval(successes: float, n: float, confidence: float, df: float = np.inf) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927): not empty at 0 and 1, as a bootstrap's is.

    Of clusters both counts are effective ones, divided by the design effect, and df, where clusters are few,
    the degrees of freedom of Student's t in the normal's place (Korn and Graubard 1998).
    """
    z = float(ndtri((1 + confidence) / 2) if np.isinf(df) else stdtrit(df, (1 + confidence) / 2))
    share, shrunk = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrunk
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / shrunk
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))
