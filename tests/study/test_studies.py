"""Studies: declared, run, killed, compared, told in words."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT, make_project, run

from onesentence.commands.diff import commit_of
from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.files import write_json
from onesentence.evaluation.metrics import Scores
from onesentence.evaluation.resampling import Sample
from onesentence.study import comparison
from onesentence.study.analyses import ANALYSES
from onesentence.study.analyses.copying import COPYING
from onesentence.study.comparison import borrowed_spread, require_same_test_set, select_complete
from onesentence.study.decisions import (
    CONFIRMATIONS,
    DECISIONS,
    DECISIONS_FILE,
    compared_values,
    confirmed,
    current_decisions,
    decisions_text,
)
from onesentence.study.declaration import STUDIES_FILE, Studies, from_axes, from_search, option
from onesentence.study.experiments import (
    COMPARED,
    experiment_refs,
    has_values,
    make_the_only,
    require_distinct,
    reuse_equal_experiments,
    with_values,
)
from onesentence.study.jobs import READ_IN_ORDER, next_of
from onesentence.study.measured import Measured
from onesentence.study.sentences import settings_sentence, summarize_study
from onesentence.study.variance import SeedVariance, resampled
from onesentence.study.variants import experiment

STUDY_FILE = yaml.safe_load((ROOT / STUDIES_FILE).read_text())
MODELS = [scale["model"] for scale in STUDY_FILE["scales"].values()]


def declared(tmp_path, **studies) -> Studies:
    text = {
        "scales": {"tiny": {"model": "m", "settings": {"train.epochs": 1}, "quick": {"data.train_size": 5}}}
    }
    (tmp_path / "studies.yaml").write_text(yaml.safe_dump({**text, "studies": studies}, sort_keys=False))
    return Studies("m", tmp_path / "studies.yaml")


RANKS = {
    "question": "?",
    "baseline": "rank-8",
    "seeds": [0, 7],
    "axes": {"lora.rank": [8, 16]},
    "analysis": "trend",
    "along": "lora.rank",
}


@pytest.mark.parametrize("model", MODELS)
def test_every_shipped_study_is_sound_on_both_scales(model, monkeypatch):
    monkeypatch.chdir(ROOT)
    studies = Studies(model)
    studies.check_names()
    assert len(studies.names()) >= 11
    for name in studies.names():
        for quick in (False, True):
            study = studies.study(name, quick)
            assert study.question.endswith("?") and len(study.variants) >= 2
            for values in study.experiments().values():
                whole = params.read_yaml(params.PARAMS_FILE)
                if model != whole["model"]["name"]:
                    preset = params.read_yaml(Path("presets/phi2-xsum-t4.yaml"))
                    for section, found in preset.items():
                        whole[section] |= found
                whole = with_values(whole, values)
                assert params.problems(whole) == [], (name, values)
                steps, rows = whole["train"]["steps"], whole["data"]["train_size"]
                batch = whole["train"]["batch_size"] * whole["train"]["gradient_accumulation"]
                assert steps is None or steps * batch >= rows, f"{name}: some pairs are never seen"


def test_names_and_values_of_axes():
    found = from_axes({"lora.rank": [8], "train.learning_rate": [0.002, 1e-05]})
    assert found == {
        "rank-8-learning-rate-0.002": {"lora.rank": 8, "train.learning_rate": 0.002},
        "rank-8-learning-rate-1e-05": {"lora.rank": 8, "train.learning_rate": 1e-05},
    }
    assert list(from_axes({"data.train_size": [None], "prompt.template": ["in_short"]})) == [
        "train-size-all-template-in-short"
    ]


def test_a_search_is_its_seed_and_stays_in_its_bounds():
    search = {"budget": 200, "seed": 3, "keys": {"a": {"low": 0.001, "high": 0.1}, "b": [1, 2]}}
    found = from_search(search)
    assert found == from_search(search) and found != from_search({**search, "seed": 4})
    rates = np.array([drawn["a"] for drawn in found.values()])
    assert len(found) == 200 and rates.min() >= 0.001 and rates.max() <= 0.1
    assert 0.35 < (rates < 0.01).mean() < 0.65  # half of the draws in each of the two decades
    assert {drawn["b"] for drawn in found.values()} == {1, 2}


def test_a_study_sets_the_scale_then_the_study_then_the_variant(tmp_path):
    study = declared(tmp_path, rank={**RANKS, "settings": {"tiny": {"data.test_size": 9}}}).study("rank")
    assert study.experiments()["rank-16-seed7"] == {
        "train.epochs": 1,
        "data.test_size": 9,
        "lora.rank": 16,
        "seed": 7,
    }
    assert [member.name for member in study.series[""]] == ["rank-8", "rank-16"]


def test_quick_has_one_seed_and_its_own_names(tmp_path):
    study = declared(tmp_path, rank=RANKS).study("rank", quick=True)
    assert study.name == "quick-rank" and list(study.experiments()) == [
        "quick-rank-8-seed0",
        "quick-rank-16-seed0",
    ]
    assert study.experiments()["quick-rank-8-seed0"]["data.train_size"] == 5
    sizes = {"settings": {"data.train_size": 100}, "axes": {"data.train_size": [100, 400]}}
    sizes |= {"baseline": "train-size-100", "along": "data.train_size"}
    study = declared(tmp_path, sizes={**RANKS, **sizes}).study("sizes", quick=True)
    assert [v["data.train_size"] for v in study.experiments().values()] == [
        5,
        20,
    ]  # a twentieth, as the scale says
    every = {**sizes, "settings": {"data.train_size": None}}  # all rows: the largest size takes their place
    study = declared(tmp_path, sizes={**RANKS, **every}).study("sizes", quick=True)
    assert [v["data.train_size"] for v in study.experiments().values()] == [1, 5]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"axis": {}}, "studies.rank.axis: unknown key"),
        ({"baseline": "rank-4"}, "studies.rank.baseline: 'rank-4' is none of its variants"),
        ({"axes": {"lora.rnak": [8]}}, "lora.rnak: unknown key, did you mean 'rank'?"),
        ({"axes": {"rank": [8]}}, "rank: unknown key of params.yaml"),
        (
            {"axes": {"train.warmup_share": [0.1]}},
            "train.warmup_share: this key is now called train.warmup_ratio; rename it and keep its value",
        ),
        (
            {"reference": "rank-8"},
            "studies.rank.reference: this key is now called baseline; rename it and keep its value",
        ),
        ({"axes": {"lora.rank": [0.5]}}, "lora.rank: expected a whole number"),
        ({"variants": {"a b": {}}}, "variant 'a b': expected a name"),
        ({"analysis": "guess"}, "studies.rank.analysis: expected one of"),
        ({"series": {"x": ["rank-9"]}}, "studies.rank.series: 'rank-9' is no variant"),
        ({"series": {k: ["rank-8"] for k in "abcde"}}, "studies.rank.series: at most 4, found 5"),
        ({"seeds": [0, 0]}, "studies.rank.seeds: expected a list of whole numbers, none twice"),
        ({"seeds": 3}, "studies.rank.seeds: expected a list"),
        ({"along": None}, "rank.along: missing; trend follows a key"),
        ({"settings": {"tiny": {}, "tniy": {}}}, "'tniy' stands beside tiny and is no scale"),
        ({"settings": {"tniy": {}}}, "tniy: unknown key of params.yaml"),
        (
            {"spread_from": "rnak"},
            "studies.rank.spread_from: expected a study of several seeds, found 'rnak'",
        ),
        ({"axes": {}, "variants": {"tiny": {}}}, "studies.rank: has no variants for tiny"),
        ({"question": None}, "studies.rank.question: expected a text that is not empty, found None"),
        ({"hours": 1.5}, "studies.rank.hours: expected a dictionary, found 1.5"),
        ({"hours": {"tiny": "3"}}, "studies.rank.hours.tiny: expected a number above 0, found '3'"),
        ({"axes": {"lora.rank": 8}}, "studies.rank.axes.lora.rank: expected a list of values, found 8"),
        (
            {"variants": {"as-set": None}},
            "studies.rank.variants.as-set: expected keys with values, found None",
        ),
        ({"baseline": {"other": "rank-8"}}, "studies.rank.baseline: has none for tiny; name one of rank-8"),
        ({"search": {"seed": 0, "keys": {}}}, "studies.rank.search.budget: missing"),
        (
            {"search": {"budget": 1, "seed": 0, "keys": {"lora.alpha": {"low": 0, "high": 8}}}},
            "studies.rank.search.keys.lora.alpha.low: expected a number above 0, found 0",
        ),
        (
            {"search": {"budget": 1, "seed": 0, "keys": {"lora.alpha": {"low": 1, "hihg": 8}}}},
            "studies.rank.search.keys.lora.alpha.hihg: unknown key",
        ),
        ({"series": {"x": "rank-8"}}, "studies.rank.series.x: expected a list of values, found 'rank-8'"),
        ({"along": "train.epochs", "analysis": "none", "settings": {"train.epochs": None}}, "to a number"),
        (
            {"analysis": "none", "along": None, "series": {"x": ["rank-8"]}},
            "rank.along: missing; series stand",
        ),
        (
            {"analysis": "full"},
            "rank.baseline: the analysis `full` is of a baseline that sets train.method",
        ),
        (
            {
                "axes": {"lora.rank": [8, 16], "data.train_size": [1, 2]},
                "baseline": "rank-8-train-size-1",
                "analysis": "exchange",
                "along": "data.train_size",
                "series": {"a": ["rank-8-train-size-1"], "b": ["rank-16-train-size-2"]},
            },
            "rank.series: exchange compares series of the same data.train_size",
        ),
    ],
)
def test_a_wrong_declaration_is_named(tmp_path, change, problem):
    with pytest.raises(UserError, match=problem.replace(".", r"\.")):
        declared(tmp_path, rank={**RANKS, **change}).study("rank")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"setings": {}}, "scales.tiny.setings: unknown key"),
        ({"quick": 3}, "scales.tiny.quick: expected keys with values, found 3"),
        ({"model": None}, "scales.tiny.model: expected a text that is not empty, found None"),
    ],
)
def test_a_wrong_scale_is_named(tmp_path, change, problem):
    declared(tmp_path, rank=RANKS)
    text = yaml.safe_load((tmp_path / "studies.yaml").read_text())
    text["scales"]["tiny"] |= change
    (tmp_path / "studies.yaml").write_text(yaml.safe_dump(text))
    with pytest.raises(UserError, match=problem.replace(".", r"\.")):
        Studies("m", tmp_path / "studies.yaml")
    (tmp_path / "studies.yaml").write_text("scales: {}\n")
    with pytest.raises(UserError, match=r"studies\.yaml: studies: missing"):
        Studies("m", tmp_path / "studies.yaml")


def test_a_study_or_scale_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no study 'x'; there are rank"):
        declared(tmp_path, rank=RANKS).study("x")
    with pytest.raises(UserError, match=r"no scale for model.name 'other'; there are tiny \(m\)"):
        Studies("other", tmp_path / "studies.yaml")


def test_a_study_that_is_not_declared_for_a_scale_is_not_in_the_way_of_the_others(tmp_path):
    """Neither the list nor the check of names stumbles over it; whoever asks for it is told."""
    scales = {name: {"model": name, "settings": {}, "quick": {}} for name in ("tiny", "mine")}
    rank, sizes = ({**RANKS, "axes": axes} for axes in ({"lora.rank": [8, 16]}, {"tiny": {"lora.rank": [8]}}))
    text = yaml.safe_dump({"scales": scales, "studies": {"rank": rank, "sizes": sizes}}, sort_keys=False)
    (tmp_path / "studies.yaml").write_text(text)
    studies = Studies("mine", tmp_path / "studies.yaml")
    assert studies.names() == ["rank"]
    studies.check_names()
    with pytest.raises(UserError, match=r"studies\.sizes: has no variants for mine; declare them there"):
        studies.study("sizes")


def test_a_variant_that_a_default_makes_the_same_as_another_is_refused(tmp_path):
    """A change of a default must not turn `lora` into rsLoRA under its old name."""
    change = {"axes": {}, "variants": {"as-set": {}, "rank-4": {"lora.rank": 4}}, "baseline": "as-set"}
    study = declared(tmp_path, one={**RANKS, **change, "analysis": "none", "along": None}).study("one")
    whole = {"lora": {"rank": 8}, "train": {"epochs": 1}}
    require_distinct(study, whole)
    with pytest.raises(
        UserError, match=r"studies\.one: as-set and rank-4 are the same with the params\.yaml"
    ):
        require_distinct(study, {**whole, "lora": {"rank": 4}})


def test_what_is_there_is_compared_where_that_is_asked_for(tmp_path):
    more = {
        "axes": {"lora.rank": [2, 4, 8]},
        "series": {"low": ["rank-2", "rank-4"], "all": ["rank-2", "rank-8"]},
    }
    study = declared(tmp_path, rank={**RANKS, **more}).study("rank")
    there = set(study.experiments()) - {"rank-4-seed7"}
    assert select_complete(study, set(study.experiments()), False) == (study, [])
    with pytest.raises(UserError, match=r"1 of 6 runs of rank are missing, such as rank-4-seed7"):
        select_complete(study, there, partial=False)
    kept, left_out = select_complete(study, there, partial=True)
    assert left_out == ["rank-4", "the curve low"] and [variant.name for variant in kept.variants] == [
        "rank-2",
        "rank-8",
    ]
    assert {label: len(members) for label, members in kept.series.items()} == {"low": 0, "all": 2}
    assert len(kept.experiments()) == 4
    for lost in ("rank-8-seed0", "rank-2-seed0"):  # the baseline; all but the baseline
        with pytest.raises(UserError, match="2 of 6 runs of rank are missing"):
            select_complete(study, there - {lost}, partial=True)


def test_one_name_for_two_settings_is_refused(tmp_path):
    other = {**RANKS, "settings": {"tiny": {"train.epochs": 2}}}
    with pytest.raises(
        UserError, match=r"rank-8-seed0 stands in rank and again with different train\.epochs"
    ):
        declared(tmp_path, rank=RANKS, again=other).check_names()
    declared(tmp_path, rank=RANKS, again=RANKS).check_names()


@pytest.mark.parametrize(
    "value",
    [
        *(8, 0.002, 1e-05, None, True, "none", ["q_proj", "k_proj"], "microsoft/phi-2"),
        "Article: {article}\n\nIt's \"one\", [two], a=b, $x \\n \\' c:\\\nSummary: \\",
    ],
)
def test_options_are_read_by_dvc_as_they_were(tmp_path, value):
    from dvc.utils.hydra import apply_overrides

    (tmp_path / "params.yaml").write_text("a:\n  b: 0\n")
    apply_overrides(tmp_path / "params.yaml", [option("a.b", value)])
    assert params.read_yaml(tmp_path / "params.yaml") == {"a": {"b": value}}


# Words.


@pytest.mark.parametrize(("key", "value"), [("split", "test"), ("n", 5), ("test", "another")])
def test_runs_of_other_articles_are_refused_by_what_differs(key, value):
    def run_of(**changed) -> dict:
        scores = Scores(["a", "b"], {"rouge1": np.array([40.0, 20.0])}, {}, {"rouge1": "F1"})
        evaluation = {"split": "validation", "n": 2, "test": "one", "resampling": {}} | changed
        return {"evaluation": evaluation, "tuned": scores}

    require_same_test_set({"as-set": run_of(), "alike": run_of()})
    with pytest.raises(UserError, match=f"^compare: {key} is {value} in other and .* in as-set; they scored"):
        require_same_test_set({"as-set": run_of(), "other": run_of(**{key: value})})
    older = run_of()
    del older["evaluation"]["resampling"]
    with pytest.raises(UserError, match=r"^compare: older was evaluated before clusters"):
        require_same_test_set({"as-set": run_of(), "older": older})


def found(value: float, p: float, **more) -> dict:
    score = {"value": 30.0, "low": 29.0, "high": 31.0, "seed_sd": 0.2, "sampling_se": 0.4}
    entry = {"value": value, "low": value - 1, "high": value + 1, "p": p, "p_holm": p, "mde": 1.4}
    entry["se"] = 0.5
    return {
        "study": "s",
        "question": "?",
        "baseline": "a",
        "confidence": 0.95,
        "n": 2_000,
        "seeds": [0, 1, 2],
        "spread_from": None,
        "left_out": [],
        "resampling": {"unit": "row", "clusters": 2_000},
        "defaults": {},
        "variants": {
            "a": {"sets": {}, "scores": {"rouge1": score}, "difference": {}},
            "b": {"sets": {}, "scores": {"rouge1": score}, "difference": {"rouge1": entry}},
        },
        "analysis": more,
    }


def test_no_difference_says_what_could_have_been_missed():
    said = summarize_study(found(0.3, 0.6))
    assert said[0] == (
        "No variant was shown to differ from a in ROUGE-1; a true difference of 1.40 points would have been "
        "called real in 80% of cases, a smaller one could have been missed."
    )
    assert said[-1] == (
        "Scores of one variant's 3 seeds have a standard deviation of 0.20 points (median over variants, "
        "at most 0.20); the draw of 2,000 articles alone moves a score by 0.40 points (standard error)."
    )


def test_a_real_difference_is_called_one():
    assert summarize_study(found(2.0, 0.01))[0] == (
        "Real differences in ROUGE-1 from a: b +2.00 [+1.00, +3.00]."
    )


def test_many_that_do_not_differ_are_counted_and_few_are_named():
    few = found(2.0, 0.01)
    few["variants"] |= {name: found(0.3, 0.6)["variants"]["b"] for name in "cd"}
    assert "Not distinguishable from a: c, d; a true" in summarize_study(few)[0]
    few["variants"] |= {f"v{i}": few["variants"]["c"] for i in range(9)}
    assert "Not distinguishable from a: the other 11; a true" in summarize_study(few)[0]


def test_outputs_that_are_the_same_are_no_test_of_anything():
    same = found(0.0, 1.0)
    same["variants"]["b"]["difference"]["rouge1"] |= {"low": 0.0, "high": 0.0, "se": 0.0, "mde": 0.0}
    assert summarize_study(same)[0] == "Scores of every article are those of a: b."


def test_one_seed_is_said_to_be_one():
    one = {**found(2.0, 0.01), "seeds": [0]}
    assert summarize_study(one)[-1].startswith(
        "One seed each, and no allowance for another: what is said holds for these"
    )
    one |= {"spread_from": "rank", "spread_sd": 0.31}
    assert (
        "as far apart as in the study rank (a standard deviation of 0.31 points)" in summarize_study(one)[-1]
    )


def test_a_trend_in_words():
    entry = {"value": 0.5, "low": 0.1, "high": 0.9, "p": 0.01, "p_holm": 0.02, "mde": 0.6}
    said = summarize_study(found(2.0, 0.01, for_each_doubling={"": entry}))[1]
    assert (
        said
        == "+0.50 [+0.10, +0.90] points of ROUGE-1 for each doubling (p = 0.0200): quality grows with it."
    )
    flat = {**entry, "p_holm": 0.4}
    said = summarize_study(found(2.0, 0.01, for_each_doubling={"shared": flat}))[1]
    assert said.startswith("shared: ")
    assert said.endswith("no trend was shown, where one of 0.60 would have been in 80% of cases.")


def test_an_exchange_in_words():
    entry = {"smaller": "s-4", "larger": "l-1", "value": 1.5, "low": 1.0, "high": 2.0, "p_holm": 0.01}
    entry |= {"p": 0.01, "mde": 0.6}
    said = summarize_study(
        found(2.0, 0.01, exchanges=[entry, {**entry, "value": -1.5}, {**entry, "p_holm": 0.3}])
    )
    assert said[1] == (
        "Of 3 pairs of a model with more data and the next larger one with less, the smaller is better in 1, "
        "the larger in 1, and neither was shown to be in 1."
    )
    assert said[2] == "s-4 against l-1: +1.50 [+1.00, +2.00]: the smaller model with more data is better."
    assert said[3].endswith("the larger model is better.")
    assert said[4].endswith("not distinguishable, where one of 0.60 would have been in 80% of cases.")


def test_a_law_in_words():
    ends = {"low": 28.0, "high": 35.0}
    law = {
        "asymptote": {"value": 30.0, **ends},
        "factor": {"value": 120.0, **ends},
        "exponent": {"value": 0.4, **ends},
        "predicted": {"value": 29.0, **ends},
        "saturates": True,
        "miss": {"value": 0.3, "low": -1, "high": 1, "p_holm": 0.5, "mde": 0.9},
        "within_one_point": {"value": 2_000, "low": 1_000, "high": 4_000},
        "growth": {"value": 6.0, "low": 5.0, "high": 7.0, "p_holm": 0.001, "mde": 1.1},
        "curve": [[250.0, 23.0, 22.0, 24.0], [8_000.0, 29.0, 28.0, 35.0]],
    }
    said = summarize_study(found(2.0, 0.01, laws={"": law}))[1]
    assert said.startswith(
        "ROUGE-1 = 30.00 - 120 x pairs^-0.40, fitted without the largest size; the asymptote"
    )
    assert "is an extrapolation" in said and "no miss was shown, where one of 0.90 would have been" in said
    assert said.endswith(
        "Scores are within one point of the largest size's from 2,000 pairs on (interval 1,000 to 4,000)."
    )
    only = {**law, "within_one_point": {"value": 8_000, "low": 4_000, "high": 8_000}}
    assert summarize_study(found(2.0, 0.01, laws={"": only}))[1].endswith(
        "Scores are within one point of the largest size's from that size on (interval 4,000 to 8,000)."
    )
    straight = {**law, "saturates": False, "miss": {**law["miss"], "p_holm": 0.01}}
    said = summarize_study(found(2.0, 0.01, laws={"same steps": straight}))[1]
    assert said.startswith(
        "same steps: a power law fitted without the largest size does not tell whether scores saturate"
    )
    assert "the measured score misses it" in said and "30.00" not in said
    for growth in ({"value": 0.4, "p_holm": 0.3}, {"value": -3.0, "p_holm": 0.001}):
        flat = {**law, "saturates": False, "growth": {**law["growth"], **growth}}
        said = summarize_study(found(2.0, 0.01, laws={"same steps": flat}))[1]
        assert "points: no growth with the data was shown, where one of 1.10 would" in said and "law" in said
        assert "saturation" not in said and "foretold" not in said


def test_the_best_in_words():
    over = {"value": 0.8, "low": 0.2, "high": 1.4, "p_holm": 0.01, "mde": 0.7}
    entry = {"best": "b", "at_the_end": None, "not_distinguishable": ["c"], "over_baseline": over}
    assert summarize_study(found(2.0, 0.01, best={"rank 8": entry}))[1] == (
        "rank 8: best is b; not distinguishable from it: c. Chosen on one half of the articles and "
        "measured on the other, the best is +0.80 [+0.20, +1.40] from a; the interval allows for the luck of "
        "a seed that was chosen too."
    )
    entry = {**entry, "over_baseline": {**over, "p_holm": 0.5}}
    said = summarize_study(found(2.0, 0.01, best={"": entry}))[1]
    assert "from a: no gain was shown, where one of 0.70 would have been in 80% of cases; the" in said
    said = summarize_study(found(2.0, 0.01, best={"": {**entry, "best": "a", "not_distinguishable": []}}))[1]
    assert said == "best is a, the baseline; all others are worse."
    searched = found(2.0, 0.01, best={"": {**entry, "not_distinguishable": [f"s{i}" for i in range(9)]}})
    searched["variants"]["b"]["sets"] = {"lora.alpha": 8, "train.epochs": 3}
    said = summarize_study(searched)[1]
    assert said.startswith("best is b (lora.alpha 8, train.epochs 3); not distinguishable from it: 9 others.")
    entry |= {"best": "a", "at_the_end": "lowest train.learning_rate", "not_distinguishable": []}
    assert summarize_study(found(2.0, 0.01, best={"": entry}))[1] == (
        "best is a (the lowest train.learning_rate that was tried: a better one may lie beyond), the "
        "baseline; all others are worse."
    )


def test_how_far_from_full_in_words():
    for value, low, high, said in (
        (2.0, 1.0, 3.0, "2.0 [1.0, 3.0]% below a: under 5%."),
        (-1.0, -2.0, 0.5, "-1.0 [-2.0, 0.5]% below a, that is above it: under 5%."),
        (7.0, 6.0, 8.0, "7.0 [6.0, 8.0]% below a: more than 5%."),
        (4.0, 1.0, 7.0, "4.0 [1.0, 7.0]% below a: whether under 5% is open."),
    ):
        entry = {"value": value, "low": low, "high": high}
        assert summarize_study(found(2.0, 0.01, percent_below_full={"b": entry}))[1] == f"b is {said}"


def test_a_decision_shows_what_its_key_alone_did_and_where_it_never_is_alone_what_else_differs():
    made = found(2.0, 0.01)
    made["variants"] |= {"c": found(0.3, 0.6)["variants"]["b"]}
    for (rank, rate), variant in zip(
        ((8, 1.0), (16, 1.0), (16, 2.0)), made["variants"].values(), strict=True
    ):
        variant["values"] = {"lora.rank": rank, "train.learning_rate": rate}
    assert compared_values(made, "lora.rank") == ["- `b`: +2.00 [+1.00, +3.00], real"]
    assert compared_values(made, "train.learning_rate") == [
        "- `c`, with other lora.rank: +0.30 [-0.70, +1.30], not distinguishable (detectable: 1.40)"
    ]
    for model, variant in zip(("small", "large", "small"), made["variants"].values(), strict=True):
        variant["values"] = {"model.name": model, "model.watch": model}  # one choice under two keys
    assert compared_values(made, "model.name") == ["- `b`: +2.00 [+1.00, +3.00], real"]


def test_a_decision_shows_what_the_test_split_said_of_its_key(tmp_path):
    assert confirmed(tmp_path, "lora.rank", "tiny", {}) == []
    made = found(2.0, 0.01) | {"scale": "tiny", "split": "test", "settings": {}}
    for rank, variant in zip((8, 16), made["variants"].values(), strict=True):
        variant |= {"sets": {"lora.rank": rank}, "values": {"lora.rank": rank}}
    for study in CONFIRMATIONS:
        write_json(tmp_path / f"{study}.json", made)
    only = {**made, "variants": {"a": made["variants"]["a"]}}  # what varies it was left out
    write_json(tmp_path / "only/confirmation.json", only)
    assert confirmed(tmp_path / "only", "lora.rank", "tiny", {}) == []
    assert confirmed(tmp_path, "lora.dropout", "tiny", {}) == []
    assert confirmed(tmp_path, "lora.rank", "large", {}) == []  # what phi-tiny showed says nothing of Phi-2
    assert confirmed(tmp_path, "lora.rank", "tiny", {}) == [
        f"On the test split, looked at once, study `{study}` (tiny, 2,000 test articles, 3 seeds):\n\n"
        "- `b`: +2.00 [+1.00, +3.00], real\n"
        for study in CONFIRMATIONS
    ]


def test_settings_are_those_that_the_variants_ran_with():
    made = {**found(0.0, 1.0), "scale": "tiny", "split": "validation"}
    made["settings"] = {"data.train_size": 1000, "train.epochs": 2, "generate.max_batch_tokens": 64}
    for size, variant in zip((10, 20), made["variants"].values(), strict=True):
        variant["sets"] = {"data.train_size": size}
    made["variants"]["b"]["sets"]["train.epochs"] = 1
    said = "tiny, 2,000 validation articles, 3 seeds, train.epochs 2"
    assert settings_sentence(made, {}) == said
    # A default that has changed since is part of what the numbers hang on.
    made["defaults"] = {"train.method": "lora", "lora.alpha": None, "lora.rank": 16, "train.log_every": 25}
    now = {"train": {"method": "rslora", "log_every": 5}, "lora": {"alpha": None}}
    changed = "made with train.method lora, now rslora; lora.rank 16, now gone"
    assert settings_sentence(made, now) == f"{said}; {changed}"


# What a kind of study asks.

NOISE = np.random.default_rng(0).normal(0, 1, 300)
NOISE -= NOISE.mean()


def analysed(
    monkeypatch,
    name: str,
    levels: dict,
    bases: dict | None = None,
    spread: SeedVariance | None = None,
    without: set | frozenset = frozenset(),
    **cost,
) -> dict:
    """The analysis of a shipped study whose variants score around given levels in every metric.

    without: names of variants that are left out.
    """
    monkeypatch.chdir(ROOT)
    study = Studies("models/phi-tiny").study(name).without(without)
    names = [variant.name for variant in study.variants]
    rows = {
        kind: {variant: (NOISE + given.get(variant, level))[None] for variant in names}
        for kind, given, level in (("tuned", levels, 20.0), ("base", bases or {}, 10.0))
    }
    drawn = {
        kind: {variant: resampled(found[variant], 400, k, spread) for k, variant in enumerate(names)}
        for kind, found in rows.items()
    }
    measured = Measured(
        {variant: dict.fromkeys(("rouge1", *COPYING), drawn["tuned"][variant]) for variant in names},
        drawn["base"],
        rows["tuned"],
        rows["base"],
        {
            variant: {"base_bytes": cost.get(variant, 100), "prompt_tokens": 10 * k}
            for k, variant in enumerate(names)
        },
        spread,
        400,
        Sample.independent(NOISE.shape[-1]),
    )
    return ANALYSES[study.analysis].numbers(study, measured, 0.95)


def test_every_module_of_an_analysis_is_registered_and_declared_by_a_study():
    files = {path.stem for path in (ROOT / "onesentence/study/analyses").glob("*.py")}
    assert set(ANALYSES) == files - {"__init__", "analysis"}
    assert {analysis for each in STUDY_FILE["studies"].values() if (analysis := each.get("analysis"))} == set(
        ANALYSES
    )


def test_exchanges_set_more_data_against_the_next_larger_model(monkeypatch):
    level = {"64": 20.0, "128": 24.0, "256": 30.0}
    rng, levels = np.random.default_rng(1), {}
    for width, start in level.items():  # 4 points from a size to the next, 2 for four times the data
        for pairs in (1_000, 4_000, 16_000):
            noise = rng.normal(0, 2, 300)
            levels[f"width-{width}-pairs-{pairs}"] = start + np.log2(pairs / 1_000) + noise - noise.mean()
    entries = {
        (entry["smaller"], entry["larger"]): entry
        for entry in analysed(monkeypatch, "model_size", levels)["exchanges"]
    }
    assert set(entries) == {
        (f"width-{small}-pairs-{more}", f"width-{large}-pairs-{less}")
        for small, large in ((64, 128), (128, 256))
        for less, more in ((1000, 4000), (1000, 16000), (4000, 16000))
    }
    near = entries["width-64-pairs-16000", "width-128-pairs-1000"]
    assert near["value"] == pytest.approx(0, abs=1e-5) and near["p_holm"] >= near["p"] > 0.5
    far = entries["width-128-pairs-4000", "width-256-pairs-1000"]
    assert far["value"] == pytest.approx(-4, abs=1e-5) and far["p_holm"] <= 0.05


def test_a_curve_of_which_a_run_is_missing_is_passed_over(monkeypatch):
    """Its neighbours are no neighbours for that, and what is left of it is no curve."""
    found = analysed(monkeypatch, "model_size", {}, without={"width-128-pairs-4000"})
    assert found["exchanges"] == []
    gone = {"rank-8-learning-rate-0.001", "full-learning-rate-0.004"}
    found = analysed(monkeypatch, "learning_rate", {}, without=gone)["best"]
    assert list(found) == ["rank 16", "rank 64"]
    every = [variant.name for variant in Studies("models/phi-tiny").study("learning_rate").variants]
    kept = {"rank-16-learning-rate-0.002", "rank-16-learning-rate-0.001"}
    assert analysed(monkeypatch, "learning_rate", {}, without=set(every) - kept)["best"] == {}
    assert list(analysed(monkeypatch, "rank", {}, without={"rank-128"})["for_each_doubling"]) == [
        "each rank's best rate"
    ]
    assert analysed(monkeypatch, "data_size", {}, without={"pairs-1000"})["laws"] == {}


def test_what_is_best_for_its_memory(monkeypatch):
    found = analysed(monkeypatch, "quantization", {"int8": 19.0, "nf4": 19.5}, int8=50, nf4=25)
    assert found["pareto_front"] == ["none", "bfloat16", "nf4"]  # int8: larger and worse than nf4
    assert found["percent_of_draws_on_it"] == {"none": 100, "bfloat16": 100, "int8": 0, "nf4": 100}


def test_how_much_of_the_gap_a_prompt_closes_and_what_its_length_is_worth(monkeypatch):
    prompts = Studies("models/phi-tiny").study("prompt").variants
    levels = {variant.name: 25.0 + 0.1 * k for k, variant in enumerate(prompts)}  # 0.1 for 10 tokens
    levels["template-direct"] = 30.0
    found = analysed(monkeypatch, "prompt", levels, {"template-qa": 15.0})
    assert found["best_prompt_of_the_base"] == "template-qa" and found["gap"]["value"] == pytest.approx(20)
    closed = found["percent_of_the_gap_closed_by_prompting"]
    assert closed["value"] == pytest.approx(25, abs=1e-4)  # 15 of 10 to 30
    x = np.arange(len(prompts))
    slope = np.polyfit(x, list(levels.values()), 1)[0]
    assert found["for_each_10_tokens_of_prompt"]["tuned"]["value"] == pytest.approx(slope, abs=1e-5)
    # The tuned model is no better than the base: there is no gap of which to close a share.
    none = analysed(monkeypatch, "prompt", {"template-direct": 10.0})
    assert none["percent_of_the_gap_closed_by_prompting"] == {"value": None, "low": None, "high": None}


def test_the_best_of_many_that_are_alike_owes_its_lead_to_the_choice(monkeypatch):
    """Sixteen settings that differ by chance alone: the best of them leads on the articles that chose it, and
    not on the others."""
    rng, gains, leads = np.random.default_rng(9), [], []
    names = [v.name for v in Studies("models/phi-tiny").study("search").variants]
    for _ in range(20):
        levels = {name: rng.normal(0, 5, 300) for name in names}
        found = analysed(monkeypatch, "search", levels)["best"][""]
        gains.append(found["over_baseline"]["value"])
        leads.append(levels[found["best"]].mean() - levels["as-set"].mean())
    assert np.mean(leads) > 0.3 and abs(np.mean(gains)) < np.mean(leads) / 2


def test_the_luck_of_a_seed_that_was_chosen_makes_no_gain(monkeypatch):
    """Settings that are alike but for the luck of their one seed, which is the same on both halves of the
    articles: the best beats the baseline too often, unless the choice is counted.
    """
    rng, wrong = np.random.default_rng(12), {"p": 0, "p_holm": 0}
    names = [v.name for v in Studies("models/phi-tiny").study("search").variants]
    for _ in range(60):
        levels = {name: 20.0 + rng.normal(0, 0.25) for name in names}
        entry = analysed(monkeypatch, "search", levels, spread=SeedVariance(0.0625, 0.0625, 10))["best"][""]
        for p in wrong:
            wrong[p] += entry["over_baseline"][p] < 0.05
    assert wrong["p"] >= 3 and wrong["p_holm"] <= 1


def test_the_best_is_chosen_over_all_seeds_and_keeps_them():
    one, other = np.full((3, 10), 20.0), np.full((3, 10), 21.0)
    other[0] = 5.0  # a lucky second and third seed do not choose it
    measured = Measured({}, {}, {"one": one, "other": other}, {}, {}, None, 100, Sample.independent(10))
    chosen = measured.chosen_elsewhere(measured.tuned_rows, ["one", "other"], None)
    assert chosen.value == pytest.approx(20.0) and len(chosen.seeds) == 3 and chosen.spread.df == 2


def test_the_best_rate_of_each_rank(monkeypatch):
    levels = {"rank-8-learning-rate-0.004": 22.0, "rank-64-learning-rate-0.001": 21.0}
    levels["full-learning-rate-0.004"] = 20.5
    found = analysed(monkeypatch, "learning_rate", levels)["best"]
    assert found["rank 8"]["best"] == "rank-8-learning-rate-0.004" and not found["rank 8"]["at_the_end"]
    assert found["every weight"]["at_the_end"] == "highest train.learning_rate"
    assert found["rank 64"]["over_baseline"]["value"] == pytest.approx(-20 + 21, abs=1e-5)
    assert found["rank 8"]["not_distinguishable"] == [] and len(found["rank 16"]["not_distinguishable"]) == 4


def test_how_far_below_full_fine_tuning(monkeypatch):
    found = analysed(monkeypatch, "method", {"full": 40.0, "lora-qkv": 38.0})["percent_below_full"]
    assert set(found) == {v.name for v in Studies("models/phi-tiny").study("method").variants} - {"full"}
    assert found["lora-qkv"]["value"] == pytest.approx(5.0, abs=1e-6)
    assert found["lora-qkv"]["low"] < 5.0 < found["lora-qkv"]["high"]


def test_how_much_less_is_copied(monkeypatch):
    found = analysed(monkeypatch, "novelty", {"novel-half": 17.0})["copying"]
    assert found["novel-half"]["verbatim"]["value"] == pytest.approx(-3.0, abs=1e-6)
    assert found["novel-half"]["verbatim"]["p"] < 0.01 and found["curriculum"]["novel_2"]["p"] > 0.9


# Experiments, as git holds them.


@pytest.fixture
def held(tmp_path, monkeypatch) -> Path:
    """A repository whose params.yaml and one file of code experiments were made with."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("train: {learning_rate: 0.002}\nseed: 0\n")
    Path("code.py").write_text("1\n")
    run(tmp_path, "git", "init", "--quiet", "--initial-branch=main")
    run(tmp_path, "git", "add", "--all")
    run(tmp_path, "git", "commit", "--quiet", "--message=start")
    return tmp_path


def put_experiment(folder: Path, name: str, rate: str, baseline: str = "ab") -> str:
    """Hold the files that are there, and a dvc.lock with this learning rate, as an experiment; its ref."""
    stage = {"cmd": "python -m code", "deps": [{"path": "code.py"}], "outs": []}
    lock = json.dumps({"stages": dict.fromkeys(COMPARED, stage)})
    used = f'"params": {{"params.yaml": {{"train.learning_rate": {rate}}}}}'
    (folder / "dvc.lock").write_text(lock.replace('"outs"', f'{used}, "outs"'))
    run(folder, "git", "add", "--all")
    tree = run(folder, "git", "write-tree").stdout.strip()
    commit = run(folder, "git", "commit-tree", tree, "-p", "HEAD", "-m", name).stdout.strip()
    run(folder, "git", "rm", "--quiet", "--force", "dvc.lock")
    ref = f"refs/exps/{baseline}/{'0' * 38}/{name}"
    run(folder, "git", "update-ref", ref, commit)
    return ref


def test_an_experiment_has_the_values_that_its_lock_holds(held):
    """DVC writes small numbers as YAML 1.2 has them, which YAML 1.1 reads as text."""
    ref = put_experiment(held, "small", "5e-05")
    assert has_values(ref, {"train.learning_rate": 5e-05})
    assert not has_values(ref, {"train.learning_rate": 6e-05}) and not has_values(ref, {})


def test_a_twin_is_one_with_the_same_code_and_values_alone(held):
    ref = put_experiment(held, "one", "0.004")
    assert reuse_equal_experiments({"near": {"train.learning_rate": 0.0041}, "as-set": {}}) == []
    assert reuse_equal_experiments({"same": {"train.learning_rate": 0.004}}) == ["same"]
    assert commit_of("same") == run(held, "git", "rev-parse", ref).stdout.strip() == commit_of("one")
    Path("code.py").write_text("2\n")
    assert reuse_equal_experiments({"other": {"train.learning_rate": 0.004}}) == []


def test_a_twin_has_the_same_pins_whatever_the_comments_beside_them(held):
    requirements = Path("requirements.txt")
    requirements.write_text("# One\na==1\nb==2  # why\n")
    put_experiment(held, "one", "0.004")
    wanted = {"same": {"train.learning_rate": 0.004}}
    requirements.write_text("b==2\n\n# Two\na==1\n")
    assert reuse_equal_experiments(wanted) == ["same"]
    for changed in ("a==1\nb==3\n", "a==1\n", "a==1\nb==2\nc==1\n"):
        requirements.write_text(changed)
        assert reuse_equal_experiments({"other": wanted["same"]}) == []


def test_a_name_that_another_experiment_has_is_given_and_nothing_is_lost(held):
    """A default and its variant change places: each is found again under the other's name."""
    put_experiment(held, "as-set-seed0", "0.002")
    put_experiment(held, "fast-seed0", "0.004")
    slow, fast = commit_of("as-set-seed0"), commit_of("fast-seed0")
    wanted = {"as-set-seed0": {"train.learning_rate": 0.004}, "fast-seed0": {"train.learning_rate": 0.002}}
    assert reuse_equal_experiments(wanted) == list(wanted)
    assert commit_of("as-set-seed0") == fast and commit_of("fast-seed0") == slow
    assert reuse_equal_experiments(wanted) == list(wanted)  # once more changes nothing
    assert commit_of("as-set-seed0") == fast and commit_of("fast-seed0") == slow


def test_a_twin_of_another_baseline_takes_the_name_from_what_is_wanted_too(held):
    put_experiment(held, "as-set-seed0", "0.002", "aa")
    put_experiment(held, "fast-seed0", "0.004", "bb")
    slow, fast = commit_of("as-set-seed0"), commit_of("fast-seed0")
    wanted = {"as-set-seed0": {"train.learning_rate": 0.004}, "slow-seed0": {"train.learning_rate": 0.002}}
    assert reuse_equal_experiments(wanted) == list(wanted)
    assert commit_of("as-set-seed0") == fast and commit_of("slow-seed0") == slow


def test_two_branches_keep_their_experiments_of_one_name(held):
    """The one that is wanted has the name; the other is found again by what it is."""
    values = {"train.learning_rate": 0.004}
    put_experiment(held, "fast-seed0", "0.004", "aa")
    first = commit_of("fast-seed0")
    Path("code.py").write_text("2\n")
    ref = put_experiment(held, "fast-seed0", "0.004", "bb")
    with pytest.raises(UserError, match=f"'fast-seed0' is the name of 2 experiments; .*{first[:10]}"):
        commit_of("fast-seed0")
    make_the_only(ref)
    second = commit_of("fast-seed0")
    assert second != first == commit_of(f"fast-seed0.{first[:7]}")
    Path("code.py").write_text("1\n")  # back on the first branch
    assert reuse_equal_experiments({"fast-seed0": values}) == ["fast-seed0"]
    assert commit_of("fast-seed0") == first and commit_of(f"fast-seed0.{second[:7]}") == second
    assert set(experiment_refs()) == {"fast-seed0", f"fast-seed0.{second[:7]}"}


def test_a_spread_is_borrowed_from_the_same_scale_and_settings_alone(tmp_path, monkeypatch):

    monkeypatch.chdir(ROOT)
    studies = Studies("models/phi-tiny")
    found = borrowed_spread(studies.study("learning_rate"), studies)["rouge1"]
    variants = json.loads(Path("metrics/studies/rank.json").read_text())["variants"].values()
    sds = [variant["scores"]["rouge1"]["seed_sd"] for variant in variants]
    assert found.total == pytest.approx(np.mean(np.square(sds))) and found.df == 2 * len(sds)
    assert borrowed_spread(studies.study("rank"), studies) == {}
    other = Studies("microsoft/phi-2")
    with pytest.raises(UserError, match=r"rank\.json is of phi-tiny, whose seeds say nothing about phi-2"):
        borrowed_spread(other.study("learning_rate"), other)
    made = json.loads(Path("metrics/studies/rank.json").read_text())
    write_json(tmp_path / "rank.json", made | {"seeds": [0]})
    monkeypatch.setattr(comparison, "STUDIES", tmp_path)
    with pytest.raises(UserError, match=r"rank\.json was made with other settings or seeds than studies"):
        borrowed_spread(studies.study("learning_rate"), studies)


# The whole: real stages, real experiments.

TINY_STUDIES = {
    "scales": {
        "tiny": {"model": "models/tiny", "settings": {"evaluate.split": "validation"}, "quick": {}},
    },
    "studies": {
        "rank": {
            "question": "Does quality grow with the rank?",
            "baseline": "rank-2",
            "seeds": [0, 1],
            "axes": {"lora.rank": [2, 4]},
            "analysis": "trend",
            "along": "lora.rank",
        },
        "broken": {
            "question": "What of a variant that fails?",
            "baseline": "as-set",
            "seeds": [0],
            "variants": {
                "as-set": {"lora.rank": 2},
                "no-module": {"lora.target_modules": ["nothing"]},
                "resamples": {"lora.rank": 2, "evaluate.resamples": 150},
            },
        },
    },
}


@pytest.fixture(scope="module")
def studied(tmp_path_factory, pairs, tiny):
    """The tiny project with studies of its own, committed; the tests below take it as the last one left
    it.
    """
    project = make_project(tmp_path_factory.mktemp("studied"), pairs, tiny)
    (project / "studies.yaml").write_text(yaml.safe_dump(TINY_STUDIES, sort_keys=False))
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--message=studies")
    return project


def study(folder: Path, *arguments: str, check: bool = True):
    return run(folder, "python", "-m", "onesentence", "study", *arguments, check=check)


@contextmanager
def started(folder: Path, name: str):
    """`make study` in the background; it is killed at the end, so that it can tidy nothing up."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with subprocess.Popen(
        ["python", "-m", "onesentence", "study", name, "--jobs", "2"],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def wait_until(reached) -> None:
    """Wait at most four minutes."""
    deadline = time.time() + 240
    while not reached() and time.time() < deadline:
        time.sleep(0.05)
    assert reached()


@pytest.mark.slow
def test_a_study_from_nothing_to_its_verdict_killed_on_the_way(studied):
    logs = studied / ".dvc/tmp/studies"

    def at_stage(name: str) -> list[Path]:
        """Logs of variants that have come to a stage."""
        return [log for log in logs.glob("*.log") if f"Running stage '{name}'" in log.read_text()]

    with started(studied, "rank"):
        wait_until((logs / "clone-0/dvc.yaml").is_file)  # while it sets itself up
    with started(studied, "rank"):
        wait_until(lambda: at_stage("train"))
    with started(studied, "rank"):
        wait_until(lambda: at_stage("generate@tuned"))
    before = {log: log.read_text() for log in at_stage("generate@tuned")}
    # Nothing of it reaches the user's files.
    assert run(studied, "git", "status", "--porcelain").stdout == ""
    assert run(studied, "git", "symbolic-ref", "--short", "HEAD").stdout.strip()

    # What is edited meanwhile reaches neither variants nor the comparison, and stays.
    with started(studied, "rank") as process:
        wait_until(
            lambda: any(log.read_text() != text for log, text in before.items()) and at_stage("score@tuned")
        )
        for name in ("stages/train.py", "docs/studies.md"):
            (studied / name).write_text((studied / name).read_text() + "\n")
        output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    assert "runs of a killed study were still going; they go on from there" in output
    for log in before:  # training that had ended before the kill is not done again
        assert "Running stage 'train'" not in log.read_text() or log.read_text() == before[log]
    changed = run(studied, "git", "diff", "--name-only").stdout.split()
    written = {
        "docs/decisions.md",
        "metrics/studies/rank.json",
        "plots/studies/rank.csv",
        "plots/studies/rank.svg",
    }
    assert set(changed) == {"stages/train.py", "docs/studies.md", *written}
    assert (studied / "docs/studies.md").read_text().endswith("\n\n")
    run(studied, "git", "checkout", "--quiet", "--", "stages/train.py")

    done = study(studied, "rank", "--jobs", "2")
    assert "study rank: 4 of 4 runs are there, 0 to go" in done.stdout
    assert "for each doubling" in done.stdout and "rank-4" in done.stdout
    assert not list(logs.glob("clone-*"))
    compared = json.loads((studied / "metrics/studies/rank.json").read_text())
    assert list(compared["variants"]) == ["rank-2", "rank-4"] and compared["seeds"] == [0, 1]
    assert compared["variants"]["rank-4"]["cost"]["trainable_parameters"] == 2 * 2 * 3 * 2 * 64 * 2
    assert (studied / "plots/studies/rank.svg").is_file()
    assert "## rank\n\nDoes quality grow with the rank?" in (studied / "docs/studies.md").read_text()

    # Again: everything is there, nothing runs, not a byte changes; plain DVC reads the experiments.
    before = {path: path.read_bytes() for path in (studied / "metrics/studies").iterdir()}
    again = study(studied, "rank")
    assert "4 of 4 runs are there, 0 to go" in again.stdout
    assert {path: path.read_bytes() for path in (studied / "metrics/studies").iterdir()} == before
    shown = json.loads(run(studied, "dvc", "exp", "show", "--json").stdout)
    names = {e["name"] for revision in shown for e in revision.get("experiments") or []}
    assert names == {experiment(f"rank-{rank}", seed) for rank in (2, 4) for seed in (0, 1)}
    means = []
    for seed in (0, 1):
        text = run(
            studied, "git", "show", f"refs/exps/{ref_of(studied, f'rank-4-seed{seed}')}:metrics/summary.json"
        )
        means.append(json.loads(text.stdout)["rouge1"])
    assert compared["variants"]["rank-4"]["scores"]["rouge1"]["value"] == pytest.approx(
        np.mean(means), abs=1e-3
    )

    run(studied, "git", "add", "--all")
    run(studied, "git", "commit", "--quiet", "--message=study")


@pytest.mark.slow
def test_what_a_reviewer_sees_with_and_without_the_cache(studied, tmp_path):
    """The experiments, and one against the other; pushed, pulled, applied, made a branch."""
    shown = run(studied, "python", "-m", "onesentence", "show", "rank").stdout
    assert "4 experiments" in shown and "rank=4, seed=1" not in shown.split("rank-4-seed0")[1].split("\n")[0]
    assert all(len(line) <= 120 for line in shown.splitlines())
    run(studied, "dvc", "exp", "apply", "rank-2-seed0")
    diff = run(studied, "python", "-m", "onesentence", "diff", "rank-4-seed0", "--markdown").stdout
    assert "| `lora.rank` | `4` | `2` |" in diff and "one run on each side, paired by article" in diff
    plain = json.loads(run(studied, "dvc", "exp", "diff", "--json", "rank-2-seed0", "rank-4-seed0").stdout)
    assert plain["params"]["params.yaml"]["lora.rank"] == {"old": 2, "new": 4, "diff": 2}
    page = run(studied, "dvc", "plots", "diff", "rank-2-seed0", "rank-4-seed0").stdout.strip()
    assert "rank-4-seed0" in Path(page.removeprefix("file://")).read_text()
    same = run(studied, "python", "-m", "onesentence", "diff", "rank-2-seed0").stdout
    assert same.count("the same") == 6 and "none changed" in same
    # Without the cache, as in a fresh clone: from the two intervals.
    bare, clone, drive = (tmp_path / name for name in ("bare", "clone", "drive"))
    run(studied, "git", "clone", "--quiet", "--bare", ".", str(bare))
    run(studied, "git", "remote", "add", "origin", str(bare))
    run(studied, "dvc", "remote", "add", "--default", "--local", "storage", str(drive))
    run(studied, "dvc", "exp", "push", "--quiet", "origin", "rank-2-seed0", "rank-4-seed0")
    run(tmp_path, "git", "clone", "--quiet", str(bare), str(clone))
    run(clone, "git", "fetch", "--quiet", "origin", "refs/exps/*:refs/exps/*")
    ref = f"refs/exps/{ref_of(clone, 'rank-4-seed0')}"
    run(clone, "git", "checkout", "--quiet", ref, "--", ".")
    diff = run(clone, "python", "-m", "onesentence", "diff", "rank-2-seed0", "--markdown").stdout
    assert "| `lora.rank` | `2` | `4` |" in diff and "unpaired, from the two intervals" in diff
    # With the folder that both reach: the colleague's experiment, applied, and as a branch.
    run(clone, "git", "checkout", "--quiet", "--force", "HEAD", "--", ".")
    run(clone, "dvc", "remote", "add", "--default", "--local", "storage", str(drive))
    run(clone, "dvc", "exp", "pull", "--quiet", "--force", "origin", "rank-2-seed0", "rank-4-seed0")
    run(clone, "dvc", "exp", "apply", "rank-4-seed0")
    assert "rank: 4" in (clone / "params.yaml").read_text()
    assert (clone / "models/tuned/adapter_model.safetensors").is_file()
    diff = run(clone, "python", "-m", "onesentence", "diff", "rank-2-seed0", "--markdown").stdout
    assert "one run on each side, paired by article" in diff
    run(clone, "dvc", "exp", "branch", "rank-4-seed0", "try-rank-4")
    assert run(clone, "git", "show", "try-rank-4:metrics/summary.json").stdout

    missing = run(studied, "python", "-m", "onesentence", "diff", "nothing", check=False)
    assert "'nothing' is no commit, branch, tag or experiment" in missing.stderr
    run(studied, "git", "checkout", "--quiet", "--force", "HEAD", "--", ".")


def ref_of(folder: Path, name: str) -> str:
    refs = run(folder, "git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    (found,) = [ref for ref in refs if ref.endswith(f"/{name}")]
    return found.removeprefix("refs/exps/")


@pytest.mark.slow
def test_an_experiment_of_other_articles_is_not_compared(studied, tmp_path):
    ref = f"refs/exps/{ref_of(studied, 'rank-4-seed1')}"
    made = run(studied, "git", "rev-parse", ref).stdout.strip()
    other = tmp_path / "other"
    run(studied, "git", "worktree", "add", "--quiet", "--detach", str(other), ref)
    evaluation = other / "metrics/evaluation.json"
    write_json(evaluation, json.loads(evaluation.read_text()) | {"n": 5})
    run(other, "git", "commit", "--all", "--quiet", "--message=other")
    run(other, "git", "update-ref", ref, "HEAD")
    refused = run(studied, "python", "-m", "onesentence", "compare", "rank", check=False)
    run(studied, "git", "update-ref", ref, made)
    run(studied, "git", "worktree", "remove", "--force", str(other))
    assert refused.returncode == 1
    assert "compare: n is 5 in rank-4-seed1 and 6 in rank-2-seed0" in refused.stderr
    assert run(studied, "git", "status", "--porcelain").stdout == ""  # nothing half-written


@pytest.mark.slow
def test_a_failure_is_named_with_its_log_and_the_rest_is_run(studied):
    failed = study(studied, "broken", check=False)
    assert failed.returncode == 1
    assert "no-module-seed0 failed, its log is .dvc/tmp/studies/no-module-seed0.log" in failed.stdout
    assert "lora.target_modules: nothing matches no module" in failed.stdout
    assert "1 runs failed: no-module-seed0" in failed.stderr and "take one that cannot run" in failed.stderr
    assert ref_of(studied, "resamples-seed0")  # the clone that it failed in works on
    # The others are compared, and say who is not among them.
    compared = json.loads((studied / "metrics/studies/broken.json").read_text())
    assert list(compared["variants"]) == ["as-set", "resamples"] and compared["left_out"] == ["no-module"]
    assert "Left out, since not every run is there: no-module." in (studied / "docs/studies.md").read_text()
    refused = run(studied, "python", "-m", "onesentence", "compare", "broken", check=False)
    assert "1 of 3 runs of broken are missing, such as no-module-seed0" in refused.stderr

    # What the user removes since then runs anew where it is wanted, though the clone that made it holds a
    # copy of it; else it stays removed.
    assert list((studied / ".dvc/tmp/studies").glob("clone-*"))
    run(studied, "dvc", "exp", "remove", "resamples-seed0")
    again = study(studied, "broken", check=False)
    assert "1 runs failed: no-module-seed0" in again.stderr and ref_of(studied, "resamples-seed0")
    assert list((studied / ".dvc/tmp/studies").glob("clone-*"))
    run(studied, "dvc", "exp", "remove", "resamples-seed0")
    study(studied, "rank")
    assert "resamples-seed0" not in run(studied, "git", "for-each-ref", "refs/exps").stdout
    # What another study has made under its own name is not made again.
    twins = [
        run(studied, "git", "rev-parse", f"refs/exps/{ref_of(studied, name)}").stdout
        for name in ("as-set-seed0", "rank-2-seed0")
    ]
    assert twins[0] == twins[1]

    (studied / "params.yaml").write_text((studied / "params.yaml").read_text() + "\n")
    dirty = study(studied, "rank", check=False)
    assert "1 tracked files are changed, such as params.yaml; commit them first" in dirty.stderr


@pytest.mark.slow
def test_a_change_of_what_runs_were_made_with_makes_them_missing(studied, monkeypatch):
    """Definitions, data and the base count; where code lies, and the page that a run ends in, do not."""
    from onesentence.study.experiments import finished

    monkeypatch.chdir(studied)
    assert len(finished(Studies("models/tiny").study("rank"))) == 4
    report = studied / "stages/report.py"
    report.write_text(report.read_text() + "\n")
    assert len(finished(Studies("models/tiny").study("rank"))) == 4
    # A comment, and a module that has another name: the same definitions.
    train = studied / "stages/train.py"
    text = train.read_text()
    train.write_text(text + "# A comment.\n")
    (studied / "onesentence/training/dropout.py").rename(studied / "onesentence/training/masks.py")
    for file in [*(studied / "stages").rglob("*.py"), *(studied / "onesentence").rglob("*.py")]:
        file.write_text(
            file.read_text().replace("onesentence.training.dropout", "onesentence.training.masks")
        )
    assert len(finished(Studies("models/tiny").study("rank"))) == 4
    train.write_text(text + "ANOTHER = 1\n")
    assert finished(Studies("models/tiny").study("rank")) == {}
    (studied / "onesentence/training/masks.py").unlink()
    run(studied, "git", "checkout", "--quiet", "--", ".")
    for name in ("data/local.dvc", "models/tiny/config.json"):
        changed = studied / name
        changed.write_text(changed.read_text() + "\n")
        assert finished(Studies("models/tiny").study("rank")) == {}
        run(studied, "git", "checkout", "--quiet", "--", ".")


def test_a_job_takes_the_variant_that_shares_most_with_what_it_has():
    """Where decoding alone differs, nothing is trained again; a killed variant goes before all others."""
    other = {"lora.rank": 16, "generate.num_beams": 1, "data.train_size": 8, "seed": 0}
    experiments = {
        "as-set": other,
        "more-data": other | {"data.train_size": 9},
        "seed": other | {"seed": 1},
        "rank": other | {"lora.rank": 8},
        "beams": other | {"generate.num_beams": 4},
    }
    waiting = ["more-data", "seed", "rank", "beams"]
    for last, held, wanted in (
        ("as-set", set(), "beams"),
        ("as-set", {"beams"}, "seed"),  # another job's clone has made more of it
        ("as-set", set(waiting), "beams"),  # and when nothing else waits
        ("rank", {"rank"}, "rank"),
        ("", set(), "more-data"),
        ("", {"more-data"}, "seed"),
        ("of-another-study", set(), "more-data"),
    ):
        assert next_of(waiting, last, held, experiments) == wanted
    assert next_of(waiting[:1], "as-set", set(), experiments) == "more-data"
    assert sorted(READ_IN_ORDER) == sorted(params.SCHEMA)


# What is committed.


def test_the_decisions_hold_the_studies_numbers(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert DECISIONS_FILE.read_text() == current_decisions(Path("metrics/studies"))
    # A verdict stands under the value that it was made for, and under no other.
    text, whole = DECISIONS_FILE.read_text(), params.read_yaml(params.PARAMS_FILE)
    assert "No decision yet" not in text
    changed = decisions_text(Path("metrics/studies"), "phi-tiny", with_values(whole, {"lora.rank": 64}))
    assert "## `lora.rank: 64`" in changed and "No decision yet: what was decided was `16`." in changed
    studies = Studies("models/phi-tiny")
    for decision in DECISIONS:
        varied = {key for variant in studies.study(decision.study).variants for key in variant.changes}
        assert decision.key in varied, decision
        run = Path("metrics/studies", f"{decision.study}.json").is_file()
        assert bool(decision.choice) == run, (
            f"{decision.key}: say in `choice` what was decided once the study is run"
        )


def test_what_was_decided_on_one_scale_stands_under_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    whole = params.read_yaml(params.PARAMS_FILE)
    for path in Path("metrics/studies").glob("*.json"):
        write_json(tmp_path / path.name, json.loads(path.read_text()) | {"scale": "phi-2"})
    text = decisions_text(tmp_path, "phi-2", whole)
    assert "**Kept" not in text and "**Open" not in text and "**Changed" not in text
    assert text.count("**No decision yet: those here were made on phi-tiny.**") == len(DECISIONS)


@pytest.mark.parametrize("name", sorted({decision.study for decision in DECISIONS}))
def test_decisions_are_told_of_a_study_with_any_variant_left_out(tmp_path, monkeypatch, name):
    """As on a scale that does not vary a key, or where a variant failed."""
    monkeypatch.chdir(ROOT)
    whole, found = (
        params.read_yaml(params.PARAMS_FILE),
        json.loads(Path(f"metrics/studies/{name}.json").read_text()),
    )
    keys = {key for each in found["variants"].values() for key in each["sets"]}
    for key in keys:
        variants = {
            label: {**each, "values": {k: v for k, v in each["values"].items() if k != key}}
            for label, each in found["variants"].items()
            if key not in each["sets"] or label == found["baseline"]
        }
        if len(variants) > 1:
            write_json(tmp_path / f"{name}.json", {**found, "variants": variants, "analysis": {}})
            text = decisions_text(tmp_path, "phi-tiny", whole)
            if key in [decision.key for decision in DECISIONS if decision.study == name]:
                assert f"Study `{name}` compares no other value on phi-tiny." in text


def test_each_ranks_own_rate_is_the_best_that_was_found(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = json.loads(Path("metrics/studies/learning_rate.json").read_text())
    whole = params.read_yaml(params.PARAMS_FILE)
    members = Studies("models/phi-tiny").study("rank").series["each rank's best rate"]
    assert len(members) == 3
    for member in members:
        set_ = with_values(whole, member.values)
        best = found["variants"][found["analysis"]["best"][f"rank {set_['lora']['rank']}"]["best"]]["values"]
        assert best["train.learning_rate"] == set_["train"]["learning_rate"]


def test_the_page_of_studies_shows_every_committed_study(monkeypatch):
    from onesentence.study.pages import END, START, section

    monkeypatch.chdir(ROOT)
    text = Path("docs/studies.md").read_text()
    shown = text.partition(START)[2].partition(END)[0]
    values = params.read_yaml(params.PARAMS_FILE)
    assert shown == section(Path("metrics/studies"), Studies(values["model"]["name"]), values)


def test_the_committed_plots_are_drawn_from_the_committed_numbers(tmp_path, monkeypatch):
    from onesentence.study import figures, pages

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(figures, "PLOTS", tmp_path)
    pages.write_again(Studies("models/phi-tiny"))
    drawn, committed = (
        {file.name: file.read_bytes() for file in folder.iterdir()}
        for folder in (tmp_path, Path("plots/studies"))
    )
    assert drawn.keys() == committed.keys()
    assert [name for name in drawn if drawn[name] != committed[name]] == []


@pytest.mark.parametrize("model", MODELS)
def test_the_test_split_is_opened_by_confirmations_alone(model, monkeypatch):
    """Every other study chooses, and does so on validation."""
    monkeypatch.chdir(ROOT)
    studies = Studies(model)
    opened = [name for name in studies.names() if studies.study(name).settings["evaluate.split"] == "test"]
    assert sorted(opened) == sorted(CONFIRMATIONS)


def test_committed_studies_are_of_the_declared_variants(monkeypatch):
    monkeypatch.chdir(ROOT)
    studies = Studies("models/phi-tiny")
    for path in Path("metrics/studies").glob("*.json"):
        assert not path.name.startswith("quick-")
        committed, study = json.loads(path.read_text()), studies.study(path.stem)
        assert list(committed["variants"]) == [variant.name for variant in study.variants], path
        assert committed["seeds"] == list(study.seeds) and committed["baseline"] == study.baseline
        assert committed["settings"] == study.settings and committed["left_out"] == [], path
        for variant in study.variants:
            assert committed["variants"][variant.name]["sets"] == variant.changes
        assert committed["n"] >= 2_000
