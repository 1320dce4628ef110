"""ROUGE by hand, and the bootstrap against exact enumeration of every resample."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from stages.common import scores
from stages.common.scores import difference_of, interval, resampled_means, rouge_scores, summary_of

OUTPUTS = Path(__file__).parents[2] / "shared" / "data" / "xsum-outputs"


def one_score(reference: str, prediction: str) -> tuple[float, float, float]:
    found = rouge_scores([reference], [prediction], [True])
    return tuple(found[metric][0] for metric in ("rouge1", "rouge2", "rougeL"))


def test_rouge_by_hand():
    # 4 of 6 words on both sides; 1 of 5 bigrams ("the cat"); longest common subsequence "the cat on mat".
    assert one_score("the cat sat on the mat", "the cat lay on a mat") == pytest.approx(
        (400 / 6, 20, 400 / 6)
    )
    # Words: precision 2/2, recall 2/4. Longest common subsequence: "two", 1/2 and 1/4.
    assert one_score("one two three four", "two one") == pytest.approx((200 / 3, 0, 100 / 3))
    assert one_score("a b c d", "e f g h") == (0, 0, 0)
    assert one_score("A b, c.", "a B c") == pytest.approx((100, 100, 100))


def test_rouge_stems_words():
    assert one_score("dogs running", "dog runs") == pytest.approx((100, 100, 100))


def test_a_failure_scores_0_whatever_it_says_and_stays_in_the_array():
    found = rouge_scores(["a b c"] * 3, ["a b c"] * 3, [True, False, True])
    assert all(found[metric].tolist() == [100, 0, 100] for metric in scores.ROUGE)
    assert one_score("a b c", "") == (0, 0, 0)


def test_rouge_refuses_lists_of_unequal_length():
    with pytest.raises(ValueError, match="zip"):
        rouge_scores(["a", "b"], ["a"], [True])


def all_means(values: np.ndarray) -> np.ndarray:
    """The mean of every one of the n^n equally likely resamples."""
    return np.array([np.mean(pick) for pick in product(values, repeat=len(values))])


FOUR = np.array([0.0, 1.0, 3.0, 10.0])
FIVE = np.array([-3.0, -1.0, 0.5, 2.0, 4.0])
RESAMPLES = 20_000


@pytest.mark.parametrize("values", [FOUR, FIVE])
def test_resampled_means_have_the_distribution_of_all_resamples(values):
    exact = all_means(values)
    drawn = resampled_means(values[:, None], RESAMPLES)[:, 0]
    assert drawn.shape == (RESAMPLES,)
    assert abs(drawn.mean() - exact.mean()) < 4 * exact.std() / RESAMPLES**0.5
    assert set(drawn.round(9)) <= set(exact.round(9))
    for place in np.unique(exact.round(9)):
        share = (exact <= place + 1e-9).mean()
        error = 4 * (share * (1 - share) / RESAMPLES) ** 0.5
        assert abs((drawn <= place + 1e-9).mean() - share) <= error + 1e-12


@pytest.mark.parametrize("values", [FOUR, FIVE])
@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95])
def test_an_interval_holds_the_share_of_all_resamples_that_it_says(values, confidence):
    exact = all_means(values)
    drawn = resampled_means(values[:, None], RESAMPLES)[:, 0]
    for end, share in zip(
        interval(drawn, confidence), ((1 - confidence) / 2, (1 + confidence) / 2), strict=True
    ):
        # A q-quantile has at most a share of q below it and at least a share of q up to it.
        error = 4 * (share * (1 - share) / RESAMPLES) ** 0.5
        assert (exact < end - 1e-9).mean() <= share + error
        assert (exact <= end + 1e-9).mean() >= share - error


def test_interval_by_hand():
    assert interval(np.arange(101.0), 0.9) == pytest.approx((5, 95))
    assert interval(np.full(100, 2.5), 0.95) == (2.5, 2.5)


def test_summary_agrees_with_scipys_percentile_bootstrap():
    values = np.random.default_rng(3).gamma(2, 10, size=60)
    found = summary_of(values, 10_000, 0.95)
    other = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, confidence_level=0.95, method="percentile", rng=1
    ).confidence_interval
    assert found["mean"] == pytest.approx(values.mean())
    spread = values.std() / len(values) ** 0.5
    assert abs(found["low"] - other.low) < 0.1 * spread and abs(found["high"] - other.high) < 0.1 * spread


def test_a_difference_agrees_with_all_resamples():
    left, right = FIVE + 2.0, np.array([0.5, 0.0, 1.0, 0.25, 3.0])
    exact = all_means(left - right)
    found = difference_of(left, right, RESAMPLES, 0.95)
    assert found["mean"] == pytest.approx((left - right).mean())
    p = 2 * min((exact <= 1e-9).mean(), (exact >= -1e-9).mean())
    assert 0.02 < p < 0.9  # a case in which p says something
    assert abs(found["p"] - p) < 4 * 2 * (p / 2 / RESAMPLES) ** 0.5 + 2 / RESAMPLES
    for end, share in ((found["low"], 0.025), (found["high"], 0.975)):
        error = 4 * (share * (1 - share) / RESAMPLES) ** 0.5
        assert (exact < end - 1e-9).mean() <= share + error
        assert (exact <= end + 1e-9).mean() >= share - error


def test_differences_are_paired():
    # Articles differ much more than the systems: unpaired, the interval would be some 20 wide.
    left = np.linspace(0, 100, 40)
    found = difference_of(left, left - 1.0, 1_000, 0.95)
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((1, 1, 1))
    assert found["p"] == 2 * (0 + 1) / 1_001


def test_swapping_the_systems_swaps_the_signs():
    rng = np.random.default_rng(5)
    left, right = rng.normal(size=30), rng.normal(size=30)
    one, other = difference_of(left, right, 500, 0.9), difference_of(right, left, 500, 0.9)
    assert (one["mean"], one["low"], one["high"]) == pytest.approx(
        (-other["mean"], -other["high"], -other["low"])
    )
    assert one["p"] == other["p"]


@pytest.mark.parametrize("shift", [-5.0, -0.1, 0.0, 0.1, 5.0])
def test_p_lies_above_0_and_up_to_1(shift):
    left = np.random.default_rng(1).normal(size=20)
    assert 0 < difference_of(left + shift, left, 200, 0.95)["p"] <= 1
    assert 0 < difference_of(left + shift, left[::-1], 200, 0.95)["p"] <= 1
    assert difference_of(left, left, 200, 0.95)["p"] == 1


def test_the_same_call_gives_the_same_resamples_for_every_column_and_system():
    values = np.random.default_rng(2).normal(size=(25, 3))
    together = resampled_means(values, 250)
    assert together.shape == (250, 3)
    assert np.array_equal(together, resampled_means(values, 250))
    for column in range(3):
        assert np.allclose(together[:, column], resampled_means(values[:, [column]], 250)[:, 0], atol=1e-12)


@pytest.mark.parametrize("at_once", [1, 7, 250, 10_000])
def test_how_many_resamples_are_drawn_at_once_changes_nothing(at_once, monkeypatch):
    values = np.random.default_rng(2).normal(size=(33, 2))
    before = resampled_means(values, 250)
    monkeypatch.setattr(scores, "RESAMPLES_AT_ONCE", at_once)
    assert np.allclose(resampled_means(values, 250), before, atol=1e-12)


@pytest.mark.parametrize(
    ("file", "expected"), [("lead.txt", (16.01, 1.58, 11.79)), ("convs2s.txt", (30.94, 11.02, 25.05))]
)
def test_rouge_of_published_xsum_outputs(file, expected):
    """Measured with rouge_score on these outputs before this project was there; all 11,334 lines."""
    if not (OUTPUTS / file).is_file():
        pytest.skip("no XSum outputs beside the repository (shared/data/xsum-outputs)")
    references = (OUTPUTS / "ref.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    predictions = (OUTPUTS / file).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert len(references) == len(predictions) == 11_334
    found = rouge_scores(references, predictions, [True] * 11_334)
    assert [found[metric].mean() for metric in scores.ROUGE] == pytest.approx(expected, abs=0.01)
