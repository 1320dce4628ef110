import numpy as np
import pytest

from onesentence.evaluation.equivalence import (
    DIFFERENT,
    EQUIVALENT,
    UNDECIDED,
    equivalence_of,
    tost_confidence,
    verdict_of,
)
from onesentence.evaluation.resampling import Sample


def scores(n=200, seed=0):
    return np.random.default_rng(seed).normal(30, 10, n)


def test_same_scores_are_equivalent():
    result = equivalence_of(scores(), scores(), 0.3, 1_000, 0.95)
    assert result == {
        "value": 0.0,
        "low": 0.0,
        "high": 0.0,
        "margin": 0.3,
        "p": 1 / 1_001,
        "verdict": EQUIVALENT,
    }


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.2, 0.1, EQUIVALENT),
        (0.1, 0.2, EQUIVALENT),  # significantly better, by too little to matter
        (-0.1, 0.5, UNDECIDED),
        (-0.5, 0.5, UNDECIDED),
        (-0.2, 0.3, UNDECIDED),  # it ends on the margin
        (0.31, 0.5, DIFFERENT),
        (-0.5, -0.31, DIFFERENT),
        (None, None, UNDECIDED),
    ],
)
def test_verdict_follows_the_interval(low, high, verdict):
    assert verdict_of(low, high, 0.3) == verdict


def test_confidence_of_the_interval_leaves_out_alpha_on_each_side():
    assert tost_confidence(0.95) == pytest.approx(0.9)


@pytest.mark.parametrize("margin", [0, -1.0, float("nan")])
def test_margin_must_be_above_zero(margin):
    with pytest.raises(ValueError, match="margin: expected a number above 0"):
        equivalence_of(scores(), scores(), margin, 100, 0.95)


def test_clear_difference_and_too_few_articles_are_distinguished():
    left = scores()
    assert equivalence_of(left, left - 2, 1.0, 1_000, 0.95)["verdict"] == DIFFERENT
    noisy = left + np.random.default_rng(1).normal(0, 8, len(left))
    assert equivalence_of(noisy, left, 0.3, 1_000, 0.95)["verdict"] == UNDECIDED
    assert equivalence_of(noisy, left, 5.0, 1_000, 0.95)["verdict"] == EQUIVALENT


def test_one_cluster_decides_nothing():
    sample = Sample.of(["same"] * 200)
    result = equivalence_of(scores(), scores(), 0.3, 100, 0.95, sample)
    assert (result["low"], result["high"], result["p"], result["verdict"]) == (None, None, None, UNDECIDED)


def test_articles_of_one_cluster_count_together():
    # 20 clusters whose articles all differ alike: 400 articles carry what 20 do.
    rng = np.random.default_rng(2)
    shift, left = np.repeat(rng.normal(0, 1, 20), 20), scores(400)
    sample = Sample.of(np.repeat(np.arange(20), 20).astype(str).tolist())
    clustered = equivalence_of(left + shift, left, 1.0, 2_000, 0.95, sample)
    alone = equivalence_of(left + shift, left, 1.0, 2_000, 0.95)
    assert clustered["high"] - clustered["low"] > 3 * (alone["high"] - alone["low"])


def test_undefined_articles_are_left_out_and_an_undefined_difference_is_undecided():
    left = scores()
    left[:5] = np.nan
    assert equivalence_of(left, left, 0.3, 100, 0.95)["verdict"] == EQUIVALENT
    nothing = np.full(10, np.nan)
    assert equivalence_of(nothing, nothing, 0.3, 100, 0.95)["value"] is None


def test_scores_that_some_draws_do_not_have_are_undecided():
    """One defined article is in two of three draws: the others have no difference."""
    left, right = scores(100), scores(100)
    left[1:] = np.nan
    result = equivalence_of(left, right, 50.0, 500, 0.95)
    assert result["verdict"] == UNDECIDED and result["p"] > 0.05


@pytest.mark.parametrize("clustered", [False, True])
def test_systems_that_differ_by_the_margin_pass_in_at_most_one_of_twenty_cases(clustered):
    """The test's size at the edge of its hypothesis: alpha, here 5 %, with an allowance for 600 trials."""
    rng, passed, trials, margin = np.random.default_rng(3), 0, 600, 1.0
    groups = np.repeat(np.arange(60), 4) if clustered else np.arange(240)
    sample = Sample.of(groups.astype(str).tolist())
    for _ in range(trials):
        left = rng.normal(30, 5, 240)
        noise = rng.normal(0, 1, 240) + (rng.normal(0, 1, groups.max() + 1)[groups] if clustered else 0)
        passed += (
            equivalence_of(left + margin + noise, left, margin, 200, 0.95, sample)["verdict"] == EQUIVALENT
        )
    assert passed / trials < 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)


def test_systems_that_do_not_differ_pass_where_articles_are_enough():
    rng, passed = np.random.default_rng(4), 0
    for _ in range(200):
        left = rng.normal(30, 5, 400)
        passed += equivalence_of(left + rng.normal(0, 2, 400), left, 0.5, 200, 0.95)["verdict"] == EQUIVALENT
    assert passed / 200 > 0.9  # a standard error of 0.1: the margin is five of them


@pytest.mark.parametrize(
    ("articles", "verdict"), [(2, UNDECIDED), (5, UNDECIDED), (6, EQUIVALENT), (500, EQUIVALENT)]
)
def test_outputs_that_are_all_alike_show_something_only_if_they_are_many(articles, verdict):
    scores = np.linspace(0, 100, articles)
    for other in (scores.copy(), scores + np.where(np.arange(articles), 0.0, 0.01)):  # all alike, or nearly
        result = equivalence_of(scores, other, 0.3, 1_000, 0.95)
        assert result["verdict"] == verdict
        assert -0.01 <= result["low"] <= result["high"] <= 0.0
        assert result["p"] == pytest.approx(max(1 / 1_001, 0.5 ** (articles - 1)))


def test_five_articles_show_no_difference_either():
    left = np.linspace(40, 60, 6)
    for articles, verdict in ((5, UNDECIDED), (6, DIFFERENT)):
        few = left[:articles]
        assert equivalence_of(few, few - 30.0, 0.3, 500, 0.95)["verdict"] == verdict


def test_a_few_small_clusters_beside_a_large_one_show_nothing():
    sample = Sample(np.repeat(np.arange(6), [1_000, 1, 1, 1, 1, 1]))
    scores = np.linspace(0, 100, 1_005)
    result = equivalence_of(scores, scores + (np.arange(1_005) == 1_000) * 0.01, 0.3, 500, 0.95, sample)
    assert result["verdict"] == UNDECIDED and result["p"] > 0.9  # one effective cluster


def test_a_verdict_agrees_with_its_p():
    """An interval's end is between two draws, and may be inside the margin when p is just above 0.05."""
    rng, seen = np.random.default_rng(9), set()
    for _ in range(300):
        left = rng.normal(30, 5, 30)
        result = equivalence_of(left, left + rng.normal(0.15, 1.0, 30), 0.5, 100, 0.95)
        assert result["verdict"] != EQUIVALENT or result["p"] <= 0.05 + 1e-9
        seen.add(result["verdict"])
    assert {EQUIVALENT, UNDECIDED} <= seen
