"""The score of a variant over seeds and articles: two sources of chance, estimated apart and added up.

Scores [seeds, articles] are a crossed design: a seed moves all articles, an article is equally hard for every
seed, and each pair has noise of its own. The variance of a variant's mean over S seeds and n articles is

    between / S + (articles + noise / S) / n

The second term comes from the bootstrap over articles. One draw serves every variant, so differences are
paired. Articles that were drawn together are resampled together (`resampling.Sample`), and a seed's noise is
estimated from clusters of articles.
The first term is the variance of the seeds' means minus the noise in them, as in a two-way analysis of
variance. Seeds are not resampled: that counts the noise up to three times (Owen 2007, the pigeonhole
bootstrap), and the means of three resampled seeds never leave the range of the three. Intervals and p-values
use Student's t with the degrees of freedom of Satterthwaite 1946: few seeds make them wide. For numbers that
are no weighted sum of scores (a percentage, a law), they are percentiles of draws with both sources of chance
(`percentile_test`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onesentence.evaluation.resampling import (
    SEED,
    TIE,
    Sample,
    detectable_effect,
    holm,
    mean_of,
    mean_statistics,
    number,
    p_value,
    percentile_interval,
    resampled_sums,
)

Floats = NDArray[np.float64]
# Exponents of the power law. They are tried one by one: for each, a and b are a linear fit with one solution.
EXPONENTS = np.linspace(0.02, 2.0, 100)
SIZES = (10_000, 50_000, 200_000)  # pairs that a law is asked for; XSum has about 200,000
BEYOND = 10**9  # pairs: nobody has as many, so a law that needs more says that the goal is out of reach
UNDEFINED = dict.fromkeys(("value", "low", "high", "se", "df", "p"))


@dataclass(frozen=True)
class SeedVariance:
    """Variance between seeds.

    total: of their means; between: without the articles' noise, and the estimate can be negative; df: degrees
    of freedom of both.
    """

    total: float
    between: float
    df: int


@dataclass(frozen=True)
class Resampled:
    """One metric of one variant.

    seeds: mean of each seed; articles: [draws], mean over seeds for each draw of articles; both: the same
    with a seed's chance added; seed_variance: None where seeds are taken as fixed; df: degrees of freedom of
    the articles, one less than the effective number of their clusters.
    """

    seeds: Floats
    articles: Floats
    both: Floats
    seed_variance: SeedVariance | None
    df: float

    @property
    def value(self) -> float:
        """Mean over seeds and articles."""
        return float(self.seeds.mean())


def seed_variance_of(scores: Floats, sample: Sample | None = None) -> SeedVariance | None:
    """The variance between seeds of scores [seeds, articles]; None with one seed.

    Articles with an undefined score (NaN) are left out. sample: None where every article was drawn on its
    own.
    """
    defined = ~np.isnan(scores).any(axis=0)
    if len(scores) < 2 or defined.sum() < 2:
        return None
    sample = (sample or Sample.independent(scores.shape[1])).subset(np.flatnonzero(defined))
    scores = scores[:, defined]
    count, n = scores.shape
    if sample.count < 2:
        return None
    means = scores.mean(axis=1)
    residual = scores - means[:, None] - scores.mean(axis=0) + scores.mean()
    clustered = sample.sums(residual.T)  # what a seed adds to the sum of a cluster, [clusters, seeds]
    # With clusters of one article, sum(residual^2) / ((seeds - 1) (n - 1)) is the noise of one score. The
    # mean was subtracted from the residuals, and it holds a part of each cluster: dividing by 1 - the
    # cluster's share of the articles corrects for that.
    noise = (clustered**2 / (1 - sample.sizes / n)[:, None]).sum() / (count - 1) / n**2
    total = float(means.var(ddof=1))
    return SeedVariance(total, total - float(noise), count - 1)


def pooled(seed_variances: list[SeedVariance]) -> SeedVariance:
    """The mean seed variance of several variants, for which one common seed variance is assumed."""
    totals, betweens = ([getattr(each, name) for each in seed_variances] for name in ("total", "between"))
    return SeedVariance(float(np.mean(totals)), float(np.mean(betweens)), sum(s.df for s in seed_variances))


def resampled(
    scores: Floats,
    resamples: int,
    stream: int,
    borrowed: SeedVariance | None = None,
    sample: Sample | None = None,
) -> Resampled:
    """Draws of a variant's score from scores [seeds, articles], NaN where undefined.

    stream: number of the variant; its seeds' chance has a random stream of its own. borrowed: the seed
    variance where one seed cannot give it. sample: None where every article was drawn on its own.
    """
    sample = sample or Sample.independent(scores.shape[1])
    statistics = [mean_statistics(row) for row in scores]
    seeds = np.array([mean_of(row.sum(axis=0)) for row in statistics])
    # The bootstrap also with few clusters: Student's t needs its variance, not the wide tails of subsets.
    sums = resampled_sums(sample.sums(np.concatenate(statistics, axis=1)), resamples)
    articles = mean_of(sums.reshape(resamples, len(scores), -1)).mean(axis=1)
    if not sample.single and sample.count > 1:  # undo the bootstrap's factor (clusters - 1) / clusters
        articles = seeds.mean() + (articles - seeds.mean()) * np.sqrt(sample.count / (sample.count - 1))
    seed_variance = seed_variance_of(scores, sample) or borrowed
    both = articles
    if seed_variance is not None:
        chance = np.random.default_rng([SEED, stream]).standard_t(seed_variance.df, size=resamples)
        both = articles + chance * np.sqrt(max(0.0, seed_variance.between) / len(scores))
    return Resampled(seeds, articles, both, seed_variance, max(1.0, sample.effective - 1))


def contrast(weights: Floats, scores: list[Resampled], confidence: float) -> dict[str, Any]:
    """A weighted sum of variants' scores with its interval, standard error, degrees of freedom and p.

    Every entry is None where a score is undefined. `adjust_holm` adds what depends on the number of tests.
    """
    value = float(sum(w * score.value for w, score in zip(weights, scores, strict=True)))
    if np.isnan(value):
        return dict(UNDEFINED)
    draws = sum(w * score.articles for w, score in zip(weights, scores, strict=True))
    within = float(np.nanvar(draws, ddof=1))
    # A seed variance that several variants borrow is one estimate: its uncertainty counts once, with all its
    # weights.
    shares: dict[int, tuple[SeedVariance, float]] = {}
    for w, score in zip(weights, scores, strict=True):
        if score.seed_variance is not None:
            _, share = shares.get(id(score.seed_variance), (score.seed_variance, 0.0))
            shares[id(score.seed_variance)] = (score.seed_variance, share + w * w / len(score.seeds))
    between = sum(share * each.between for each, share in shares.values())
    # Satterthwaite: each variance squared over its degrees of freedom.
    uncertain = within**2 / scores[0].df
    uncertain += sum((share * each.total) ** 2 / each.df for each, share in shares.values())
    variance = within + max(0.0, between)
    se = np.sqrt(variance)
    if se <= TIE:  # nothing varies: the same outputs, or the same distance on every article
        value = value if abs(value) > TIE else 0.0
        # G units with equal differences: 2 of the 2^G exchanges of the two systems are as far from 0.
        p = 1.0 if value == 0 else 2.0 ** -min(scores[0].df, 1_000.0)
        return {"value": value, "low": value, "high": value, "se": 0.0, "df": None, "p": p}
    # A negative `between` makes the variance small but not its uncertainty, and the degrees of freedom would
    # fall below those of the least certain part alone. The data do not support so few.
    least = min(scores[0].df, *(each.df for each, _ in shares.values()), np.inf)
    df = max(variance**2 / uncertain, least)
    return tested(value, float(se), float(df), confidence)


def tested(value: float, se: float, df: float, confidence: float) -> dict[str, Any]:
    """Student's interval and p of a value with a standard error."""
    from scipy.stats import t as student  # not at the top: it takes half a second to load

    half = float(student.ppf((1 + confidence) / 2, df) * se)
    p = float(2 * student.sf(abs(value) / se, df))
    return {"value": value, "low": value - half, "high": value + half, "se": se, "df": df, "p": p}


def difference(left: Resampled, right: Resampled, confidence: float) -> dict[str, Any]:
    """left - right, as `contrast`."""
    return contrast(np.array([1.0, -1.0]), [left, right], confidence)


def slope(x: Floats, scores: list[Resampled], confidence: float, sampled: bool = False) -> dict[str, Any]:
    """Change of the score for each unit of x: least squares over variants, as `contrast`.

    x: [variants], such as log2 of the rank: then it is the gain for each doubling. sampled: the variants are
    a sample of others, such as templates of that length, and differ in more than x. Then their distance from
    the line is chance too, where it is larger than the chance of seeds and articles. Two variants show no
    distance from a line. Without two different x, all keys are None.
    """
    centred, y = x - x.mean(), np.array([score.value for score in scores])
    squares = (centred**2).sum()
    if squares == 0:
        return dict(UNDEFINED)
    entry = contrast(centred / squares, scores, confidence)
    df = len(x) - 2
    if sampled and df > 0 and entry["value"] is not None:
        residual = y - y.mean() - entry["value"] * centred
        se = float(np.sqrt((residual**2).sum() / df / squares))
        if se > max(entry["se"], TIE):
            return tested(entry["value"], se, float(df), confidence)
    return entry


def adjust_holm(entries: list[dict[str, Any]], confidence: float, choices: int = 1) -> None:
    """Add p_holm and mde to the entries of tests that are made together, in place.

    choices: how many candidates each was the best of; it multiplies p (Bonferroni). mde: the true difference
    that is significant in POWER of all cases even as the first in Holm's order, where the procedure is
    strictest; None where nothing was tested or nothing varies.
    """
    count = choices * sum(entry["p"] is not None for entry in entries)
    several = [None if entry["p"] is None else min(1.0, choices * entry["p"]) for entry in entries]
    for entry, p in zip(entries, holm(several), strict=True):
        entry["p_holm"] = p
        entry["mde"] = None
        if p is not None and entry["se"] > TIE:  # where nothing varies, there is no smallest effect
            df = np.inf if entry["df"] is None else entry["df"]
            entry["mde"] = detectable_effect((1 - confidence) / count, df) * entry["se"]


def not_worse(best: int, scores: list[Resampled], confidence: float) -> list[int]:
    """Indices of the variants that are not significantly worse than the best one.

    The same scores chose the best, so distances are compared with the range of as many variants without a
    difference (Tukey's studentized range).
    """
    from scipy.stats import studentized_range

    def alike(entry: dict[str, Any]) -> bool:
        if entry["value"] is None or entry["value"] == 0:
            return True
        if entry["se"] == 0:
            return False
        far = np.sqrt(2) * abs(entry["value"]) / entry["se"]
        return bool(studentized_range.sf(far, len(scores), entry["df"]) > 1 - confidence)

    others = (i for i in range(len(scores)) if i != best)
    return [i for i in others if alike(difference(scores[i], scores[best], confidence))]


def summary(score: Resampled, confidence: float) -> dict[str, Any]:
    """Value and interval of a score, with seed_sd and seed_variance (None with one seed) and sampling_se.

    seed_sd: standard deviation of the seeds' means; seed_variance: their variance without the articles'
    noise; sampling_se: standard error from the articles alone.
    """
    entry = contrast(np.array([1.0]), [score], confidence)
    own = score.seed_variance if len(score.seeds) > 1 else None  # a borrowed one is not this variant's
    return {
        **{name: entry[name] for name in ("value", "low", "high")},
        "seed_sd": None if own is None else float(np.sqrt(own.total)),
        "seed_variance": None if own is None else own.between,
        "sampling_se": number(float(np.nanstd(score.articles, ddof=1)))
        if entry["value"] is not None
        else None,
    }


def percentile_test(draws: Floats, observed: float, confidence: float, df: float) -> dict[str, Any]:
    """As `contrast`, for a number that is no weighted sum of scores.

    draws: around `observed`, from `Resampled.both`. df: `Resampled.df` of the articles. Percentiles of few
    clusters are too close to each other, so draws are stretched as far as Student's t is wider than the
    normal distribution. p: the share of draws as far from `observed` as 0 is; se: from the interval, since
    draws from a t distribution with two degrees of freedom have no variance.
    """
    from scipy.stats import t as student

    if not np.isfinite(observed):
        return dict(UNDEFINED)
    normal, wide = (float(student.ppf((1 + confidence) / 2, freedom)) for freedom in (np.inf, df))
    draws = observed + (draws - observed) * (wide / normal)
    low, high = percentile_interval(draws, confidence)
    if low is None or high is None:  # no draw is a number
        return dict(UNDEFINED)
    return {
        "value": float(observed),
        "low": low,
        "high": high,
        "se": (high - low) / 2 / wide,
        "df": df,
        "p": p_value(np.abs(draws - observed), observed),
    }


def fitted(x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """(a, b, c) of the saturating power law y = a - b x^-c with b >= 0, by least squares; [draws] each.

    x: [points], positive; y: [draws, points]. For each exponent of a grid a and b are a linear fit; each draw
    keeps its best exponent. Where no b is positive, the law is the constant a.
    """
    # Start with the constant: an exponent must fit better than that.
    a, b, c = y.mean(axis=1), np.zeros(len(y)), np.full(len(y), EXPONENTS[0])
    best = ((y - a[:, None]) ** 2).sum(axis=1)
    for exponent in EXPONENTS:
        falling = (x / x.max()) ** -exponent
        centred = falling - falling.mean()
        steep = -(y @ centred) / (centred**2).sum()
        level = y.mean(axis=1) + steep * falling.mean()
        error = ((y - level[:, None] + steep[:, None] * falling) ** 2).sum(axis=1)
        better = (error < best) & (steep > 0)
        best[better] = error[better]
        a[better], c[better] = level[better], exponent
        b[better] = steep[better] * x.max() ** exponent
    return a, b, c


def sides(scores: list[Resampled]) -> tuple[Floats, Floats]:
    """The scores as measured [1, points], and as drawn [draws, points]."""
    return np.array([[score.value for score in scores]]), np.stack([score.both for score in scores], axis=1)


def pairs_needed(laws: tuple[Floats, Floats, Floats], goal: Floats) -> Floats:
    """The x at which each law a - b x^-c gives its `goal`; infinity where it never does. [draws] each."""
    a, b, c = laws
    left = a - goal  # how far the law's asymptote is above the goal
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        needed = (b / left) ** (1 / c)
    return np.where((left > 0) & (b > 0) & (needed < BEYOND), needed, np.inf)


def scaling(x: NDArray[Any], scores: list[Resampled], confidence: float) -> dict[str, Any]:
    """The power law fitted without the largest x and tested on it; and how little data is enough.

    x: [variants] rising. growth: the score at the largest x minus that at the smallest. saturates: whether
    scores grow and the exponent, in the fit and in its draws, is above the grid's lowest; else the asymptote
    means nothing. miss: measured - predicted at the largest x, as `percentile_test`. within_one_point: the
    smallest x from which on every score is less than 1 point below that of the largest.
    """
    values, draws = sides(scores)
    laws = []
    for y in (values, draws):
        a, b, c = fitted(x[:-1].astype(float), y[:, :-1])
        laws.append((a, b, c, a - b * float(x[-1]) ** -c))
    near = []
    for y in (values, draws):
        # Counted from the largest size down: sizes in a row that are within one point.
        enough = (y >= y[:, -1:] - 1.0)[:, ::-1]
        near.append(len(x) - np.logical_and.accumulate(enough, axis=1).sum(axis=1))
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(near[1], ends, method="inverted_cdf")
    fit = {}
    for name, value, drawn in zip(("asymptote", "factor", "exponent", "predicted"), *laws, strict=True):
        ends_of = percentile_interval(drawn, confidence)
        fit[name] = {"value": float(value[0]), "low": ends_of[0], "high": ends_of[1]}
    growth = difference(scores[-1], scores[0], confidence)
    return {
        **fit,
        "growth": growth,
        "saturates": bool((growth["low"] or 0.0) > 0 and fit["exponent"]["low"] > EXPONENTS[0] + TIE),
        "miss": percentile_test(
            draws[:, -1] - laws[1][3], float(values[0, -1] - laws[0][3][0]), confidence, scores[0].df
        ),
        "within_one_point": {
            "value": int(x[near[0][0]]),
            "low": int(x[int(low)]),
            "high": int(x[int(high)]),
        },
    }


def extrapolated(
    x: NDArray[Any], scores: list[Resampled], confidence: float, goal: float | None
) -> dict[str, Any]:
    """What the power law through all points, the largest too, says of more data.

    x: [variants] rising. predicted: the score at each of SIZES beyond the largest x, with its interval.
    one_more_point, goal: the x that a score 1 point above the law's own at the largest x would take, and that
    the score `goal` would take (with the goal as `score`); None is more than BEYOND.
    """
    largest, sizes = float(x[-1]), [size for size in SIZES if size > x[-1]]
    laws = [fitted(x.astype(float), y) for y in sides(scores)]
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]

    def needed(score: Callable[[Floats], Floats]) -> dict[str, int | None]:
        found = [pairs_needed(law, score(law[0] - law[1] * largest ** -law[2])) for law in laws]
        low, high = np.quantile(found[1], ends, method="inverted_cdf")
        values = {"value": found[0][0], "low": low, "high": high}
        return {key: round(float(pairs)) if np.isfinite(pairs) else None for key, pairs in values.items()}

    predicted = []
    for size in sizes:
        value, drawn = (a - b * float(size) ** -c for a, b, c in laws)
        low, high = percentile_interval(drawn, confidence)
        predicted.append({"pairs": size, "value": float(value[0]), "low": low, "high": high})
    result: dict[str, Any] = {"predicted": predicted, "one_more_point": needed(lambda last: last + 1.0)}
    if goal is not None:
        result["goal"] = {"score": goal, **needed(lambda last: np.full_like(last, goal))}
    return result


def band(x: NDArray[Any], scores: list[Resampled], at: Floats, confidence: float) -> Floats:
    """Value, low and high of the law fitted without the largest x, at the points `at`: [3, points]."""
    curves = []
    for y in sides(scores):
        a, b, c = (part[:, None] for part in fitted(x[:-1].astype(float), y[:, :-1]))
        curves.append(a - b * at[None, :] ** -c)
    ends = np.quantile(curves[1], [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return np.stack([curves[0][0], *ends])


def pareto_front(cost: Sequence[float], value: Sequence[float]) -> list[int]:
    """Indices of the points on the front: no other point costs at most as much, is at least as good, and is
    better in one of the two.
    """
    points = list(zip(cost, value, strict=True))
    return [
        i
        for i, (c, v) in enumerate(points)
        if not any(c2 <= c and v2 >= v and (c2, v2) != (c, v) for c2, v2 in points)
    ]
