"""What a variant is worth over seeds and articles: two sources of chance, kept apart and put together.

A variant has scores [seeds, articles]. Articles are drawn with replacement, the same draw for every variant,
so that differences are paired; seeds are drawn with replacement within each variant (two-level bootstrap:
Davison and Hinkley 1997, section 3.8). A bootstrap of S seeds shows (S - 1) / S of their variance, which
matters at three: deviations between seeds are scaled up by sqrt(S / (S - 1)).
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from stages.common.statistics import (
    POWER,
    SEED,
    mean_of,
    mean_statistics,
    number,
    p_value,
    percentile_interval,
    resampled_sums,
)

EXPONENTS = np.linspace(0.02, 2.0, 100)  # of the power law; tried one by one, since a and b are linear


@dataclass(frozen=True)
class Resampled:
    """One metric of one variant. seeds: mean of each seed; articles: mean over seeds by draw of articles;
    both: by draw of articles and seeds. [draws] each."""

    seeds: np.ndarray
    articles: np.ndarray
    both: np.ndarray

    @property
    def value(self) -> float:
        """Mean over seeds and articles."""
        return float(self.seeds.mean())


def resampled(scores: np.ndarray, resamples: int, stream: int) -> Resampled:
    """scores: [seeds, articles], NaN where undefined; stream: number of the variant, whose seeds are drawn
    apart from those of others."""
    statistics = [mean_statistics(row) for row in scores]
    sums = resampled_sums(np.concatenate(statistics, axis=1), resamples)
    drawn = mean_of(sums.reshape(resamples, len(scores), -1))
    articles = drawn.mean(axis=1)
    both = articles
    count = len(scores)
    if count > 1:
        picks = np.random.default_rng([SEED, stream]).integers(0, count, size=(resamples, count))
        picked = np.take_along_axis(drawn, picks, axis=1).mean(axis=1)
        both = articles + (picked - articles) * np.sqrt(count / (count - 1))
    return Resampled(np.array([mean_of(each.sum(axis=0)) for each in statistics]), articles, both)


def summary(found: Resampled, confidence: float) -> dict:
    """Value and interval; seed_sd: between seeds (None with one); sampling_se: of the articles alone."""
    low, high = percentile_interval(found.both, confidence)
    several = len(found.seeds) > 1
    return {
        "value": number(found.value),
        "low": low,
        "high": high,
        "seed_sd": number(found.seeds.std(ddof=1)) if several else None,
        "sampling_se": number(found.articles.std(ddof=1)),
    }


def test_of(draws: np.ndarray, observed: float, confidence: float) -> dict:
    """A number with its interval, p (share of draws as far from it as 0 is) and what would have been seen.

    draws: of the bootstrap, around `observed`.
    """
    low, high = percentile_interval(draws, confidence)
    return {
        "value": number(observed),
        "low": low,
        "high": high,
        "p": p_value(np.abs(draws - observed), observed),
        "detectable": float(ndtri((1 + confidence) / 2) + ndtri(POWER)) * float(draws.std(ddof=1)),
    }


def difference(left: Resampled, right: Resampled, confidence: float) -> dict:
    """left - right, as `test_of`."""
    return test_of(left.both - right.both, left.value - right.value, confidence)


def slope(x: np.ndarray, found: list[Resampled], confidence: float) -> dict:
    """Change of the score for each unit of x: least squares over variants, as `test_of`.

    x: [variants], such as log2 of the rank: then it is the gain for each doubling.
    """
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    draws = weights @ np.stack([each.both for each in found])
    return test_of(draws, float(weights @ np.array([each.value for each in found])), confidence)


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

    x: [variants] rising. miss: measured - predicted at the largest x, as `test_of`. Smallest within one
    point: the smallest x whose score is less than 1 below that of the largest.
    """
    values = np.array([[each.value for each in found]])
    draws = np.stack([each.both for each in found], axis=1)
    laws = []
    for y in (values, draws):
        a, b, c = fitted(x[:-1].astype(float), y[:, :-1])
        laws.append((a, b, c, a - b * float(x[-1]) ** -c))
    near = [np.argmax(y >= y[:, -1:] - 1.0, axis=1) for y in (values, draws)]
    low, high = np.quantile(near[1], [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")
    predicted = percentile_interval(laws[1][3], confidence)
    return {
        "asymptote": number(laws[0][0][0]),
        "factor": number(laws[0][1][0]),
        "exponent": number(laws[0][2][0]),
        "predicted": {"value": number(laws[0][3][0]), "low": predicted[0], "high": predicted[1]},
        "miss": test_of(draws[:, -1] - laws[1][3], float(values[0, -1] - laws[0][3][0]), confidence),
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
