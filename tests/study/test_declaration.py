"""studies.yaml: what it declares, and the error that names what is wrong with it."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT
from samples import RANKS, SCALES, declared

from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.study.decisions import (
    CONFIRMATIONS,
)
from onesentence.study.declaration import Studies, from_axes, from_search, option
from onesentence.study.experiments import require_distinct, require_loadable, with_values


@pytest.mark.parametrize(("model", "pipeline"), SCALES)
def test_every_shipped_study_is_sound_on_each_scale(model, pipeline, monkeypatch):
    monkeypatch.chdir(ROOT)
    studies = Studies(model, pipeline=pipeline)
    studies.check_names()
    assert len(studies.names()) >= (5 if pipeline else 11)
    shipped = params.read_yaml(params.PARAMS_FILE)
    if model != shipped["model"]["name"]:
        preset = Path(pipeline).name or "phi2-xsum-t4"
        for section, overlay in params.read_yaml(Path(f"presets/{preset}.yaml")).items():
            shipped[section] |= overlay
    for name in studies.names():
        for quick in (False, True):
            study = studies.study(name, quick)
            require_distinct(study, shipped)
            assert study.question.endswith("?") and len(study.variants) >= 2
            require_loadable(study, shipped)
            for values in study.experiments().values():
                whole = with_values(shipped, values)
                steps, rows = whole["train"]["steps"], whole["data"]["train_size"]
                batch = whole["train"]["batch_size"] * whole["train"]["gradient_accumulation"]
                assert steps is None or steps * batch >= rows, f"{name}: some pairs are never seen"


def test_names_and_values_of_axes():
    variants = from_axes({"lora.rank": [8], "train.learning_rate": [0.002, 1e-05]})
    assert variants == {
        "rank-8-learning-rate-0.002": {"lora.rank": 8, "train.learning_rate": 0.002},
        "rank-8-learning-rate-1e-05": {"lora.rank": 8, "train.learning_rate": 1e-05},
    }
    assert list(from_axes({"data.train_size": [None], "prompt.template": ["in_short"]})) == [
        "train-size-all-template-in-short"
    ]


def test_a_search_depends_on_its_seed_alone_and_stays_in_its_bounds():
    search = {"budget": 200, "seed": 3, "keys": {"a": {"low": 0.001, "high": 0.1}, "b": [1, 2]}}
    variants = from_search(search)
    assert variants == from_search(search) and variants != from_search({**search, "seed": 4})
    rates = np.array([drawn["a"] for drawn in variants.values()])
    assert len(variants) == 200 and rates.min() >= 0.001 and rates.max() <= 0.1
    assert 0.35 < (rates < 0.01).mean() < 0.65  # half of the draws in each of the two decades
    assert {drawn["b"] for drawn in variants.values()} == {1, 2}


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
    variants = {"few": {"data.train_size": 100}, "all": {"data.train_size": None}}
    whole = {"question": "?", "seeds": [0], "variants": variants, "baseline": "few"}
    study = declared(tmp_path, sizes=whole).study("sizes", quick=True)
    assert [v["data.train_size"] for v in study.experiments().values()] == [5, 6]
    variants |= {"many": {"data.train_size": 400}}
    whole |= {"settings": {"data.train_size": 100}}
    study = declared(tmp_path, sizes=whole).study("sizes", quick=True)
    assert [v["data.train_size"] for v in study.experiments().values()] == [5, 21, 20]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"axis": {}}, "studies.rank.axis: unknown key"),
        (
            {"baseline": "rank-4"},
            "studies.rank.baseline: expected a variant (rank-8, rank-16), found 'rank-4'",
        ),
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
        (
            {"series": {"x": ["rank-9"]}},
            "studies.rank.series: expected variants that set lora.rank to a number, found 'rank-9'",
        ),
        ({"series": {k: ["rank-8"] for k in "abcde"}}, "studies.rank.series: expected at most 4"),
        ({"seeds": [0, 0]}, "studies.rank.seeds: expected a list of numbers, none twice"),
        (
            {"seeds": [2**32]},
            "studies.rank.seeds: expected a list of numbers, none twice, each a whole number",
        ),
        ({"seeds": 3}, "studies.rank.seeds: expected a list"),
        ({"seeds": {"tiny": 3}}, "studies.rank.seeds.tiny: expected a list"),
        ({"goal": 35}, "studies.rank.goal: expected"),
        ({"goal": {"tniy": 35}}, "studies.rank.goal.tniy: expected a scale (tiny)"),
        ({"goal": {"tiny": 30, "tniy": 35}}, "'tniy': expected a scale (tiny)"),
        ({"spread_from": {"tniy": "rank"}}, "studies.rank.spread_from.tniy: expected a scale (tiny)"),
        ({"goal": {"tiny": -1}}, "studies.rank.goal.tiny: expected a number above 0"),
        ({"seeds": {}}, "studies.rank.seeds: none for tiny; list numbers for it"),
        ({"seeds": {"tiny": [0], "tniy": [0]}}, "'tniy': expected a scale (tiny)"),
        ({"along": None}, "rank.along: missing; name the key of params.yaml that trend follows"),
        ({"settings": {"tiny": {}, "tniy": {}}}, "'tniy': expected a scale (tiny)"),
        ({"axes": {"tiny": {}, "tniy": {}, 8: {}}}, "8: expected a scale (tiny)"),
        ({"settings": {"tniy": {}}}, "tniy: unknown key of params.yaml"),
        (
            {"spread_from": "rnak"},
            "studies.rank.spread_from: expected a study of several seeds, found 'rnak'",
        ),
        ({"axes": {}, "variants": {"tiny": {}}}, "studies.rank: no variants for tiny"),
        ({"axes": {"lora.rank": [8]}}, "studies.rank: one variant for tiny; declare another"),
        (
            {"variants": {"tiny": []}},
            "studies.rank.variants: expected keys with values for this scale, found []",
        ),
        (
            {"variants": {"rank-8": {"lora.rank": 4}}},
            "studies.rank.variants.rank-8: axes or search make a variant of this name, too; rename it",
        ),
        (
            {"search": {"budget": 3, "seed": 0, "keys": {"lora.alpha": {"low": 8, "high": 1}}}},
            "studies.rank.search.keys.lora.alpha: expected low below high, found low 8 and high 1",
        ),
        (
            {"search": {"budget": 3, "seed": 0, "keys": {"lora.alpha": {"low": 8, "high": math.inf}}}},
            "search.keys.lora.alpha.high: expected a number above 0 and at most 1,000,000,000, found inf",
        ),
        (
            {"search": {"budget": 3, "seed": 0, "keys": {"lora.alpha": {"low": 8, "high": 10**400}}}},
            "search.keys.lora.alpha.high: expected a number above 0 and at most 1,000,000,000, found 1000",
        ),
        ({"variants": {"a": {8: None}}}, "studies.rank.variants.a.8: expected a text as the key"),
        (
            {"variants": {"a": {"lora": {}}}},
            "variant a: lora: is a section; give its keys, such as lora.rank",
        ),
        ({"settings": {"data.train_size": "x"}}, "studies.rank.settings: data.train_size: expected a whole"),
        (
            {"search": {"budget": 5, "seed": 0, "keys": {"lora.alpha": [8, 16], "train.epochs": [1, 2]}}},
            "studies.rank.search.budget: expected at most 4, as many settings as these keys give, found 5",
        ),
        (
            {"series": {"x": ["rank-8"]}},
            "studies.rank.series.x: the analysis `trend` needs 2 or more different values of lora.rank",
        ),
        (
            {"axes": {"lora.dropout": [0.0, 0.1]}, "along": "lora.dropout", "baseline": "dropout-0"},
            "studies.rank.variants: the analysis `trend` needs values of lora.dropout above 0, found 0.0",
        ),
        ({"analysis": "scaling"}, "studies.rank.along: the analysis `scaling` fits a law of data.train_size"),
        (
            {
                "axes": {"data.train_size": [1, 2]},
                "along": "data.train_size",
                "baseline": "train-size-1",
                "analysis": "scaling",
            },
            "studies.rank.variants: the analysis `scaling` needs 4 or more different values",
        ),
        (
            {
                "axes": {"lora.rank": [8, 16], "data.train_size": [1, 2, 4, 8]},
                "along": "data.train_size",
                "baseline": "rank-8-train-size-1",
                "analysis": "scaling",
            },
            "studies.rank.variants: the analysis `scaling` needs another data.train_size in each variant",
        ),
        (
            {"analysis": "best", "series": {"x": ["rank-8"]}},
            "studies.rank.series.x: the analysis `best` needs 2 or more variants, found rank-8 alone",
        ),
        ({"question": None}, "studies.rank.question: expected a text that is not empty, found None"),
        ({"note": 1}, "studies.rank.note: expected a text that is not empty, found 1"),
        ({"note": {"tniy": "once"}}, "studies.rank.note.tniy: expected a scale (tiny)"),
        ({"hours": 1.5}, "studies.rank.hours: expected a dictionary, found 1.5"),
        ({"hours": {"tiny": "3"}}, "studies.rank.hours.tiny: expected a number above 0 and at most"),
        ({"axes": {"lora.rank": 8}}, "studies.rank.axes.lora.rank: expected a list of values, found 8"),
        (
            {"variants": {"as-set": None}},
            "studies.rank.variants.as-set: expected keys with values, found None",
        ),
        ({"baseline": {"other": "rank-8"}}, "studies.rank.baseline: none for tiny; name one of rank-8"),
        ({"search": {"seed": 0, "keys": {}}}, "studies.rank.search.budget: missing"),
        (
            {"search": {"budget": 1, "seed": 0, "keys": {"lora.alpha": {"low": 0, "high": 8}}}},
            "studies.rank.search.keys.lora.alpha.low: expected a number above 0 and at most",
        ),
        (
            {"search": {"budget": 1, "seed": 0, "keys": {"lora.alpha": {"low": 1, "hihg": 8}}}},
            "studies.rank.search.keys.lora.alpha.hihg: unknown key",
        ),
        ({"series": {"x": "rank-8"}}, "studies.rank.series.x: expected a list of values, found 'rank-8'"),
        (
            {"along": "train.epochs", "analysis": "none", "settings": {"train.epochs": None}},
            "to a number, found",
        ),
        (
            {"analysis": "none", "along": None, "series": {"x": ["rank-8"]}},
            "rank.along: missing; name the key of params.yaml that orders the series",
        ),
        (
            {"analysis": "full"},
            "rank.baseline: the analysis `full` needs a baseline with train.method full (found 'rank-8')",
        ),
        (
            {
                "axes": {"lora.rank": [8, 16], "data.train_size": [1, 2]},
                "baseline": "rank-8-train-size-1",
                "analysis": "exchange",
                "along": "data.train_size",
                "series": {"a": ["rank-8-train-size-1"], "b": ["rank-16-train-size-2"]},
            },
            "rank.series.b: data.train_size 2 is not in a, the series before it",
        ),
    ],
)
def test_a_wrong_declaration_is_named(tmp_path, change, problem):
    with pytest.raises(UserError, match=re.escape(problem)):
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
    with pytest.raises(UserError, match=re.escape(problem)):
        Studies("m", tmp_path / "studies.yaml")
    (tmp_path / "studies.yaml").write_text("scales: {}\n")
    with pytest.raises(UserError, match=r"studies\.yaml: studies: missing"):
        Studies("m", tmp_path / "studies.yaml")


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("kind", ["settings", "quick"])
def test_a_wrong_value_of_a_scale_is_named(tmp_path, kind, quick):
    declared(tmp_path, rank=RANKS)
    text = yaml.safe_load((tmp_path / "studies.yaml").read_text())
    text["scales"]["tiny"][kind] = {"data.train_size": "x"}
    (tmp_path / "studies.yaml").write_text(yaml.safe_dump(text))
    problem = rf"scales\.tiny\.{kind}: data\.train_size: expected a whole number .*, found 'x'"
    with pytest.raises(UserError, match=problem):
        Studies("m", tmp_path / "studies.yaml").study("rank", quick)


def test_a_quick_study_of_all_rows_keeps_the_proportions_of_sizes(tmp_path):
    declared(tmp_path, rank=RANKS)
    text = yaml.safe_load((tmp_path / "studies.yaml").read_text())
    text["scales"]["tiny"]["quick"] = {"data.train_size": None}
    sizes = {"axes": {"data.train_size": [10, 50]}, "along": "data.train_size", "analysis": "none"}
    text["studies"]["rank"] = {**text["studies"]["rank"], **sizes, "baseline": "train-size-10"}
    (tmp_path / "studies.yaml").write_text(yaml.safe_dump(text))
    study = Studies("m", tmp_path / "studies.yaml").study("rank", quick=True)
    assert [values["data.train_size"] for values in study.experiments().values()] == [10, 50]


def test_values_that_no_stage_would_load_are_refused(tmp_path, monkeypatch):
    """A value may be right by itself, and contradict another one that params.yaml or the study sets."""
    monkeypatch.chdir(ROOT)
    shipped = params.read_yaml(params.PARAMS_FILE)
    beams = {
        "axes": {"generate.num_beams": [1, 4]},
        "baseline": "num-beams-1",
        "analysis": "none",
        "along": None,
    }
    study = declared(tmp_path, rank={**RANKS, **beams, "settings": {"generate.length_penalty": 1.0}}).study(
        "rank"
    )
    require_loadable(study, shipped)
    study = declared(tmp_path, rank={**RANKS, **beams, "settings": {"generate.length_penalty": 2.0}}).study(
        "rank"
    )
    with pytest.raises(UserError, match=r"rank: num-beams-1-seed0: generate\.length_penalty: must be 1\.0"):
        require_loadable(study, shipped)


def test_an_unknown_study_or_scale_is_named(tmp_path):
    with pytest.raises(UserError, match="no study 'x'; expected one of rank"):
        declared(tmp_path, rank=RANKS).study("x")
    with pytest.raises(UserError, match=r"no scale for model.name 'other' \(found tiny \(m\)\)"):
        Studies("other", tmp_path / "studies.yaml")


def test_a_preset_s_pipeline_has_a_scale_and_names_of_its_own(tmp_path):
    scale = {"model": "m", "settings": {}, "quick": {}}
    scales = {"tiny": scale, "news": {**scale, "pipeline": "presets/own"}}
    text = yaml.safe_dump({"scales": scales, "studies": {"rank": RANKS}}, sort_keys=False)
    path = tmp_path / "studies.yaml"
    path.write_text(text)
    default, own = Studies("m", path), Studies("m", path, "presets/own")
    assert (default.scale, own.scale) == ("tiny", "news")
    assert next(iter(default.study("rank").experiments())) == "rank-8-seed0"
    assert next(iter(own.study("rank").experiments())) == "news-rank-8-seed0"
    assert next(iter(own.study("rank", quick=True).experiments())) == "news-quick-rank-8-seed0"
    assert own.study("rank").name == "rank" and own.study("rank").baseline == "rank-8"
    known = r"'m' in presets/other \(found tiny \(m\), news \(m in presets/own\)\)"
    with pytest.raises(UserError, match=f"no scale for model.name {known}"):
        Studies("m", path, "presets/other")


def test_a_study_that_another_scale_declares_is_skipped(tmp_path):
    """The list and the check of names skip it; a request for it gets an error."""
    scales = {name: {"model": name, "settings": {}, "quick": {}} for name in ("tiny", "mine")}
    rank, sizes = ({**RANKS, "axes": axes} for axes in ({"lora.rank": [8, 16]}, {"tiny": {"lora.rank": [8]}}))
    text = yaml.safe_dump({"scales": scales, "studies": {"rank": rank, "sizes": sizes}}, sort_keys=False)
    (tmp_path / "studies.yaml").write_text(text)
    studies = Studies("mine", tmp_path / "studies.yaml")
    assert studies.names() == ["rank"]
    studies.check_names()
    with pytest.raises(UserError, match=r"studies\.sizes: no variants for mine; declare some"):
        studies.study("sizes")


def test_a_scale_may_have_seeds_of_its_own(tmp_path):
    scales = {name: {"model": name, "settings": {}, "quick": {}} for name in ("tiny", "mine")}
    rank = {**RANKS, "seeds": {"tiny": [0, 1, 2], "mine": [7]}}
    lent = {**RANKS, "seeds": [0], "spread_from": "rank"}
    text = yaml.safe_dump({"scales": scales, "studies": {"rank": rank, "lent": lent}}, sort_keys=False)
    (tmp_path / "studies.yaml").write_text(text)
    tiny, mine = (Studies(scale, tmp_path / "studies.yaml") for scale in ("tiny", "mine"))
    assert tiny.study("rank").seeds == (0, 1, 2) and tiny.study("lent").spread_from == "rank"
    assert list(mine.study("rank").experiments()) == ["rank-8-seed7", "rank-16-seed7"]
    with pytest.raises(
        UserError, match=r"lent\.spread_from: expected a study of several seeds, found 'rank'"
    ):
        mine.study("lent")
    lent["spread_from"] = {"tiny": "rank"}  # the scale of one seed borrows nothing
    text = yaml.safe_dump({"scales": scales, "studies": {"rank": rank, "lent": lent}}, sort_keys=False)
    (tmp_path / "studies.yaml").write_text(text)
    assert Studies("tiny", tmp_path / "studies.yaml").study("lent").spread_from == "rank"
    assert Studies("mine", tmp_path / "studies.yaml").study("lent").spread_from is None


def test_a_scale_and_a_study_may_have_notes(tmp_path):
    scales = {name: {"model": name, "settings": {}, "quick": {}} for name in ("tiny", "mine")}
    scales["mine"]["note"] = "It was rounded."
    again = {**RANKS, "note": {"mine": "Twice."}}
    text = yaml.safe_dump({"scales": scales, "studies": {"rank": again, "plain": RANKS}}, sort_keys=False)
    (tmp_path / "studies.yaml").write_text(text)
    tiny, mine = (Studies(scale, tmp_path / "studies.yaml") for scale in ("tiny", "mine"))
    assert (tiny.note, mine.note) == ("", "It was rounded.")
    assert [studies.study("rank").note for studies in (tiny, mine)] == ["", "Twice."]
    assert mine.study("plain").note == ""


def test_one_name_for_two_settings_is_refused(tmp_path):
    other = {**RANKS, "settings": {"tiny": {"train.epochs": 2}}}
    with pytest.raises(
        UserError, match=r"rank-8-seed0: rank and again give it different values of train\.epochs"
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
def test_dvc_reads_the_value_of_an_option_back(tmp_path, value):
    from dvc.utils.hydra import apply_overrides

    (tmp_path / "params.yaml").write_text("a:\n  b: 0\n")
    apply_overrides(tmp_path / "params.yaml", [option("a.b", value)])
    assert params.read_yaml(tmp_path / "params.yaml") == {"a": {"b": value}}


@pytest.mark.parametrize(("model", "pipeline"), SCALES)
def test_only_confirmations_use_the_test_split(model, pipeline, monkeypatch):
    """Every other study makes choices, and makes them on validation."""
    monkeypatch.chdir(ROOT)
    studies = Studies(model, pipeline=pipeline)
    opened = {name for name in studies.names() if studies.study(name).settings["evaluate.split"] == "test"}
    assert opened == set(CONFIRMATIONS) & set(studies.names())


def test_each_ranks_own_rate_is_the_best_that_was_found(monkeypatch):
    monkeypatch.chdir(ROOT)
    result = json.loads(Path("metrics/studies/learning_rate.json").read_text())
    whole = params.read_yaml(params.PARAMS_FILE)
    members = Studies("models/phi-tiny").study("rank").series["each rank's best rate"]
    assert len(members) == 3
    for member in members:
        set_ = with_values(whole, member.values)
        best = result["variants"][result["analysis"]["best"][f"rank {set_['lora']['rank']}"]["best"]][
            "values"
        ]
        assert best["train.learning_rate"] == set_["train"]["learning_rate"]
