"""Tests over seeds and articles against simulated truths, and the fits against data whose law is known."""

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq, curve_fit

from onesentence.evaluation.resampling import (
    Sample,
    detectable_effect,
    mean_of,
    mean_statistics,
    resampled_sums,
)
from onesentence.study import variance
from onesentence.study.variance import (
    adjust_holm,
    difference,
    extrapolated,
    fitted,
    not_worse,
    pairs_needed,
    pareto_front,
    percentile_test,
    pooled,
    resampled,
    scaling,
    seed_variance_of,
    slope,
    summary,
)

RESAMPLES = 20_000


def simulated(rng, seeds: int, n: int, level: float, between: float, within: float, articles=None):
    """Scores [seeds, n]: level + a seed's own shift + an article's + noise."""
    articles = rng.normal(0, 10, n) if articles is None else articles
    return level + rng.normal(0, between, (seeds, 1)) + articles + rng.normal(0, within, (seeds, n))


def test_one_seed_is_the_plain_bootstrap():
    scores = np.random.default_rng(0).uniform(0, 100, (1, 50))
    result = resampled(scores, 500, 3)
    assert np.array_equal(result.both, mean_of(resampled_sums(mean_statistics(scores[0]), 500)))
    assert summary(result, 0.95)["seed_sd"] is None
    assert result.value == pytest.approx(scores.mean(), abs=1e-6)


def test_the_spread_of_seeds_and_of_articles_by_hand():
    """Articles that are all alike leave the seeds' spread alone: variance of a mean of three, s^2 / 3."""
    scores = np.repeat(np.array([[20.0], [23.0], [29.0]]), 40, axis=1)
    result = resampled(scores, RESAMPLES, 0)
    summed = summary(result, 0.95)
    assert summed["value"] == 24.0 and summed["sampling_se"] == pytest.approx(0, abs=1e-12)
    assert summed["seed_sd"] == pytest.approx(np.std([20, 23, 29], ddof=1), abs=1e-6)
    # Student's t with two degrees of freedom, as for three numbers.
    half = stats.t.ppf(0.975, 2) * np.std([20, 23, 29], ddof=1) / np.sqrt(3)
    assert (summed["low"], summed["high"]) == pytest.approx((24 - half, 24 + half), rel=1e-6)
    assert np.quantile(result.both, 0.975) == pytest.approx(24 + half, rel=0.05)
    # Seeds that are all alike leave the articles': s / sqrt(n).
    row = np.random.default_rng(1).uniform(0, 100, 200)
    same = resampled(np.stack([row] * 3), RESAMPLES, 0)
    assert np.array_equal(same.both, same.articles)
    assert same.both.std() == pytest.approx(row.std() / np.sqrt(200), rel=0.02)


def test_the_spread_of_seeds_is_that_of_a_two_way_analysis():
    """between is unbiased: 1.5^2 where it is that, 0 where seeds differ by the articles' noise alone."""
    rng = np.random.default_rng(3)
    for between in (0.0, 1.5):
        result = [seed_variance_of(simulated(rng, 3, 100, 30, between, 8)) for _ in range(4_000)]
        error = np.std([each.between for each in result]) / np.sqrt(len(result))
        assert np.mean([each.between for each in result]) == pytest.approx(between**2, abs=3 * error)
        assert np.mean([each.total for each in result]) == pytest.approx(between**2 + 0.64, abs=3 * error)
    together = pooled(result[:5])
    assert together.df == 10 and together.between == pytest.approx(np.mean([f.between for f in result[:5]]))


@pytest.mark.parametrize(
    ("between", "within", "seeds"),
    [(0.0, 8, 3), (0.0, 8, 2), (0.4, 8, 3), (1.2, 2, 3), (0.0, 0, 2), (0.6, 5, 5)],
)
def test_no_difference_is_rarely_called_one(between, within, seeds):
    """Where seeds, where articles and where the noise of each pair dominates: a test at 5 % of two variants
    that are alike is wrong in at most about 5 %, and its interval covers 0 in the other cases.
    """
    rng, wrong, trials = np.random.default_rng(5), 0, 500
    for _ in range(trials):
        articles = rng.normal(0, 10, 200)
        sides = [resampled(simulated(rng, seeds, 200, 30, between, within, articles), 200, k) for k in (0, 1)]
        entry = difference(*sides, 0.95)
        assert (entry["p"] < 0.05) == (not entry["low"] <= 0 <= entry["high"])
        assert entry["df"] is None or entry["df"] >= seeds - 1
        wrong += entry["p"] < 0.05
    assert wrong / trials <= 0.07
    if within and between < 1:  # nor is it so careful that it sees nothing
        assert wrong / trials >= 0.005


def test_a_borrowed_spread_makes_one_seed_honest():
    """Variants of one seed each, 0.8 apart by their seeds: taken for fixed, they differ too often."""
    rng, trials = np.random.default_rng(6), 400
    wrong = {"borrowed": 0, "fixed": 0}
    for _ in range(trials):
        articles = rng.normal(0, 10, 400)
        spread = pooled([seed_variance_of(simulated(rng, 3, 400, 30, 0.8, 5, articles)) for _ in range(5)])
        rows = [simulated(rng, 1, 400, 30, 0.8, 5, articles) for _ in range(2)]
        for kind, given in (("borrowed", spread), ("fixed", None)):
            sides = [resampled(row, 200, k, given) for k, row in enumerate(rows)]
            wrong[kind] += difference(*sides, 0.95)["p"] < 0.05
    assert wrong["borrowed"] / trials <= 0.07 and wrong["fixed"] / trials >= 0.3


def test_a_borrowed_spread_is_one_estimate_however_many_borrow_it():
    """Degrees of freedom are those of the spread where it is all of the variance, for two and for twenty."""
    spread, row = variance.SeedVariance(0.06, 0.06, 10), np.full((1, 50), 30.0)
    result = [resampled(row + k, 100, k, spread) for k in range(20)]
    assert difference(result[0], result[1], 0.95)["df"] == pytest.approx(10)
    assert slope(np.arange(20.0), result, 0.95)["df"] == pytest.approx(10)
    own = [variance.SeedVariance(0.06, 0.06, 2) for _ in range(2)]
    left, right = (resampled(row, 100, k, each) for k, each in enumerate(own))
    assert difference(left, right, 0.95)["df"] == pytest.approx(4)


@pytest.mark.parametrize(("df", "alpha"), [(2, 0.05), (3.4, 0.0125), (40, 0.0125), (np.inf, 0.05)])
def test_the_reach_of_a_test_is_seen_in_80_percent_with_few_degrees_of_freedom_too(df, alpha):
    rng, trials = np.random.default_rng(8), 40_000
    error = 1.0 if np.isinf(df) else np.sqrt(rng.chisquare(df, trials) / df)
    t = (rng.normal(detectable_effect(alpha, df), 1, trials)) / error
    assert np.mean(np.abs(t) > stats.t.ppf(1 - alpha / 2, df)) == pytest.approx(0.8, abs=0.01)


def test_variants_that_represent_others_have_chance_of_their_own():
    """Twenty templates whose level has nothing to do with their length: the distance from the line counts."""
    rng, wrong, trials = np.random.default_rng(10), {True: 0, False: 0}, 200
    x = np.linspace(1, 6, 20)
    for _ in range(trials):
        articles = rng.normal(0, 10, 400)
        levels = rng.normal(30, 1, 20)
        result = [
            resampled((level + articles + rng.normal(0, 5, 400))[None], 100, k)
            for k, level in enumerate(levels)
        ]
        for sampled in wrong:
            wrong[sampled] += slope(x, result, 0.95, sampled)["p"] < 0.05
    assert wrong[True] / trials <= 0.09 and wrong[False] / trials >= 0.3
    straight = [resampled(30 + k + rng.normal(0, 5, (1, 400)), 100, k) for k in range(20)]
    assert (
        slope(x, straight, 0.95, sampled=True)["df"] > 18
    )  # all on the line: articles are the larger chance


def test_the_best_of_five_that_are_alike_is_rarely_called_better():
    rng, wrong, trials = np.random.default_rng(11), 0, 150
    for _ in range(trials):
        articles = rng.normal(0, 10, 300)
        result = [resampled((articles + rng.normal(0, 5, 300))[None], 100, k) for k in range(5)]
        best = int(np.argmax([each.value for each in result]))
        wrong += len(not_worse(best, result, 0.95)) < 4
    assert wrong / trials <= 0.08  # one test for each pair would be wrong in 9 %
    apart = [resampled(rng.normal(level, 1, (1, 300)), 100, k) for k, level in enumerate((30, 20, 29.95))]
    assert not_worse(0, apart, 0.95) == [2]
    assert not_worse(0, [apart[0], apart[0], apart[1]], 0.95) == [1]  # the same outputs


def test_the_mde_is_detected_in_80_percent_of_cases():
    """Even where Holm's procedure is strictest: as one of five tests, the others without an effect."""
    rng, seen, trials, reach = np.random.default_rng(7), 0, 300, []
    for _ in range(trials):
        articles = rng.normal(0, 10, 300)
        left = resampled(simulated(rng, 5, 300, 31.3, 0.3, 6, articles), 200, 0)
        right = resampled(simulated(rng, 5, 300, 30, 0.3, 6, articles), 200, 1)
        entries = [difference(left, right, 0.95), *({"p": 0.9, "se": 0.1, "df": 9.0} for _ in range(4))]
        adjust_holm(entries, 0.95)
        reach.append(entries[0]["mde"])
        seen += entries[0]["p_holm"] < 0.05
    assert entries[0]["p_holm"] == pytest.approx(5 * entries[0]["p"])
    # The MDE here is about 1.3 points: it is detected in about 80 %.
    assert np.mean(reach) == pytest.approx(1.3, abs=0.05) and 0.72 <= seen / trials <= 0.9


def test_articles_are_paired_and_seeds_are_not():
    rng = np.random.default_rng(2)
    articles = rng.normal(40, 15, 300)
    left = resampled(np.stack([articles, articles]), 1_000, 0)
    right = resampled(np.stack([articles - 2, articles - 2]), 1_000, 1)
    result = difference(left, right, 0.95)
    assert (result["value"], result["low"], result["high"]) == pytest.approx((2, 2, 2), abs=1e-6)
    assert result["se"] == 0 and result["p"] < 1e-80  # 2 of 2^300 exchanges are as far from 0
    same = difference(left, left, 0.95)
    assert (same["value"], same["se"], same["p"]) == (0, 0, 1)
    seeds = np.repeat(np.array([[10.0], [20.0]]), 30, axis=1)
    apart = difference(resampled(seeds, 1_000, 0), resampled(seeds, 1_000, 1), 0.95)
    assert apart["value"] == 0 and apart["low"] < -3 and apart["high"] > 3


def test_undefined_scores_are_undefined_differences():
    nothing = resampled(np.full((2, 10), np.nan), 50, 0)
    some = resampled(np.full((2, 10), 3.0), 50, 1)
    entry = difference(nothing, some, 0.95)
    assert set(entry.values()) == {None}
    entries = [entry, difference(some, some, 0.95)]
    adjust_holm(entries, 0.95)
    assert entries[0]["p_holm"] is None and entries[0]["mde"] is None and entries[1]["p_holm"] == 1
    assert summary(nothing, 0.95)["value"] is None and summary(nothing, 0.95)["seed_sd"] is None


def test_a_slope_by_hand():
    """Scores 30, 31, 32 along log2(rank) = 3, 4, 5 gain 1 for each doubling."""
    result = [resampled(np.full((1, 20), level), 100, k) for k, level in enumerate((30.0, 31.0, 32.0))]
    entry = slope(np.log2([8, 16, 32]), result, 0.95)
    assert (entry["value"], entry["low"], entry["high"]) == pytest.approx((1, 1, 1))
    # Against numpy's least squares on uneven points.
    levels = [30.0, 33.0, 31.0, 36.0]
    x = np.array([3.0, 4.0, 6.0, 7.0])
    result = [resampled(np.full((1, 20), level), 100, k) for k, level in enumerate(levels)]
    assert slope(x, result, 0.95)["value"] == pytest.approx(np.polyfit(x, levels, 1)[0])


def test_the_power_law_is_found_where_it_is_one():
    x = np.array([250, 500, 1_000, 2_000, 4_000, 8_000.0])
    truth = np.array([[40 - 300 * value**-0.4 for value in x], [35 - 20_000 * value**-1.2 for value in x]])
    a, b, c = fitted(x, truth)
    assert c == pytest.approx([0.4, 1.2], abs=1e-6)
    assert a == pytest.approx([40, 35], rel=1e-6) and b == pytest.approx([300, 20_000], rel=1e-6)


def test_falling_or_flat_points_are_a_constant():
    x = np.array([250, 500, 1_000.0])
    a, b, _ = fitted(x, np.array([[30.0, 29.0, 28.0], [31.0, 31.0, 31.0]]))
    assert a == pytest.approx([29, 31]) and b.tolist() == [0, 0]


def test_the_fit_is_scipys_best():
    x = np.array([250, 500, 1_000, 2_000, 4_000.0])
    y = 38 - 250 * x**-0.45 + np.random.default_rng(4).normal(0, 0.2, 5)
    a, b, c = (part[0] for part in fitted(x, y[None]))
    (a2, b2, c2), _ = curve_fit(lambda n, a, b, c: a - b * n**-c, x, y, p0=(40, 200, 0.5), maxfev=50_000)

    def error(a, b, c):
        return ((y - a + b * x**-c) ** 2).sum()

    assert error(a, b, c) <= 1.02 * error(a2, b2, c2)
    assert c == pytest.approx(c2, abs=0.03)


def test_more_pairs_than_anybody_has_are_none():
    laws = tuple(
        np.array(part) for part in ([30.0, 30.0, 30.0, 30.0], [10.0, 10.0, 10.0, 0.0], [1, 0.02, 1, 1])
    )
    needed = pairs_needed(laws, np.array([29.9, 29.9, 30.0, 29.0]))
    assert needed.tolist() == [pytest.approx(100.0), np.inf, np.inf, np.inf]


def test_scaling_holds_the_law_against_the_largest_size():
    """The law is fitted without the largest point, and its miss is that point's distance."""
    x = np.array([250, 500, 1_000, 2_000, 4_000])
    levels = [40 - 300 * float(n) ** -0.4 for n in x]
    levels[-1] += 1.5
    result = [resampled(np.full((1, 30), level), 200, k) for k, level in enumerate(levels)]
    law = scaling(x, result, 0.95)
    assert law["exponent"]["value"] == pytest.approx(0.4, abs=1e-4) and law["saturates"]
    assert law["miss"]["value"] == pytest.approx(1.5, abs=1e-3)
    assert law["predicted"]["value"] == pytest.approx(levels[-1] - 1.5, abs=1e-3)
    # 4,000 pairs reach 29.13 + 1.5 = 30.63, 2,000 reach 25.66: none but the largest is within a point.
    assert law["within_one_point"]["value"] == 4_000
    flat = [
        resampled(np.full((1, 30), level), 200, k) for k, level in enumerate((20.0, 29.2, 29.5, 29.9, 30.0))
    ]
    assert scaling(x, flat, 0.95)["within_one_point"] == {"value": 500, "low": 500, "high": 500}
    dips = [
        resampled(np.full((1, 30), level), 200, k) for k, level in enumerate((29.5, 27.0, 28.0, 29.9, 30.0))
    ]
    assert scaling(x, dips, 0.95)["within_one_point"]["value"] == 2_000  # from there on, not at 250 alone
    steady = [resampled(np.full((1, 30), level), 200, k) for k, level in enumerate((10.0, 12, 14, 16, 18))]
    law = scaling(x, steady, 0.95)
    assert (
        law["saturates"] is False and law["growth"]["low"] == 8
    )  # as much for each doubling: no end in sight
    falling = [resampled(np.full((1, 30), level), 200, k) for k, level in enumerate((30.0, 29, 28, 27, 26))]
    law = scaling(x, falling, 0.95)
    assert law["saturates"] is False and law["growth"]["value"] == -4


def test_a_law_says_what_more_data_would_bring():
    x = np.array([250, 500, 1_000, 2_000, 4_000])

    def flat(levels):
        return [resampled(np.full((1, 30), level), 200, k) for k, level in enumerate(levels)]

    further = extrapolated(x, flat(40 - 300 * float(n) ** -0.4 for n in x), 0.95, 35.0)
    assert [at["pairs"] for at in further["predicted"]] == [10_000, 50_000, 200_000]
    assert further["predicted"][1]["value"] == pytest.approx(40 - 300 * 50_000**-0.4, abs=1e-3)
    for key, score in (("one_more_point", 41 - 300 * 4_000**-0.4), ("goal", 35.0)):
        pairs = brentq(lambda n, score=score: 40 - 300 * n**-0.4 - score, 4_000, 1e7)
        assert further[key]["value"] == pytest.approx(pairs, rel=1e-3)
    assert further["goal"]["score"] == 35.0
    beyond = extrapolated(np.array([5_000, 10_000, 20_000, 40_000]), flat((20, 22, 24, 26)), 0.95, None)
    assert [at["pairs"] for at in beyond["predicted"]] == [50_000, 200_000] and "goal" not in beyond
    none = {"value": None, "low": None, "high": None}
    falling = extrapolated(x, flat((30, 29, 28, 27, 26)), 0.95, 29.0)
    assert falling["one_more_point"] == none and falling["goal"] == {"score": 29.0, **none}
    near = extrapolated(x, flat(40 - 1e4 / float(n) ** 2 for n in x), 0.95, None)
    assert near["one_more_point"] == none  # the asymptote is less than a point above the largest size's score


def test_a_percentage_covers_with_few_clusters_too():
    """Plain percentiles of so few clusters cover in 9 of 10 cases only."""
    rng, covered, plain = np.random.default_rng(5), 0, 0
    sample = Sample(np.repeat(np.arange(8), 5))
    for _ in range(400):
        hard = np.repeat(rng.normal(0, 4, 8), 5)
        sides = [resampled((20 + hard + np.repeat(rng.normal(0, 2, 8), 5))[None], 400, k, sample=sample)
                 for k in range(2)]  # fmt: skip
        draws, value = 100 * (1 - sides[0].both / sides[1].both), 100 * (1 - sides[0].value / sides[1].value)
        entry = percentile_test(draws, value, 0.95, sides[0].df)
        covered += entry["low"] <= 0 <= entry["high"]
        low, high = np.quantile(draws, [0.025, 0.975])
        plain += low <= 0 <= high
    assert plain < 0.925 * 400 < covered


def test_the_band_passes_through_the_fitted_law():
    x = np.array([250, 500, 1_000, 2_000])
    result = [resampled(np.full((1, 30), 40 - 300 * float(n) ** -0.4), 50, k) for k, n in enumerate(x)]
    drawn = variance.band(x, result, np.array([500.0, 9_000.0]), 0.95)
    assert drawn.shape == (3, 2)
    assert drawn[0] == pytest.approx([40 - 300 * 500**-0.4, 40 - 300 * 9_000**-0.4], abs=1e-3)


def test_the_pareto_front_by_hand():
    cost, value = [27.0, 14.0, 9.0, 6.0, 9.0], [30.0, 30.0, 29.0, 29.5, 29.5]
    assert pareto_front(cost, value) == [1, 3]  # 30 for 14 beats 30 for 27; 29.5 for 6 beats all at 9
    assert pareto_front([1.0, 1.0], [5.0, 5.0]) == [0, 1]
