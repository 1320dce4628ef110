"""Parts of sentences: a difference with its direction, an effect that was too small to detect."""

import pytest

from onesentence.study.phrases import between, distance, mde_phrase, trend_sentence


@pytest.mark.parametrize(
    ("value", "low", "high", "phrase"),
    [
        (0.45, -0.25, 1.12, "0.45 higher [-0.25, +1.12]"),
        (-0.45, -1.12, 0.25, "0.45 lower [-0.25, +1.12]"),
        (0.0, -1.0, 1.0, "0.00 higher [-1.00, +1.00]"),
    ],
)
def test_an_interval_counts_in_the_direction_of_the_word(value, low, high, phrase):
    assert distance({"value": value, "low": low, "high": high}, "higher", "lower") == phrase


def test_a_value_comes_before_its_interval():
    entry = {"value": 2.5, "low": 0.1, "high": 4.6}
    assert between(entry) == "+2.50 [+0.10, +4.60]" and between(entry, ".1f") == "2.5 [0.1, 4.6]"


def test_where_nothing_varies_there_is_no_mde():
    assert mde_phrase({"mde": 0.434}) == "MDE 0.43" and mde_phrase({"mde": None}) == "no MDE: nothing varies"


def test_a_trend_is_a_gain_a_loss_or_not_significant():
    entry = {"value": -0.5, "low": -0.9, "high": -0.1, "p": 0.01, "p_holm": 0.02, "mde": 0.6}
    assert trend_sentence("", entry, "each doubling", 0.95) == (
        "-0.50 [-0.90, -0.10] points of ROUGE-1 for each doubling (p = 0.0200): a significant loss."
    )
    flat = trend_sentence("one rate", entry | {"p_holm": 0.4}, "each doubling", 0.95)
    assert flat.startswith("one rate: -0.50") and flat.endswith("no significant trend (MDE 0.60).")
