"""What a variant is worth over seeds and articles: two sources of chance, kept apart and put together.

Scores [seeds, articles] are a crossed design: a seed moves all articles, an article is as hard for every
seed, and each pair has noise of its own. The variance of a variant's mean over S seeds and n articles is

    between / S + (articles + noise / S) / n

The second term is the bootstrap's over articles, one draw for every variant, so that differences are paired.
Articles that were drawn together are resampled together (`resampling.Sample`), and the noise of a seed is
that of clusters of articles.
The first is the variance of the seeds' means less the noise in them, as in a two-way analysis of variance.
Seeds are not resampled: that counts the noise up to three times (Owen 2007, the pigeonhole bootstrap), and
the means of three seeds drawn anew never leave the range of the three. Intervals and p-values are Student's t
with the degrees of freedom of Satterthwaite 1946: few seeds make them wide. Those of what is no weighted sum
of scores (a percentage, a law) are percentiles of draws that hold both sources of chance (`percentile_test`).
"""

from dataclasses import dataclass

import numpy as np

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

EXPONENTS = np.linspace(0.02, 2.0, 100)  # of the power law; tried one by one, since a and b are linear
UNDEFINED = dict.fromkeys(("value", "low", "high", "se", "df", "p"))


@dataclass(frozen=True)
class SeedVariance:
    """Chance between seeds. total: variance of their means; between: without the articles' noise in it, which
    may come out negative; df: degrees of freedom of both."""

    total: float
    between: float
    df: int


@dataclass(frozen=True)
class Resampled:
    """One metric of one variant. seeds: mean of each seed; articles: [draws], mean over seeds by draw of
    articles; both: the same with a seed's chance added; spread: None where seeds are taken for fixed; df:
    degrees of freedom of the articles, one less than the effective number of their clusters.
    """

    seeds: np.ndarray
    articles: np.ndarray
    both: np.ndarray
    spread: SeedVariance | None
    df: float

    @property
    def value(self) -> float:
        """Mean over seeds and articles."""
        return float(self.seeds.mean())


def seed_variance_of(scores: np.ndarray, sample: Sample | None = None) -> SeedVariance | None:
    """From scores [seeds, articles]; None with one seed. Articles that a seed left undefined (NaN) are left
    out. sample: None where every article was drawn by itself.
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
    # Clusters of one article: sum(residual^2) / ((seeds - 1) (n - 1)) is the noise of one score. A cluster's
    # own part of the mean was taken from its residuals: 1 - its share of the articles gives it back.
    noise = (clustered**2 / (1 - sample.sizes / n)[:, None]).sum() / (count - 1) / n**2
    total = float(means.var(ddof=1))
    return SeedVariance(total, total - float(noise), count - 1)


def pooled(spreads: list[SeedVariance]) -> SeedVariance:
    """One spread of several variants that are taken to have the same."""
    totals, betweens = ([getattr(each, name) for each in spreads] for name in ("total", "between"))
    return SeedVariance(float(np.mean(totals)), float(np.mean(betweens)), sum(each.df for each in spreads))


def resampled(
    scores: np.ndarray,
    resamples: int,
    stream: int,
    borrowed: SeedVariance | None = None,
    sample: Sample | None = None,
) -> Resampled:
    """scores: [seeds, articles], NaN where undefined; stream: number of the variant, whose seeds' chance is
    drawn apart from that of others; borrowed: the spread where one seed cannot tell; sample: None where every
    article was drawn by itself.
    """
    sample = sample or Sample.independent(scores.shape[1])
    statistics = [mean_statistics(row) for row in scores]
    seeds = np.array([mean_of(each.sum(axis=0)) for each in statistics])
    # Of few clusters too the bootstrap: its variance is what Student's t wants, not the subsets' wide tails.
    sums = resampled_sums(sample.sums(np.concatenate(statistics, axis=1)), resamples)
    articles = mean_of(sums.reshape(resamples, len(scores), -1)).mean(axis=1)
    if not sample.single and sample.count > 1:  # the bootstrap's variance is (clusters - 1) / clusters of it
        articles = seeds.mean() + (articles - seeds.mean()) * np.sqrt(sample.count / (sample.count - 1))
    spread = seed_variance_of(scores, sample) or borrowed
    both = articles
    if spread is not None:
        chance = np.random.default_rng([SEED, stream]).standard_t(spread.df, size=resamples)
        both = articles + chance * np.sqrt(max(0.0, spread.between) / len(scores))
    return Resampled(seeds, articles, both, spread, max(1.0, sample.effective - 1))


def contrast(weights: np.ndarray, found: list[Resampled], confidence: float) -> dict:
    """A weighted sum of variants' scores with its interval, standard error, degrees of freedom and p.

    None throughout where a score is undefined. `family` adds what depends on how many are tested together.
    """
    value = float(sum(w * each.value for w, each in zip(weights, found, strict=True)))
    if np.isnan(value):
        return dict(UNDEFINED)
    draws = sum(w * each.articles for w, each in zip(weights, found, strict=True))
    within = float(np.nanvar(draws, ddof=1))
    # A spread that several variants borrow is one estimate, however often it stands here.
    shares: dict[int, tuple[SeedVariance, float]] = {}
    for w, each in zip(weights, found, strict=True):
        if each.spread is not None:
            _, share = shares.get(id(each.spread), (each.spread, 0.0))
            shares[id(each.spread)] = (each.spread, share + w * w / len(each.seeds))
    between = sum(share * spread.between for spread, share in shares.values())
    uncertain = within**2 / found[0].df
    uncertain += sum((share * spread.total) ** 2 / spread.df for spread, share in shares.values())
    variance = within + max(0.0, between)
    se = np.sqrt(variance)
    if se <= TIE:  # nothing varies: the same outputs, or the same distance on every article
        value = value if abs(value) > TIE else 0.0
        # Equal differences of G units: of 2^G exchanges of the two systems two are as far from 0.
        p = 1.0 if value == 0 else 2.0 ** -min(found[0].df, 1_000.0)
        return {"value": value, "low": value, "high": value, "se": 0.0, "df": None, "p": p}
    # A between that comes out below 0 makes the variance small and leaves the uncertainty: fewer degrees than
    # the least certain of the spreads and the clusters has by itself are none that the data speak for.
    df = max(variance**2 / uncertain, min(found[0].df, *(spread.df for spread, _ in shares.values()), np.inf))
    return tested(value, float(se), float(df), confidence)


def tested(value: float, se: float, df: float, confidence: float) -> dict:
    """Student's interval and p of a value with a standard error."""
    from scipy.stats import t as student  # here, since it takes half a second to load

    half = float(student.ppf((1 + confidence) / 2, df) * se)
    p = float(2 * student.sf(abs(value) / se, df))
    return {"value": value, "low": value - half, "high": value + half, "se": se, "df": df, "p": p}


def difference(left: Resampled, right: Resampled, confidence: float) -> dict:
    """left - right, as `contrast`."""
    return contrast(np.array([1.0, -1.0]), [left, right], confidence)


def slope(x: np.ndarray, found: list[Resampled], confidence: float, sampled: bool = False) -> dict:
    """Change of the score for each unit of x: least squares over variants, as `contrast`.

    x: [variants], such as log2 of the rank: then it is the gain for each doubling. sampled: the variants
    stand for others, such as templates of that length, and differ in more than x: their distance from the
    line is chance too where it is more than that of seeds and articles.
    """
    centred, y = x - x.mean(), np.array([each.value for each in found])
    squares = (centred**2).sum()
    entry = contrast(centred / squares, found, confidence)
    if sampled and entry["value"] is not None:
        residual = y - y.mean() - entry["value"] * centred
        df = len(x) - 2
        se = float(np.sqrt((residual**2).sum() / df / squares))
        if se > max(entry["se"], TIE):
            return tested(entry["value"], se, float(df), confidence)
    return entry


def adjust_holm(entries: list[dict], confidence: float, choices: int = 1) -> None:
    """Add to tests that are made together p_holm and detectable, in place.

    choices: of how many each was the best, which multiplies its p (Bonferroni). detectable: the true
    difference that would be called real in POWER of all cases even as the first that Holm's procedure looks
    at, where it is strictest. None where nothing was tested or nothing varies.
    """
    count = choices * sum(entry["p"] is not None for entry in entries)
    several = [None if entry["p"] is None else min(1.0, choices * entry["p"]) for entry in entries]
    for entry, p in zip(entries, holm(several), strict=True):
        entry["p_holm"] = p
        entry["mde"] = None
        if p is not None and entry["se"] > TIE:  # where nothing varies, no smallest effect can be named
            df = np.inf if entry["df"] is None else entry["df"]
            entry["mde"] = detectable_effect((1 - confidence) / count, df) * entry["se"]


def not_worse(best: int, found: list[Resampled], confidence: float) -> list[int]:
    """Which of several are not shown to be worse than the one that came out best.

    The best was chosen by the same scores: distances are held against the range of as many that are alike
    (Tukey's studentized range).
    """
    from scipy.stats import studentized_range

    def alike(entry: dict) -> bool:
        if entry["value"] is None or entry["value"] == 0:
            return True
        if entry["se"] == 0:
            return False
        far = np.sqrt(2) * abs(entry["value"]) / entry["se"]
        return studentized_range.sf(far, len(found), entry["df"]) > 1 - confidence

    others = (i for i in range(len(found)) if i != best)
    return [i for i in others if alike(difference(found[i], found[best], confidence))]


def summary(found: Resampled, confidence: float) -> dict:
    """Value and interval; seed_sd: of the seeds' means, and seed_variance: without the articles' noise (None
    with one seed); sampling_se: of the articles alone.
    """
    entry = contrast(np.array([1.0]), [found], confidence)
    own = found.spread if len(found.seeds) > 1 else None
    return {
        **{name: entry[name] for name in ("value", "low", "high")},
        "seed_sd": None if own is None else float(np.sqrt(own.total)),
        "seed_variance": None if own is None else own.between,
        "sampling_se": number(np.nanstd(found.articles, ddof=1)) if entry["value"] is not None else None,
    }


def percentile_test(draws: np.ndarray, observed: float, confidence: float) -> dict:
    """As `contrast`, of a number that is no weighted sum.

    draws: around `observed`, from `Resampled.both`. p: the share as far from it as 0 is; se: from the
    interval, since draws of a t with two degrees of freedom have no variance.
    """
    from scipy.stats import t as student

    if np.isnan(observed):
        return dict(UNDEFINED)
    low, high = percentile_interval(draws, confidence)
    return {
        "value": float(observed),
        "low": low,
        "high": high,
        "se": float((high - low) / 2 / student.ppf((1 + confidence) / 2, np.inf)),
        "df": None,
        "p": p_value(np.abs(draws - observed), observed),
    }


def fitted(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a, b, c) of the saturating power law y = a - b x^-c with b >= 0, by least squares; [draws] each.

    x: [points], positive; y: [draws, points]. For each exponent of a grid a and b are a linear fit; the best
    exponent of each draw stays. Where no b is positive, the law is the constant a.
    """
    best = np.full(len(y), np.inf)
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


def scaling(x: np.ndarray, found: list[Resampled], confidence: float) -> dict:
    """The power law fitted without the largest x, held against it; and how little data would do.

    x: [variants] rising. growth: the score at the largest x less that at the smallest. saturates: whether
    scores grow and the fit, and its draws, found an exponent above the grid's lowest: else the asymptote says
    nothing. miss: measured - predicted at the largest x, as `percentile_test`. within_one_point: the
    smallest x from which on every score is less than 1 below that of the largest.
    """
    values = np.array([[each.value for each in found]])
    draws = np.stack([each.both for each in found], axis=1)
    laws = []
    for y in (values, draws):
        a, b, c = fitted(x[:-1].astype(float), y[:, :-1])
        laws.append((a, b, c, a - b * float(x[-1]) ** -c))
    near = []
    for y in (values, draws):
        enough = (y >= y[:, -1:] - 1.0)[:, ::-1]
        near.append(len(x) - np.logical_and.accumulate(enough, axis=1).sum(axis=1))
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(near[1], ends, method="inverted_cdf")
    fit = {}
    for name, value, drawn in zip(("asymptote", "factor", "exponent", "predicted"), *laws, strict=True):
        ends_of = percentile_interval(drawn, confidence)
        fit[name] = {"value": float(value[0]), "low": ends_of[0], "high": ends_of[1]}
    growth = difference(found[-1], found[0], confidence)
    return {
        **fit,
        "growth": growth,
        "saturates": bool((growth["low"] or 0.0) > 0 and fit["exponent"]["low"] > EXPONENTS[0] + TIE),
        "miss": percentile_test(draws[:, -1] - laws[1][3], float(values[0, -1] - laws[0][3][0]), confidence),
        "within_one_point": {
            "value": int(x[near[0][0]]),
            "low": int(x[int(low)]),
            "high": int(x[int(high)]),
        },
    }


def band(x: np.ndarray, found: list[Resampled], at: np.ndarray, confidence: float) -> np.ndarray:
    """[3, points]: the law fitted without the largest x, at `at`: value, low, high."""
    curves = []
    for y in (np.array([[e.value for e in found]]), np.stack([e.both for e in found], axis=1)):
        a, b, c = (part[:, None] for part in fitted(x[:-1].astype(float), y[:, :-1]))
        curves.append(a - b * at[None, :] ** -c)
    ends = np.quantile(curves[1], [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return np.stack([curves[0][0], *ends])


def pareto_front(cost: list[float], value: list[float]) -> list[int]:
    """Indices of those for which none is at most as costly and at least as good, and better in one."""
    points = list(zip(cost, value, strict=True))
    return [
        i
        for i, (c, v) in enumerate(points)
        if not any(c2 <= c and v2 >= v and (c2, v2) != (c, v) for c2, v2 in points)
    ]
