"""The difference that a reviewer reads: by hand, and against the paired test."""

import json

import numpy as np
import pytest
from conftest import ROOT, run

from onesentence.commands.diff import (
    changed_files,
    changed_params,
    changed_studies,
    compared,
    markdown_table,
    metric_rows,
    said_by,
    shown,
    significance_text,
    unpaired,
    with_width,
)
from onesentence.commands.show import short_names
from onesentence.core.files import write_json
from onesentence.evaluation.metrics import Scores
from onesentence.evaluation.resampling import difference_of


def evaluation(value: float, half: float, signature: str = "rouge1|n:400") -> dict:
    score = {"value": value, "low": value - half, "high": value + half}
    return {
        "confidence": 0.95,
        "resamples": 500,
        "n": 400,
        "metrics": {"quality": {"rouge1": {"signature": signature}}},
        "systems": {"tuned": {"rouge1": score}},
    }


def test_changed_parameters_by_dotted_key():
    before = {"seed": 0, "lora": {"rank": 8, "alpha": None}, "gone": 1}
    after = {"seed": 0, "lora": {"rank": 16, "alpha": None, "names": ["a", "b"]}}
    assert changed_params(before, after) == [
        ["lora.rank", "8", "16"],
        ["gone", "1", "absent"],
        ["lora.names", "absent", "a, b"],
    ]
    assert changed_params(after, after) == []
    assert [shown(v) for v in (None, True, 0.5)] == ["null", "true", "0.5"]


def test_intervals_of_another_confidence_have_the_same_standard_error():
    """Half-widths of 1.96 at 95 % and of 2.5758 at 99 % are one standard error."""
    at_95, at_99 = ({"value": 30, "low": 30 - half, "high": 30 + half} for half in (1.959964, 2.575829))
    wanted = unpaired(at_99, at_99 | {"value": 33}, (0.99, 0.99))
    assert unpaired(at_95, at_99 | {"value": 33}, (0.95, 0.99)) == pytest.approx(wanted, abs=1e-5)


def test_unpaired_by_hand():
    """Half-widths 3 and 4 make 5; a difference of 5 has p = 0.05 at 95 %."""
    before, after = {"value": 30, "low": 27, "high": 33}, {"value": 35, "low": 31, "high": 39}
    result = unpaired(before, after, (0.95, 0.95))
    assert (result["value"], result["low"], result["high"]) == pytest.approx((5, 0, 10))
    assert result["p"] == pytest.approx(0.05)
    assert result["mde"] == pytest.approx(5 / 1.959964 * (1.959964 + 0.841621), rel=1e-4)


def test_a_lopsided_interval_counts_on_the_side_that_matters():
    """From 0 % to 0.8 %: what the first could have been above 0 counts, on the difference's lower side."""
    before, after = {"value": 0.0, "low": 0.0, "high": 0.6}, {"value": 0.8, "low": 0.0, "high": 1.6}
    result = unpaired(before, after, (0.95, 0.95))
    assert (result["low"], result["high"]) == pytest.approx((0.8 - 1.0, 0.8 + 0.8))
    assert result["p"] > 0.05


def test_a_share_of_zero_is_no_certainty():
    nothing = {"value": 0.0, "low": 0.0, "high": 0.0}
    known = {"n": 500, "confidence": 0.95, "resampling": {"effective_clusters": 95.0}}
    wide = with_width("verbatim", nothing, known)
    assert wide["low"] == 0 and wide["high"] == pytest.approx(3.98, abs=0.01)  # t^2 / (95 + t^2)
    assert with_width("verbatim", nothing, {"n": 500, "confidence": 0.95})["high"] < 0.8
    every = with_width("success_rate", dict.fromkeys(nothing, 1.0), known)
    assert every["high"] == 1.0 and every["low"] == pytest.approx(0.960, abs=0.001)
    assert with_width("rouge1", nothing, known) == nothing  # no share
    some = {"value": 0.8, "low": 0.2, "high": 1.6}
    assert with_width("verbatim", some, known) == some
    # Two such sides differ in nothing that the articles could show.
    result = unpaired(wide, wide, (0.95, 0.95))
    assert result["value"] == 0 and result["p"] == 1 and result["low"] < 0 < result["high"]


@pytest.fixture
def sides():
    """Two systems on the same articles, 1 point apart."""
    rng = np.random.default_rng(0)
    left = rng.uniform(0, 80, 400)
    right = left + rng.normal(1.0, 3, 400)
    ids = [str(k) for k in range(400)]
    return [Scores(ids, {"rouge1": values}, {}, {"rouge1": "rouge1|n:400"}) for values in (left, right)]


def test_scores_of_the_same_articles_are_paired_and_tell_more(sides):
    left, right = (side.columns["rouge1"] for side in sides)
    before, after = evaluation(left.mean(), 2.2), evaluation(right.mean(), 2.2)
    result = compared(before, after, tuple(sides))["rouge1"]
    wanted = difference_of(right, left, 500, 0.95)
    assert result["paired"] and result["value"] == wanted["value"]
    assert significance_text(result, 0.95) == "significant"
    alone = compared(before, after, (None, sides[1]))["rouge1"]
    assert not alone["paired"]
    assert significance_text(alone, 0.95) == "not significant" and alone["mde"] == pytest.approx(
        4.45, abs=0.005
    )
    same = compared(before, before, (sides[0], sides[0]))["rouge1"]
    assert significance_text(same, 0.95) == "identical"


def test_scores_that_are_another_branchs_are_not_paired(sides):
    """The JSON is of this branch; the scores on disk were left there by the last one."""
    left, right = (side.columns["rouge1"] for side in sides)
    before, after = evaluation(left.mean(), 2.2), evaluation(right.mean() + 5, 2.2)
    result = compared(before, after, tuple(sides))["rouge1"]
    assert not result["paired"] and result["value"] == pytest.approx(right.mean() + 5 - left.mean())


def test_scores_of_other_articles_or_settings_get_no_verdict(sides):
    before, after = evaluation(30, 2.2), evaluation(60, 2.2, "rouge1|n:400|test:other")
    result = compared(before, after, (None, None))
    assert result["rouge1"]["value"] is None and result["rouge1"]["p_holm"] is None
    assert metric_rows(result, 0.95) == [
        [
            "ROUGE-1",
            "30.00",
            "60.00",
            "",
            "",
            "not comparable: other articles or settings",
        ]
    ]


def test_a_share_is_shown_in_percent():
    entry = {"before": 0.996, "after": 1.0, "value": 0.004, "low": 0.0, "high": 0.01, "p_holm": 0.3}
    rows = metric_rows({"success_rate": {**entry, "mde": 0.006}}, 0.95)
    assert rows == [
        ["success rate (%)", "99.60", "100.00", "+0.40 [+0.00, +1.00]", "0.60", "not significant"]
    ]


def test_cells_of_the_comment_are_no_markup():
    text = markdown_table(
        "T", ["a", "b"], [["x|y\n\n# @org/team", "![i](https://e.example/p.png)`<img src=x>`"]]
    )
    assert text.splitlines()[2:] == [
        "| `a` | `b` |",
        "|---|---|",
        "| `x\u00a6y # @org/team` | `![i](https://e.example/p.png)'<img src=x>'` |",
    ]
    assert len(markdown_table("T", ["a"], [["x" * 5_000]])) < 600


def test_a_study_that_is_absent_or_of_other_code_gets_one_phrase():
    assert said_by(None) == ["absent"]
    lists = '{"left_out": [], "confidence": 0.95, "baseline": "a", "variants": []}'
    for text in ("{", "[]", '{"confidence": 0.95}', lists, "[" * 100_000, "\ufffd"):
        assert said_by(text) == ["written by other code"]


def test_studies_and_plots_that_git_does_not_know_yet_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = json.loads((ROOT / "metrics/studies/rank.json").read_text())
    write_json(tmp_path / "metrics/studies/rank.json", made)
    for name in ("loss.svg", "loss.csv", "studies/rank.svg"):
        (tmp_path / "plots" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "plots" / name).write_text(name)
    run(tmp_path, "git", "init", "--quiet", "--initial-branch=main")
    run(tmp_path, "git", "add", "--all")
    run(tmp_path, "git", "commit", "--quiet", "--message=start")
    assert changed_studies("HEAD:") == []
    assert changed_files("HEAD:", "plots/*.svg", "plots/*.csv") == []
    (tmp_path / "plots/studies/rank.svg").write_text("<svg/>")
    (tmp_path / "plots/loss.svg").unlink()
    (tmp_path / "plots/new.csv").write_text("a\n")
    changed = ["plots/loss.svg", "plots/new.csv", "plots/studies/rank.svg"]
    assert changed_files("HEAD:", "plots/*.svg", "plots/*.csv") == changed
    # The sentences that changed: here the trend alone.
    made["analysis"]["for_each_doubling"]["one rate"]["p_holm"] = 0.5
    write_json(tmp_path / "metrics/studies/rank.json", made)
    write_json(
        tmp_path / "metrics/studies/search.json",
        json.loads((ROOT / "metrics/studies/search.json").read_text()),
    )
    (rank, search) = changed_studies("HEAD:")
    assert rank[0] == "rank" and rank[1].endswith("a significant gain.") and "no significant trend" in rank[2]
    assert rank[1].startswith("one rate: ") and rank[2].startswith("one rate: ")
    assert search[:2] == ["search", "absent"] and "best is search-09" in search[2]
    (tmp_path / "metrics/studies/rank.json").write_bytes(b"\xff")
    assert changed_studies("HEAD:")[0][2] == "written by other code"


def test_names_are_short_where_they_are_clear():
    assert short_names(["seed", "data.seed", "lora.rank"]) == {
        "seed": "seed",
        "data.seed": "data.seed",
        "lora.rank": "rank",
    }
