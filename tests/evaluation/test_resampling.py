"""Intervals and tests against exact enumeration, scipy, sacrebleu, and simulated test sets."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from scipy import stats

from onesentence.core.errors import UserError
from onesentence.evaluation import resampling
from onesentence.evaluation.overlap.bleu import corpus_bleu
from onesentence.evaluation.resampling import (
    bca_interval,
    difference_of,
    holm,
    mean_of,
    mean_statistics,
    paired_difference,
    percentile_interval,
    resampled_sums,
    score_of,
    summary_of,
    swapped_sums,
    wilson_interval,
)

OUTPUTS = Path(__file__).parents[3] / "shared" / "data" / "xsum-outputs"
RESAMPLES = 20_000
FOUR = np.array([0.0, 1.0, 3.0, 10.0])
FIVE = np.array([-3.0, -1.0, 0.5, 2.0, 4.0])


def monte_carlo(share: float, *samples: int) -> float:
    """Four standard errors of a share, or of the difference of two, each estimated from so many samples."""
    return 4 * sum(share * (1 - share) / n for n in samples) ** 0.5


def all_means(values: np.ndarray) -> np.ndarray:
    """The mean of every one of the n^n equally likely resamples."""
    return np.array([np.mean(pick) for pick in product(values, repeat=len(values))])


def resampled_means(values: np.ndarray, resamples: int) -> np.ndarray:
    return mean_of(resampled_sums(mean_statistics(values), resamples))


# Sums of articles.


def test_a_mean_by_hand():
    statistics = mean_statistics(np.array([1.5, np.nan, 0.0, -2.25]))
    assert statistics.tolist() == [[1_500_000, 1], [0, 0], [0, 1], [-2_250_000, 1]]
    assert mean_of(statistics.sum(axis=0)) == -0.25  # (1.5 + 0 - 2.25) / 3
    assert np.isnan(mean_of(np.array([0, 0])))
    assert mean_of(np.array([[1_000_000, 2], [0, 0]])).tolist() == pytest.approx([0.5, np.nan], nan_ok=True)


@pytest.mark.parametrize("resamples", [1, 99, 100, 101, 350])
def test_sums_are_exact(resamples):
    n = 60
    counts = resampled_sums(np.eye(n, dtype=np.int64), resamples).astype(int)  # how often each was drawn
    assert counts.shape == (resamples, n) and (counts.sum(axis=1) == n).all()
    rng = np.random.default_rng(1)
    values = rng.integers(-(2**53) // n + 1, 2**53 // n, size=(n, 3))
    exact = [
        [sum(int(c) * int(v) for c, v in zip(row, column, strict=True)) for column in values.T]
        for row in counts
    ]
    assert resampled_sums(values, resamples).tolist() == exact


def test_exchanged_sums_are_exact_and_every_article_is_on_one_side():
    n, resamples = 50, 230
    nothing, identity = np.zeros((n, n), dtype=np.int64), np.eye(n, dtype=np.int64)
    left, right = swapped_sums(nothing, identity, resamples)  # left has the articles that changed sides
    assert set(np.unique(left)) == {0, 1} and (left + right == 1).all()
    assert abs(left.mean() - 0.5) < monte_carlo(0.5, n * resamples)
    tosses = left.astype(int)
    rng = np.random.default_rng(2)
    a, b = (rng.integers(0, 2**45, size=(n, 2)) for _ in range(2))
    swapped = swapped_sums(a, b, resamples)
    for k in range(2):
        one, other = [int(v) for v in a[:, k]], [int(v) for v in b[:, k]]
        sums = [
            sum(y if t else x for t, x, y in zip(row, one, other, strict=True)) for row in tosses.tolist()
        ]
        assert swapped[0][:, k].tolist() == sums
        assert (swapped[0][:, k] + swapped[1][:, k] == sum(one) + sum(other)).all()


@pytest.mark.parametrize("largest", [2**53, 2**59, 2**60, 2**62])
def test_statistics_too_large_for_exact_sums_are_refused(largest):
    statistics_ = np.zeros((16, 1), dtype=np.int64)
    statistics_[3] = largest // 16  # 16 times this is 2**53 or more: 2**59 * 16 is 0 in an int64
    with pytest.raises(UserError, match="too large to be summed exactly over 16"):
        resampled_sums(statistics_, 100)
    with pytest.raises(UserError, match="summed exactly"):
        resampled_sums(np.full((16, 1), largest), 100)
    with pytest.raises(UserError, match="summed exactly"):
        swapped_sums(np.zeros((16, 1), dtype=np.int64), -statistics_, 100)


@pytest.mark.parametrize("at_once", [1, 7, 250, 10_000])
def test_how_many_resamples_are_drawn_at_once_changes_nothing(at_once, monkeypatch):
    values = np.random.default_rng(2).integers(0, 10**9, size=(33, 2))
    before = resampled_sums(values, 250), *swapped_sums(values, values[::-1], 250)
    monkeypatch.setattr(resampling, "AT_ONCE", at_once)
    after = resampled_sums(values, 250), *swapped_sums(values, values[::-1], 250)
    assert [part.tobytes() for part in after] == [part.tobytes() for part in before]


def test_every_column_and_system_sees_the_same_resamples_to_the_last_bit():
    values = np.random.default_rng(2).integers(0, 10**10, size=(25, 3))
    together = resampled_sums(values, 250)
    assert np.array_equal(together[:, [2, 0, 1]], resampled_sums(values[:, [2, 0, 1]], 250))
    assert np.array_equal(together.sum(axis=1), resampled_sums(values.sum(axis=1, keepdims=True), 250)[:, 0])
    for column in range(3):
        assert np.array_equal(together[:, [column]], resampled_sums(values[:, [column]], 250))


# The bootstrap against every resample.


@pytest.mark.parametrize("values", [FOUR, FIVE])
def test_resampled_means_have_the_distribution_of_all_resamples(values):
    exact = all_means(values)
    drawn = resampled_means(values, RESAMPLES)
    assert drawn.shape == (RESAMPLES,)
    assert abs(drawn.mean() - exact.mean()) < 4 * exact.std() / RESAMPLES**0.5
    assert set(drawn.round(9)) <= set(exact.round(9))
    for place in np.unique(exact.round(9)):
        share = (exact <= place + 1e-9).mean()
        assert abs((drawn <= place + 1e-9).mean() - share) <= monte_carlo(share, RESAMPLES) + 1e-12


@pytest.mark.parametrize("values", [FOUR, FIVE])
@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95])
def test_an_interval_contains_its_share_of_all_resamples(values, confidence):
    exact = all_means(values)
    entry = summary_of(values, RESAMPLES, confidence)
    for end, share in ((entry["low"], (1 - confidence) / 2), (entry["high"], (1 + confidence) / 2)):
        # A q-quantile has at most a share of q below it and at least a share of q up to it.
        assert (exact < end - 1e-9).mean() <= share + monte_carlo(share, RESAMPLES)
        assert (exact <= end + 1e-9).mean() >= share - monte_carlo(share, RESAMPLES)


def test_percentile_interval_by_hand():
    assert percentile_interval(np.arange(101.0), 0.9) == pytest.approx((5, 95))
    assert percentile_interval(np.full(100, 2.5), 0.95) == (2.5, 2.5)
    assert percentile_interval(np.array([np.nan, *np.arange(101.0), np.nan]), 0.9) == pytest.approx((5, 95))
    assert percentile_interval(np.full(3, np.nan), 0.9) == (None, None)


def test_summary_agrees_with_scipys_percentile_and_bca_bootstrap():
    values = np.random.default_rng(3).gamma(1, 10, size=60)
    entry = summary_of(values, 10_000, 0.95)
    assert entry["value"] == pytest.approx(values.mean(), abs=1e-6)
    spread = values.std() / len(values) ** 0.5
    for method, low, high in (("percentile", "low", "high"), ("BCa", "bca_low", "bca_high")):
        other = stats.bootstrap((values,), np.mean, n_resamples=10_000, method=method, rng=1)
        assert abs(entry[low] - other.confidence_interval.low) < 0.1 * spread
        assert abs(entry[high] - other.confidence_interval.high) < 0.1 * spread
    assert entry["bca_high"] > entry["high"] + 0.1 * spread  # right-skewed: BCa moves to the right


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("seed", range(4))
def test_bca_on_scipys_own_resamples_is_scipys(confidence, seed):
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(30) < 0.5, 0, rng.gamma(1, 20, size=30))
    if seed == 3:  # a share, as success is: many resamples equal the estimate and count half
        values = (np.arange(30) < 3).astype(float)
    other = stats.bootstrap(
        (values,), np.mean, n_resamples=999, confidence_level=confidence, method="BCa", rng=seed
    )
    jackknife = np.array([np.delete(values, i).mean() for i in range(30)])
    interval = bca_interval(other.bootstrap_distribution, values.mean(), jackknife, confidence)
    assert interval == pytest.approx(tuple(other.confidence_interval), abs=1e-9)


def test_bca_of_a_corpus_score_agrees_with_scipys():
    """A ratio of sums, as BLEU and chrF are made of; scipy resamples pairs."""
    rng = np.random.default_rng(7)
    totals = rng.integers(5, 60, size=40)
    matches = rng.binomial(totals, rng.beta(1, 4, size=40))

    def ratio(sums: np.ndarray) -> np.ndarray:
        return 100 * sums[..., 0] / sums[..., 1]

    counts = np.stack([matches, totals], axis=1)
    entry = score_of(counts, ratio, resampled_sums(counts, 10_000), 0.95)
    other = stats.bootstrap(
        (matches, totals),
        lambda m, t, axis=-1: 100 * m.sum(axis=axis) / t.sum(axis=axis),
        paired=True,
        n_resamples=10_000,
        method="BCa",
        rng=1,
    )
    assert entry["value"] == 100 * matches.sum() / totals.sum()
    error = other.standard_error
    assert abs(entry["bca_low"] - other.confidence_interval.low) < 0.1 * error
    assert abs(entry["bca_high"] - other.confidence_interval.high) < 0.1 * error
    jackknife = ratio(counts.sum(axis=0) - counts)
    again = bca_interval(other.bootstrap_distribution, entry["value"], jackknife, 0.95)
    assert again == pytest.approx(tuple(other.confidence_interval), abs=1e-9)


def test_bca_is_none_where_it_is_undefined():
    rng = np.random.default_rng(0)
    assert bca_interval(np.full(100, 2.0), 2.0, np.full(10, 2.0), 0.95) == (None, None)
    above = 5 + rng.random(100)  # every resample on one side of the estimate
    assert bca_interval(above, 4.0, rng.random(10), 0.95) == (None, None)
    assert bca_interval(above, 7.0, rng.random(10), 0.95) == (None, None)
    assert None not in bca_interval(above, 5.5, rng.random(10), 0.95)
    constant = summary_of(np.full(20, 37.5), 200, 0.95)
    assert constant == {
        **{"value": 37.5, "low": 37.5, "high": 37.5, "bca_low": None, "bca_high": None},
        "design_effect": 1.0,
    }


# Coverage and power, over simulated test sets.


def skewed(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Scores as of ROUGE-2: 45 % zeros, else beta(1.2, 6) x 100; mean 0.55 * 100 * 1.2 / 7.2 = 9.1667."""
    return np.where(rng.random(shape) < 0.45, 0, 100 * rng.beta(1.2, 6, size=shape))


SKEWED_MEAN = 0.55 * 100 * 1.2 / 7.2
SETS = 1_500


def all_sums(columns: np.ndarray, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """(statistics [articles, sets, 2], sums [resamples, sets, 2]) of scores [articles, sets]."""
    n, sets = columns.shape
    statistics = np.stack([mean_statistics(column) for column in columns.T], axis=1)
    return statistics, resampled_sums(statistics.reshape(n, 2 * sets), resamples).reshape(resamples, sets, 2)


@pytest.mark.parametrize(("n", "short"), [(100, 0.015), (500, 0.005)])
def test_95_percent_intervals_of_skewed_scores_cover_in_95_percent_of_sets(n, short):
    # A bootstrap interval of a skewed mean covers slightly less often than 95 %: by 1.5 points for n = 100.
    columns = skewed(np.random.default_rng(0), (n, SETS))
    assert stats.skew(columns, axis=None) > 1.5
    statistics, sums = all_sums(columns, 600)
    entries = [score_of(statistics[:, k], mean_of, sums[:, k], 0.95) for k in range(SETS)]
    error = 3 * (0.95 * 0.05 / SETS) ** 0.5  # 1.7 points
    bias = []
    for low, high in (("low", "high"), ("bca_low", "bca_high")):
        below = np.mean([entry[high] < SKEWED_MEAN for entry in entries])
        above = np.mean([entry[low] > SKEWED_MEAN for entry in entries])
        assert 0.95 - short - error < 1 - below - above < 0.95 + error
        bias.append(below - above)
    # Right-skewed: an interval that misses is below the mean more often than above. BCa corrects for that.
    assert bias[0] > 0.01 and abs(bias[1]) < bias[0]


@pytest.fixture(scope="module")
def simulated() -> dict[float, list[dict]]:
    """Paired differences of 1,000 sets of 100 articles, by the true difference: 0, and the MDE.

    Articles differ more than systems do: a shared skewed part, and each system's own noise of variance 2.
    """
    n, resamples, sets = 100, 500, 1_000
    rng = np.random.default_rng(11)
    shared, *noise = skewed(rng, (n, sets)), rng.normal(size=(n, sets)), rng.normal(size=(n, sets))
    # (1.96 + 0.8416) * sqrt(variance of a paired difference / articles), variance 2 + 2
    mde = (1.959964 + 0.841621) * (4 / n) ** 0.5
    entries: dict[float, list[dict]] = {}
    for true in (0.0, mde):
        left, left_sums = all_sums(shared + 2**0.5 * noise[0] + true, resamples)
        right, right_sums = all_sums(shared + 2**0.5 * noise[1], resamples)
        swapped = swapped_sums(left.reshape(n, -1), right.reshape(n, -1), resamples)
        one, other = (side.reshape(resamples, sets, 2) for side in swapped)
        entries[true] = [
            paired_difference(
                left[:, k],
                right[:, k],
                mean_of,
                (left_sums[:, k], right_sums[:, k]),
                (one[:, k], other[:, k]),
                0.95,
            )
            for k in range(sets)
        ]
    return entries


def test_95_percent_intervals_of_a_paired_difference_cover_in_95_percent_of_sets(simulated):
    for true, entries in simulated.items():
        error = 3 * (0.95 * 0.05 / len(entries)) ** 0.5  # 2.1 points, and 1.0 for n = 100
        for low, high in (("low", "high"), ("bca_low", "bca_high")):
            covered = np.mean([entry[low] <= true <= entry[high] for entry in entries])
            assert 0.94 - error < covered < 0.95 + error


@pytest.mark.parametrize("test", ["p_randomization", "p_bootstrap"])
def test_a_true_null_is_significant_in_5_percent_of_sets(simulated, test):
    p = np.array([entry[test] for entry in simulated[0.0]])
    for level in (0.05, 0.2, 0.5):
        # n = 100: the bootstrap's p-values are a little too small; exchanges are exact.
        slack = 0.02 if test == "p_bootstrap" else 0
        assert abs((p <= level).mean() - level) < monte_carlo(level, len(p)) + slack


@pytest.mark.parametrize("test", ["p_randomization", "p_bootstrap"])
def test_the_minimum_detectable_effect_is_significant_in_80_percent_of_sets(simulated, test):
    true = max(simulated)
    mdes = np.array([entry["mde"] for entry in simulated[true]])
    assert abs(mdes.mean() - true) < 0.02 * true  # the code against the formula on known variances
    seen = np.mean([entry[test] <= 0.05 for entry in simulated[true]])
    assert abs(seen - 0.8) < monte_carlo(0.8, len(mdes)) + 0.01


def test_the_minimum_detectable_effect_falls_with_the_root_of_n():
    rng = np.random.default_rng(4)
    left, right = rng.normal(size=100), rng.normal(size=100)
    small = difference_of(left, right, 5_000, 0.95)["mde"]
    large = difference_of(np.tile(left, 16), np.tile(right, 16), 5_000, 0.95)["mde"]
    assert small / large == pytest.approx(4, rel=0.05)
    # By hand: normal quantiles 1.6449 (confidence 0.9) and 0.8416 (power 0.8).
    error = (left - right).std() / 10
    assert difference_of(left, right, 20_000, 0.9)["mde"] == pytest.approx(2.4865 * error, rel=0.03)


# Paired tests.


def exchanges(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The difference of means after every one of the 2^n exchanges."""
    signs = np.array(list(product((1, -1), repeat=len(left))))
    return (signs * (left - right)).mean(axis=1)


EIGHT = {
    "clear": ([9, 7, 8, 6, 9, 7, 8, 9], [1, 3, 2, 4, 1, 2, 5, 3]),
    "one against": ([5, 6, 7, 8, 9, 4, 3, 1], [1, 2, 3, 4, 5, 6, 1, 0]),
    "ties": ([1, 0, 1, 1, 0, 1, 1, 1], [0, 0, 1, 0, 1, 0, 0, 1]),
    "mostly ties": ([1, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 0]),
    "one outlier": ([100, 1, 2, 1, 2, 1, 2, 1], [0, 2, 1, 2, 1, 2, 1, 2]),
    "thirds": ([1 / 3, 2 / 3, 1, 4 / 3, 0.1, 0.2, 0.3, 0.7], [0, 1 / 3, 1.1, 1, 0.2, 0.1, 0, 0.2]),
    "equal means": ([1, 2, 3, 4, 5, 6, 7, 8], [2, 1, 4, 3, 6, 5, 8, 7]),
    "equal": ([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7, 8]),
}


@pytest.mark.parametrize("name", EIGHT)
def test_randomization_agrees_with_all_exchanges_and_scipy(name):
    # Rounded to 6 decimals, as scores are: for thirds of 1, "as large" would depend on the last bit.
    left, right = (np.array(side, dtype=float).round(6) for side in EIGHT[name])
    every = exchanges(left, right)
    exact = (np.abs(every) >= abs((left - right).mean()) - 1e-9).mean()
    other = stats.permutation_test(
        (left, right),
        lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert other.pvalue == pytest.approx(exact)
    p = difference_of(left, right, RESAMPLES, 0.95)["p_randomization"]
    expected = (RESAMPLES * exact + 1) / (RESAMPLES + 1)  # the observed data counts as one exchange more
    assert abs(p - expected) <= monte_carlo(exact, RESAMPLES) + 1e-12


def test_the_data_sets_of_eight_cover_the_range_of_p():
    exact = {}
    for name, sides in EIGHT.items():
        left, right = (np.array(side, dtype=float).round(6) for side in sides)
        exact[name] = (np.abs(exchanges(left, right)) >= abs((left - right).mean()) - 1e-9).mean()
    assert exact["clear"] == 2 / 256  # all one way, or all the other
    assert exact["mostly ties"] == 0.5  # both up, both down, of 4
    assert exact["equal"] == exact["equal means"] == 1
    assert 0.01 < exact["one against"] < 0.2 < exact["ties"] < 1


CENTRED = [
    (FIVE + 2.0, np.array([0.5, 0.0, 1.0, 0.25, 3.0])),
    (FOUR, np.array([1.0, 0.0, 2.0, 4.0])),
    (np.array([3.0, 4.0, 5.0, 4.5]), np.array([1.0, 3.0, 3.5, 3.25])),
    (np.array([1.0, 2.0, 3.0, 9.0, 5.0]), np.array([2.0, 1.0, 4.0, 1.0, 6.0])),
]


@pytest.mark.parametrize("case", range(len(CENTRED)))
def test_the_bootstraps_p_agrees_with_all_resamples_around_the_observed_difference(case):
    left, right = CENTRED[case]
    observed = (left - right).mean()
    every = all_means(left - right)
    exact = (np.abs(every - observed) >= abs(observed) - 1e-9).mean()
    entry = difference_of(left, right, RESAMPLES, 0.95)
    assert entry["value"] == pytest.approx(observed, abs=1e-6)
    expected = (RESAMPLES * exact + 1) / (RESAMPLES + 1)
    assert abs(entry["p_bootstrap"] - expected) <= monte_carlo(exact, RESAMPLES) + 1e-12
    for end, share in ((entry["low"], 0.025), (entry["high"], 0.975)):
        assert (every < end - 1e-9).mean() <= share + monte_carlo(share, RESAMPLES)
        assert (every <= end + 1e-9).mean() >= share - monte_carlo(share, RESAMPLES)


def test_the_smallest_p_counts_the_observed_data():
    # Every article favours left: none of 1,000 exchanges of 40 articles is as large.
    left = np.linspace(0, 100, 40)
    entry = difference_of(left, left - 1.0, 1_000, 0.95)
    assert entry["p_randomization"] == entry["p_bootstrap"] == 1 / 1_001


def test_differences_are_paired():
    # Articles differ much more than the systems: unpaired, the interval would be some 20 wide.
    left = np.linspace(0, 100, 40)
    entry = difference_of(left, left - 1.0, 1_000, 0.95)
    assert (entry["value"], entry["low"], entry["high"]) == pytest.approx((1, 1, 1))
    assert entry["mde"] is None  # nothing varies: no smaller difference can be named


def test_swapping_the_systems_swaps_the_signs():
    rng = np.random.default_rng(5)
    left, right = rng.normal(size=30), rng.normal(size=30)
    one, other = difference_of(left, right, 500, 0.9), difference_of(right, left, 500, 0.9)
    for name, opposite in (("value", "value"), ("low", "high"), ("bca_low", "bca_high")):
        assert one[name] == pytest.approx(-other[opposite])
        assert one[opposite] == pytest.approx(-other[name])
    assert all(one[name] == other[name] for name in ("p_bootstrap", "p_randomization"))
    assert one["mde"] == pytest.approx(other["mde"])


@pytest.mark.parametrize("shift", [-5.0, -0.1, 0.0, 0.1, 5.0])
def test_p_is_above_0_and_at_most_1(shift):
    left = np.random.default_rng(1).normal(size=20)
    for right in (left, left[::-1]):
        entry = difference_of(left + shift, right, 200, 0.95)
        assert 0 < entry["p_bootstrap"] <= 1 and 0 < entry["p_randomization"] <= 1
    same = difference_of(left, left, 200, 0.95)
    assert same["p_bootstrap"] == same["p_randomization"] == 1


# Corpus BLEU against sacrebleu's own paired tests.


def made_up() -> tuple[list[str], list[str], list[str]]:
    """80 references of 8 to 25 words; two systems that get 30 and 33 % of the words wrong."""
    rng = np.random.default_rng(9)
    vocabulary = [f"w{k}" for k in range(200)]
    references = [rng.choice(vocabulary, size=rng.integers(8, 26)).tolist() for _ in range(80)]
    systems = [
        [" ".join(word if rng.random() > wrong else "x" for word in words) for words in references]
        for wrong in (0.30, 0.33)
    ]
    return [" ".join(words) for words in references], *systems


def xsum() -> tuple[list[str], list[str], list[str]]:
    """300 XSum references; two systems that each take ConvS2S's output here and the lead there."""
    if not (OUTPUTS / "ref.txt").is_file():
        pytest.skip("no XSum outputs beside the repository (shared/data/xsum-outputs)")
    texts = (
        (OUTPUTS / f"{name}.txt").read_text(encoding="utf-8").split("\n")[:300]
        for name in ("ref", "convs2s", "lead")
    )
    references, convs2s, lead = texts
    first = np.random.default_rng(5).random(300) < 0.6
    left = [a if pick else b for pick, a, b in zip(first, convs2s, lead, strict=True)]
    right = [b if pick else a for pick, a, b in zip(first, convs2s, lead, strict=True)]
    return references, left, right


@pytest.mark.parametrize("texts", [made_up, xsum])
def test_corpus_bleu_is_tested_as_sacrebleu_does(texts):
    references, left, right = texts()
    bleu = BLEU()

    def counts_of(outputs: list[str]) -> np.ndarray:
        return np.array(bleu._extract_corpus_statistics(outputs, [references]), dtype=np.int64)

    sides = counts_of(left), counts_of(right)
    resamples, samples = 4_000, 1_000
    sums = tuple(resampled_sums(side, resamples) for side in sides)
    entry = paired_difference(*sides, corpus_bleu, sums, swapped_sums(*sides, resamples), 0.95)
    theirs = {}
    for kind in ("ar", "bs"):
        test = PairedTest([("right", right), ("left", left)], {"BLEU": bleu}, [references], kind, samples)
        theirs[kind] = test()[1]["BLEU"]  # [Result of the baseline, of the other]
    baseline, other = theirs["ar"]
    assert abs(corpus_bleu(sides[0].sum(axis=0)) - other.score) < 1e-9
    assert abs(corpus_bleu(sides[1].sum(axis=0)) - baseline.score) < 1e-9
    assert entry["value"] == pytest.approx(other.score - baseline.score, abs=1e-9)
    assert entry["value"] > 0 and 0.005 < other.p_value < 0.5  # a case in which p says something
    p = entry["p_randomization"]
    assert abs(p - other.p_value) < monte_carlo(p, resamples, samples)
    # Their bootstrap counts one tail, centred on the mean of the resamples; ours counts both, around 0.
    sizes = np.abs(corpus_bleu(sums[0]) - corpus_bleu(sums[1]))
    one_tail = (sizes - sizes.mean() > entry["value"]).mean()
    p = theirs["bs"][1].p_value
    assert abs(one_tail - p) < monte_carlo(one_tail, resamples, samples) + 1 / samples
    assert one_tail < entry["p_bootstrap"] < 3 * one_tail
    mean, half = theirs["bs"][1].mean, theirs["bs"][1].ci  # half of the interval's width
    interval = score_of(sides[0], corpus_bleu, sums[0], 0.95)
    assert abs((interval["low"] + interval["high"]) / 2 - mean) < 0.2 * half
    assert (interval["high"] - interval["low"]) / 2 == pytest.approx(half, rel=0.15)


# Families of tests, shares.


def test_holm_by_hand():
    # Ranked .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, and none below one that ranks before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, None, 0.04, None]) == pytest.approx([0.02, None, 0.04, None])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([None, None]) == [None, None]
    assert holm([]) == []


def rejected(p_values: list[float | None], level: float) -> list[bool]:
    """Holm's step-down procedure as it is written: stop at the first p above level / (tests left)."""
    ranked = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    decisions = [False] * len(p_values)
    for done, (p, i) in enumerate(ranked):
        if p > level / (len(ranked) - done):
            break
        decisions[i] = True
    return decisions


@pytest.mark.parametrize("seed", range(20))
def test_holms_decisions_are_those_of_the_step_down_procedure(seed):
    rng = np.random.default_rng(seed)
    p_values: list = (rng.integers(1, 1_000, size=rng.integers(1, 30)) / 7_001).tolist()
    p_values += p_values[:3]  # ties
    p_values = [None if rng.random() < 0.2 else p for p in p_values]
    for level in (0.0003, 0.0107, 0.0511, 0.1013, 0.2503, 0.5):
        adjusted = holm(p_values)
        assert [p is not None and p <= level for p in adjusted] == rejected(p_values, level)


@pytest.mark.parametrize("n", [1, 2, 10, 57, 500])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilsons_interval_is_scipys(n, confidence):
    for successes in {0, 1, n // 3, n // 2, n - 1, n}:
        other = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
        assert wilson_interval(successes, n, confidence) == pytest.approx((other.low, other.high), abs=1e-9)
    assert wilson_interval(n, n, confidence)[0] < 1 and wilson_interval(0, n, confidence)[1] > 0


# Undefined articles.


def test_undefined_articles_are_left_out():
    # Of 3^3 resamples 8 hold no defined article; in every other one the mean is 7.
    alone = summary_of(np.array([np.nan, 7.0, np.nan]), 500, 0.95)
    assert alone == {
        **{"value": 7, "low": 7, "high": 7, "bca_low": None, "bca_high": None},
        "design_effect": 1.0,
    }
    values = resampled_means(np.array([np.nan, 7.0, np.nan]), RESAMPLES)
    assert abs(np.isnan(values).mean() - 8 / 27) < monte_carlo(8 / 27, RESAMPLES)
    assert set(values[~np.isnan(values)]) == {7}


def test_the_interval_with_undefined_articles_is_that_of_all_resamples():
    values = np.array([1.0, np.nan, 4.0, 10.0])
    picks = [np.array(pick) for pick in product(values, repeat=4)]
    exact = np.array([pick[~np.isnan(pick)].mean() for pick in picks if not np.isnan(pick).all()])
    entry = summary_of(values, RESAMPLES, 0.8)
    assert entry["value"] == 5
    for end, share in ((entry["low"], 0.1), (entry["high"], 0.9)):
        assert (exact < end - 1e-9).mean() <= share + monte_carlo(share, RESAMPLES)
        assert (exact <= end + 1e-9).mean() >= share - monte_carlo(share, RESAMPLES)


def test_undefined_scores_give_none_for_every_number():
    nothing = np.full(5, np.nan)
    entries = [summary_of(nothing, 100, 0.95)]
    entries += [difference_of(*sides, 100, 0.95) for sides in ((nothing, np.ones(5)), (np.ones(5), nothing))]
    assert all(value is None for entry in entries for value in entry.values())
    assert set(entries[1]) == set(difference_of(np.ones(5), np.zeros(5), 100, 0.95))
    json.dumps(entries, allow_nan=False)


def test_a_partly_undefined_difference_is_valid_json():
    left, right = np.array([1.0, np.nan, 3.0, 2.0]), np.array([np.nan, 2.0, 1.0, 1.0])
    entry = difference_of(left, right, 2_000, 0.95)
    assert entry["value"] == pytest.approx(2 - 4 / 3, abs=1e-6)
    json.dumps(entry, allow_nan=False)
