"""The statistics of scores: intervals, paired tests and the minimum detectable effect (MDE).

A metric comes as whole-number statistics of each article, [articles, k], and an aggregate that turns their
sums [..., k] into scores [...]. This form fits a mean, a mean over the articles where it is defined, and a
corpus score such as BLEU. Sums of whole numbers are exact in float64, so no result depends on the order of
addition, the number of threads or the kind of CPU.

Articles that were drawn together are alike: functions of one source file, stories of one newspaper. So a
whole cluster of articles, the unit that was drawn, is resampled, exchanged or left out (`Sample`). The sums
of clusters, [clusters, k], have the same form as those of articles, so every method below works on them.

Sources: percentile and BCa bootstrap, Efron and Tibshirani 1993 (chapters 13, 14), of clusters, Davison and
Hinkley 1997 (section 3.8); paired bootstrap test, Koehn 2004; approximate randomization, Noreen 1989, Riezler
and Maxwell 2005; p = (c + 1) / (n + 1), Davison and Hinkley 1997; Holm 1979; minimum detectable effect,
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

from onesentence.core.errors import UserError

SEED = 0  # of the resampling only: every metric and system gets the same resamples
AT_ONCE = 100  # resamples drawn at a time, to limit memory: 100 x 11,334 counts of 8 bytes are 9 MB
SCALE = 1_000_000  # scores have 6 decimals and are summed as whole numbers of millionths
POWER = 0.8  # at which the MDE is detected
TIE = 1e-12  # closer scores are equal: above rounding errors, below a millionth over the size of a test set
FEW = 30  # effective clusters below which a test set gets a warning
# Effective clusters from which a 95 % percentile interval covers in over 93 % of cases. With eight clusters
# it covers in less than 90 % (simulated in tests/evaluation/test_clusters.py).
ENOUGH = 100
FEW_SUBSETS = 12  # clusters up to which subsets are few: 2^12 of them, about as many as are drawn
# What the ends of an interval are percentiles of.
BOOTSTRAP, SUBSETS = "bootstrap of clusters", "random subsets of clusters"

Aggregate = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Sample:
    """How the articles of a test set were drawn.

    clusters: [articles], the number of each article's cluster, from 0 in the order of first appearance.
    """

    clusters: NDArray[np.int64]

    @classmethod
    def of(cls, groups: Sequence[str]) -> "Sample":
        """Return the sample in which each article's cluster has the given label."""
        numbers: dict[str, int] = {}
        return cls(np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64))

    @classmethod
    def independent(cls, n: int) -> "Sample":
        """Return the sample of n articles that were each drawn by themselves."""
        return cls(np.arange(n))

    def subset(self, chosen: np.ndarray) -> "Sample":
        """Return the sample of the chosen articles: places, or a mask of all articles."""
        return Sample.of(self.clusters[chosen].tolist())

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Number of articles of each cluster, [clusters]."""
        return np.bincount(self.clusters)

    @property
    def count(self) -> int:
        """Number of clusters."""
        return len(self.sizes)

    @cached_property
    def effective(self) -> float:
        """Number of equal clusters that carry as much information: (sum of sizes)^2 / sum of squared sizes.

        This is Kish's effective sample size with the sizes as weights.
        """
        return float(self.sizes.sum() ** 2 / (self.sizes**2).sum())

    @property
    def single(self) -> bool:
        """Whether every article is a cluster of its own."""
        return self.count == len(self.clusters)

    @property
    def few(self) -> bool:
        """Whether a percentile interval of these clusters would cover too rarely. `draws` then takes subsets.

        Articles drawn one by one keep the percentile interval, with a warning below FEW.
        """
        return not self.single and self.effective < ENOUGH

    @property
    def very_few(self) -> bool:
        """Whether the clusters are too few for any bootstrap."""
        return not self.single and self.effective < FEW

    def sums(self, statistics: np.ndarray) -> np.ndarray:
        """Return the statistics of clusters, [clusters, k]: the sums of their articles', [articles, k]."""
        totals = np.zeros((self.count, statistics.shape[1]), dtype=statistics.dtype)
        np.add.at(totals, self.clusters, statistics)
        return totals

    def draws(self, statistics: np.ndarray, resamples: int) -> np.ndarray:
        """Return sums [resamples, k] of statistics [articles, k] over drawn clusters.

        Their scores vary as the score would over other test sets. The draw depends only on the clusters and
        on resamples, so calls for several systems are paired.
        """
        drawn = self.drawn(statistics, resamples)
        if not self.few:
            return drawn
        # As many articles as there are: BLEU's smoothing depends on the number of n-grams. The subsets of the
        # sizes are those of the statistics.
        articles = subset_sums(self.sizes[:, None], resamples)
        return drawn * (len(self.clusters) / articles)

    def drawn(self, statistics: np.ndarray, resamples: int) -> np.ndarray:
        """Return `draws` as they add up: a subset has fewer articles than there are."""
        units = self.sums(statistics)
        return subset_sums(units, resamples) if self.few else resampled_sums(units, resamples)

    def exchanges(self, left: np.ndarray, right: np.ndarray, resamples: int) -> tuple[np.ndarray, np.ndarray]:
        """Return `swapped_sums` of statistics [articles, k]. Outputs of a cluster change sides together."""
        return swapped_sums(self.sums(left), self.sums(right), resamples)

    def too_few_for(self, confidence: float) -> bool:
        """Whether no interval can have this confidence.

        One unit shows no variation. With G clusters there are 2^G equally likely exchanges. The two most
        extreme are 2^(1 - G) of them, which must not exceed the share that the interval leaves out.
        """
        return self.count < 2 or (self.few and 2.0 ** (1 - self.count) > 1 - confidence + TIE)


def mean_statistics(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return statistics [articles, 2] of scores [articles]: millionths, and 1 if defined, 0 if NaN."""
    defined = ~np.isnan(values)
    millionths = np.rint(np.where(defined, values, 0.0) * SCALE).astype(np.int64)
    return np.stack([millionths, defined.astype(np.int64)], axis=1)


def mean_of(sums: np.ndarray) -> NDArray[np.float64]:
    """Return means [...] from summed `mean_statistics` [..., 2]; NaN where no article is defined."""
    with np.errstate(invalid="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / np.maximum(sums[..., 1], 1) / SCALE, np.nan)


def _exact(statistics: np.ndarray) -> NDArray[np.float64]:
    """Return statistics as float64. Raises UserError if their sums might reach 2**53 and be inexact."""
    # Python's int: the product would wrap around in int64.
    if int(np.abs(statistics).max(initial=0)) * len(statistics) >= 2**53:
        raise UserError(
            f"a score is too large to be summed exactly over {len(statistics):,} articles or clusters: one "
            "article or output is far longer than the others; shorten it, or leave it out"
        )
    return statistics.astype(np.float64)


def _sizes(resamples: int) -> Iterator[int]:
    """Yield how many resamples to draw at a time."""
    for start in range(0, resamples, AT_ONCE):
        yield min(AT_ONCE, resamples - start)


def resampled_sums(statistics: np.ndarray, resamples: int) -> NDArray[np.float64]:
    """Return sums [resamples, k] of statistics [units, k] over units drawn with replacement.

    A unit is an article or a cluster. The draw depends only on the numbers of units and resamples, so calls
    for several systems are paired.
    """
    rng = np.random.default_rng(SEED)
    n, values, sums = len(statistics), _exact(statistics), []
    for size in _sizes(resamples):
        # How often each unit was drawn, [size, n]; the offsets let one bincount count all rows.
        picks = rng.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(picks.ravel(), minlength=size * n).reshape(size, n)
        sums.append(counts.astype(np.float64) @ values)
    return np.concatenate(sums)


def _tosses(units: int, resamples: int) -> Iterator[NDArray[np.bool_]]:
    """Yield fair coin tosses, bool [at most AT_ONCE, units] at a time."""
    rng = np.random.default_rng(SEED)
    for size in _sizes(resamples):
        yield rng.random((size, units)) < 0.5


def subset_sums(statistics: np.ndarray, resamples: int) -> NDArray[np.float64]:
    """Return sums [resamples, k] of statistics [units, k] over random subsets, drawn by a coin for each unit.

    Suppose the units' distances from the mean are symmetric. Then each subset's mean is equally likely to be
    on either side of the true mean (Hartigan 1969, "Using subsample values as typical values"). Percentiles
    of these means are an interval with the stated coverage, whatever the number and sizes of the units. For a
    mean, the interval has the values that a test by random changes of sign (`swapped_sums`, the wild
    bootstrap with Rademacher weights) does not reject; for a corpus score, approximately those. With skewed
    units it covers less often. An empty subset is replaced by its complement, the whole.
    """
    values, sums = _exact(statistics), []
    # The coins are those of `swapped_sums`: the interval and the test share their random error.
    for tosses in _tosses(len(statistics), resamples):
        tosses[~tosses.any(axis=1)] = True
        sums.append(tosses.astype(np.float64) @ values)
    return np.concatenate(sums)


def swapped_sums(left: np.ndarray, right: np.ndarray, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return both sides' sums, [resamples, k] each, after a coin decided which units exchange outputs."""
    # A unit that exchanges outputs adds right - left to the left sum and takes it from the right one.
    difference = _exact(right - left)
    parts = [tosses.astype(np.float64) @ difference for tosses in _tosses(len(left), resamples)]
    moved = np.concatenate(parts)
    return left.sum(axis=0) + moved, right.sum(axis=0) - moved


def percentile_interval(
    values: np.ndarray, confidence: float, sample: Sample | None = None
) -> tuple[float | None, float | None]:
    """Return the percentile interval of resampled scores, without the undefined ones (NaN).

    sample: that was drawn from. Of FEW_SUBSETS clusters or fewer, subsets take few values, and many draws
    share each. Each end is then the innermost value with at most (1 - confidence) / 2 of the draws at it or
    beyond it (Hartigan 1969); if there is none, the outermost value.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return None, None
    if sample is not None and sample.few and sample.count <= FEW_SUBSETS:
        distinct, counts = np.unique(values, return_counts=True)
        most = (1 - confidence) / 2 * len(values) + TIE
        # How many of the outermost values fit into each tail; the end is at least the outermost one.
        below, above = (int((np.cumsum(side) <= most).sum()) for side in (counts, counts[::-1]))
        return float(distinct[max(below - 1, 0)]), float(distinct[::-1][max(above - 1, 0)])
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def bca_interval(
    values: np.ndarray, estimate: float, jackknife: np.ndarray, confidence: float
) -> tuple[float | None, float | None]:
    """Return the bias-corrected and accelerated (BCa) interval of resampled scores.

    jackknife: [units], the score without each unit. (None, None) if the interval is undefined: nothing
    varies, or every resample is on one side of the estimate.
    """
    values, jackknife = values[~np.isnan(values)], jackknife[~np.isnan(jackknife)]
    if not len(values) or not len(jackknife):
        return None, None
    # A resample equal to the estimate counts half: shares (a success rate) have many of them.
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
    """Return a score for JSON, in which NaN becomes null."""
    return None if np.isnan(value) else float(value)


def jackknife_variance(
    statistics: np.ndarray, aggregate: Callable[[np.ndarray], np.ndarray], sizes: np.ndarray
) -> float:
    """Return the variance of a score, from leaving out one unit at a time.

    statistics: [units, k]. sizes: articles of each unit, [units]. A unit's influence is weighted by the
    square root of 1 - its share of the articles. This is unbiased for a mean of independent units (Bell and
    McCaffrey 2002, "CR2") and equals the ordinary jackknife if sizes are equal. NaN if the score without a
    unit is undefined.
    """
    total = statistics.sum(axis=0)
    influence = aggregate(total) - aggregate(total - statistics)
    return float((influence**2 * (1 - sizes / sizes.sum())).sum())


def design_effect(
    statistics: np.ndarray, aggregate: Callable[[np.ndarray], np.ndarray], sample: Sample
) -> float | None:
    """Return a score's variance divided by that of as many articles drawn one by one (Kish 1965).

    statistics: [articles, k]. 1 if every article is its own cluster; None if undefined.
    """
    if sample.single:
        return 1.0
    if sample.count < 2:
        return None
    clustered = jackknife_variance(sample.sums(statistics), aggregate, sample.sizes)
    independent = jackknife_variance(statistics, aggregate, np.ones(len(statistics)))
    # A standard error below a millionth of a point is only rounding.
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
    """Return low, high, bca_low and bca_high of a score.

    values: scores of draws. bootstrap: those of the bootstrap, for BCa; None if clusters are too few for it.
    jackknife: scores without each cluster.
    """
    low, high, bca_low, bca_high = None, None, None, None
    if not sample.too_few_for(confidence):
        low, high = percentile_interval(values, confidence, sample)
        if bootstrap is not None:
            bca_low, bca_high = bca_interval(bootstrap, estimate, jackknife, confidence)
    return {"low": low, "high": high, "bca_low": bca_low, "bca_high": bca_high}


def _bootstrap(
    values: np.ndarray, units: np.ndarray, aggregate: Callable[[np.ndarray], np.ndarray], sample: Sample
) -> np.ndarray | None:
    """Return scores [resamples] of the bootstrap of units [clusters, k]; None if they are too few for it.

    values: scores of draws, which are those of the bootstrap unless clusters are few.
    """
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
    """Return a score with its percentile and BCa intervals and its design effect; None where undefined.

    statistics: [articles, k]. sums: [resamples, k] from `Sample.draws`. sample: None if every article was
    drawn by itself. With few clusters, low and high are percentiles of random subsets (`subset_sums`), or
    None if clusters are too few for any interval. BCa uses the bootstrap and is None if they are very few.
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
    """Return `score_of` of the mean of `values` [articles]; NaN is undefined and left out."""
    statistics = mean_statistics(values)
    sample = sample or Sample.independent(len(values))
    return score_of(statistics, mean_of, sample.draws(statistics, resamples), confidence, sample)


def p_value(distances: np.ndarray, observed: float) -> float:
    """Return the share of distances that are at least as large as the observed one, which itself counts.

    An undefined distance counts as large, so that it cannot make a difference significant.
    """
    extreme = ~(distances < abs(observed) - TIE)
    return float((extreme.sum() + 1) / (len(distances) + 1))


def detectable_effect(alpha: float, df: float) -> float:
    """Return the true effect, in standard errors, that a two-sided test at alpha detects with power POWER.

    df: degrees of freedom of the standard error. If it is finite, the noncentral Student's t is used.
    """
    from scipy.optimize import brentq  # not at the top: with scipy.stats it takes half a second to load
    from scipy.stats import nct
    from scipy.stats import t as student

    if not np.isfinite(df):
        return float(student.ppf(1 - alpha / 2, df) + student.ppf(POWER, df))
    critical = student.ppf(1 - alpha / 2, df)
    return float(brentq(lambda effect: nct.sf(critical, df, effect) - POWER, 0.0, 3.0 * critical + 10.0))


def minimum_detectable_effect(
    values: np.ndarray, variance: float, sample: Sample, confidence: float
) -> float | None:
    """Return the true difference that one test detects with power POWER (MDE); None if nothing varies.

    values: [resamples], drawn differences. variance: from the jackknife; with few clusters it is used with
    Student's t on the effective number of clusters.
    """
    if sample.too_few_for(confidence):
        return None
    if sample.few:
        mde = np.sqrt(variance) * detectable_effect(1 - confidence, max(1.0, sample.effective - 1))
    else:
        mde = float(ndtri((1 + confidence) / 2) + ndtri(POWER)) * float(np.nanstd(values, ddof=1))
    return float(mde) if mde > TIE else None


def paired_difference(
    left: np.ndarray,
    right: np.ndarray,
    aggregate: Aggregate,
    sums: tuple[np.ndarray, np.ndarray],
    swapped: tuple[np.ndarray, np.ndarray],
    confidence: float,
    sample: Sample | None = None,
) -> dict[str, Any]:
    """Return left - right on the same articles, with intervals, two tests and the MDE.

    left, right: statistics [articles, k]. sums: both sides' from `Sample.draws`. swapped: from
    `Sample.exchanges`. sample: None if every article was drawn by itself.
    p_bootstrap: the share of resampled differences that are as far from the observed one as 0 is; None if
    clusters are very few. p_randomization: the share of random exchanges of the two systems' outputs, cluster
    by cluster, that differ as much; exact for any number of clusters.
    mde: the true difference that this test set detects at `confidence` with power POWER, (z(confidence) +
    z(POWER)) times the bootstrap's standard error (Student's t for few clusters); None if nothing varies.
    """
    sample = sample or Sample.independent(len(left))
    # Side by side, so that one sum over units gives both sides' totals.
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
        "p_bootstrap": None
        if bootstrap is None or sample.too_few_for(confidence)
        else p_value(np.abs(bootstrap - observed), observed),
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
    """Return `paired_difference` of the means of scores left and right, [articles] each."""
    sides = mean_statistics(left), mean_statistics(right)
    sample = sample or Sample.independent(len(left))
    sums = sample.draws(sides[0], resamples), sample.draws(sides[1], resamples)
    swapped = sample.exchanges(*sides, resamples)
    return paired_difference(*sides, mean_of, sums, swapped, confidence, sample)


def holm(p_values: list[float | None]) -> list[float | None]:
    """Return p-values after Holm's correction, in the same order. None is not a test and stays None."""
    ranked = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: dict[int, float] = {}
    highest = 0.0
    for rank, (p, i) in enumerate(ranked):
        # Never below the p that ranks before it: Holm's procedure stops at the first that is not significant.
        highest = max(highest, min(1.0, (len(ranked) - rank) * p))
        adjusted[i] = highest
    return [adjusted.get(i) for i in range(len(p_values))]


def wilson_interval(successes: float, n: float, confidence: float, df: float = np.inf) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Wilson 1927).

    Unlike a bootstrap's, it is not empty at 0 and 1.

    With clusters, both counts are effective ones, divided by the design effect. With few clusters, df is the
    degrees of freedom of Student's t, which replaces the normal distribution (Korn and Graubard 1998).
    """
    z = float(ndtri((1 + confidence) / 2) if np.isinf(df) else stdtrit(df, (1 + confidence) / 2))
    share, shrunk = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrunk
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / shrunk
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))
