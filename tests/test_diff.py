"""The difference that a reviewer reads: by hand, and against the paired test."""

import numpy as np
import pytest

from stages.commands.diff import changed_params, compared, markdown, shown, unpaired, verdict_of
from stages.common.metrics import Scores
from stages.common.statistics import difference_of


def evaluation(value: float, half: float) -> dict:
    score = {"value": value, "low": value - half, "high": value + half}
    return {"confidence": 0.95, "resamples": 500, "systems": {"tuned": {"rouge1": score}}}


def test_changed_parameters_by_dotted_key():
    before = {"seed": 0, "lora": {"rank": 8, "alpha": None}, "gone": 1}
    after = {"seed": 0, "lora": {"rank": 16, "alpha": None, "names": ["a", "b"]}}
    assert changed_params(before, after) == [
        ["lora.rank", "8", "16"],
        ["gone", "1", "not there"],
        ["lora.names", "not there", "a, b"],
    ]
    assert changed_params(after, after) == []
    assert [shown(v) for v in (None, True, 0.5)] == ["null", "true", "0.5"]


def test_unpaired_by_hand():
    """Half-widths 3 and 4 make 5; a difference of 5 has p = 0.05 at 95 %."""
    found = unpaired({"value": 30, "low": 27, "high": 33}, {"value": 35, "low": 31, "high": 39}, 0.95)
    assert (found["value"], found["low"], found["high"]) == pytest.approx((5, 0, 10))
    assert found["p"] == pytest.approx(0.05)
    assert found["detectable"] == pytest.approx(5 / 1.959964 * (1.959964 + 0.841621), rel=1e-4)


def test_scores_of_the_same_articles_are_paired_and_tell_more():
    rng = np.random.default_rng(0)
    left = rng.uniform(0, 80, 400)
    right = left + rng.normal(1.0, 3, 400)
    ids = [str(k) for k in range(400)]
    sides = [Scores(ids, {"rouge1": values}, {}, {"rouge1": "rouge1|n:400"}) for values in (left, right)]
    before, after = evaluation(left.mean(), 2.2), evaluation(right.mean(), 2.2)
    found, paired = compared(before, after, tuple(sides))
    wanted = difference_of(right, left, 500, 0.95)
    assert paired and found["rouge1"]["value"] == wanted["value"]
    assert verdict_of(found["rouge1"], 0.95) == "real"
    alone, paired = compared(before, after, (None, sides[1]))
    assert not paired and verdict_of(alone["rouge1"], 0.95).startswith("not distinguishable (under 4.45")
    sides[0].signatures["rouge1"] = "rouge1|other"
    assert compared(before, after, tuple(sides))[1] is False
    same, _ = compared(before, before, (sides[1], sides[1]))
    assert verdict_of(same["rouge1"], 0.95) == "the same"


def test_cells_of_the_comment_are_no_markup():
    text = markdown("T", ["a", "b"], [["x|y", "<img src=x>`"]])
    assert text.splitlines()[2:] == ["| a | b |", "|---|---|", "| x\\|y | &lt;img src=x>\\` |"]
