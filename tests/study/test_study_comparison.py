"""What is compared: complete variants of one test set, with a spread of the same settings."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from samples import RANKS, SCORED, N, declared, sample_run

from onesentence.core.errors import UserError
from onesentence.core.files import write_json
from onesentence.evaluation.metrics import Scores
from onesentence.study import comparison
from onesentence.study.comparison import borrowed_seed_variance, require_same_test_set, select_complete
from onesentence.study.declaration import Studies


def test_complete_variants_are_compared_where_partial_is_set(tmp_path):
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


@pytest.mark.parametrize(("key", "value"), [("split", "test"), ("n", 5), ("test", "another")])
def test_runs_of_other_articles_are_refused_and_the_difference_named(key, value):
    one = sample_run(8, 0)
    require_same_test_set({"as-set": one, "alike": sample_run(16, 0)})
    other = sample_run(16, 0, evaluation={**one.evaluation, key: value})
    with pytest.raises(
        UserError, match=f"^compare: {key} is {value} in other and .* in as-set, so they scored"
    ):
        require_same_test_set({"as-set": one, "other": other})
    older = sample_run(16, 0, evaluation={key: one.evaluation[key] for key in ("split", "n", "test")})
    with pytest.raises(UserError, match=r"^compare: older: its evaluation is older than"):
        require_same_test_set({"as-set": one, "older": older})


def test_a_spread_is_borrowed_only_from_the_same_scale_and_settings(tmp_path, monkeypatch):

    monkeypatch.chdir(ROOT)
    studies = Studies("models/phi-tiny")
    borrowed = borrowed_seed_variance(studies.study("learning_rate"), studies)["rouge1"]
    variants = json.loads(Path("metrics/studies/rank.json").read_text())["variants"].values()
    sds = [variant["scores"]["rouge1"]["seed_sd"] for variant in variants]
    assert borrowed.total == pytest.approx(np.mean(np.square(sds))) and borrowed.df == 2 * len(sds)
    assert borrowed_seed_variance(studies.study("rank"), studies) == {}
    other = Studies("microsoft/phi-2")
    with pytest.raises(UserError, match=r"rank\.json: expected the scale phi-2, found phi-tiny"):
        borrowed_seed_variance(other.study("learning_rate"), other)
    made = json.loads(Path("metrics/studies/rank.json").read_text())
    write_json(tmp_path / "rank.json", made | {"seeds": [0]})
    monkeypatch.setattr(comparison, "STUDIES", tmp_path)
    with pytest.raises(UserError, match=r"rank\.json: made with other settings or seeds than studies"):
        borrowed_seed_variance(studies.study("learning_rate"), studies)


def test_a_spread_is_not_borrowed_from_variants_whose_outputs_all_failed(tmp_path, monkeypatch):
    """Their score is 0 with every seed, which is no spread, and other metrics are undefined."""
    monkeypatch.chdir(ROOT)
    studies = Studies("models/phi-tiny")
    made = json.loads(Path("metrics/studies/rank.json").read_text())
    entries = list(made["variants"].values())
    zero = {"value": 0.0, "seed_sd": 0.0, "seed_variance": 0.0}
    for name, score in entries[0]["scores"].items():
        score |= zero if name.startswith("rouge") else {"value": None, "seed_sd": None, "seed_variance": None}
    write_json(tmp_path / "rank.json", made)
    monkeypatch.setattr(comparison, "STUDIES", tmp_path)
    borrowed = borrowed_seed_variance(studies.study("learning_rate"), studies)
    sds = [entry["scores"]["rouge1"]["seed_sd"] for entry in entries[1:]]
    assert borrowed["rouge1"].total == pytest.approx(np.mean(np.square(sds)))
    assert borrowed["novel_2"].df == borrowed["rouge1"].df == 2 * len(sds)
    for entry in entries:
        entry["scores"]["rouge1"]["value"] = 0.0
    write_json(tmp_path / "rank.json", made)
    with pytest.raises(UserError, match="every output of every variant failed"):
        borrowed_seed_variance(studies.study("learning_rate"), studies)


def test_variants_of_the_same_trained_models_are_paired_over_seeds(monkeypatch):
    """Their seeds' luck cancels; that of variants with models of their own does not."""
    monkeypatch.chdir(ROOT)
    study = Studies("models/smollm2-135m", pipeline="presets/smollm2-docstrings").study("quantization")
    rng = np.random.default_rng(3)
    luck = {seed: rng.normal(0, 2) for seed in study.seeds}
    easy = rng.normal(30, 4, N)
    runs = {}
    for variant in study.variants:
        for seed in study.seeds:
            made = sample_run(8, seed)
            level = easy + luck[seed] + rng.normal(0.4 * (variant.name == "nf4-to-write"), 0.5, N)
            tuned = Scores(
                made.tuned.ids, dict.fromkeys(SCORED, level), {}, made.tuned.signatures, made.tuned.groups
            )
            stored = variant.values.get("model.quantization", "none")
            values = {"model": {"dtype": "float32", "quantization": stored}}
            values["generate"] = {"quantization": variant.values.get("generate.quantization")}
            changed = {"params": {**made.params, **values}, "cost": {**made.cost, "base_bytes": 100}}
            runs[study.experiment(variant.name, seed)] = sample_run(
                8, seed, variant=variant.name, tuned=tuned, base=made.base, **changed
            )
    variants = comparison.compare(study, runs, {}, [])["variants"]
    paired, other = (variants[name]["difference"]["rouge1"] for name in ("nf4-to-write", "int8"))
    assert paired["value"] == pytest.approx(0.4, abs=0.1) and paired["se"] < 0.1 < 1 < other["se"]
    assert paired["p_holm"] < 0.01 and other["p_holm"] > 0.5


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
