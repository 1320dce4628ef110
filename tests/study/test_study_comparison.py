"""What is compared: complete variants of one test set, with a spread of the same settings."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from samples import RANKS, declared, sample_run

from onesentence.core.errors import UserError
from onesentence.core.files import write_json
from onesentence.study import comparison
from onesentence.study.comparison import borrowed_spread, require_same_test_set, select_complete
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
    borrowed = borrowed_spread(studies.study("learning_rate"), studies)["rouge1"]
    variants = json.loads(Path("metrics/studies/rank.json").read_text())["variants"].values()
    sds = [variant["scores"]["rouge1"]["seed_sd"] for variant in variants]
    assert borrowed.total == pytest.approx(np.mean(np.square(sds))) and borrowed.df == 2 * len(sds)
    assert borrowed_spread(studies.study("rank"), studies) == {}
    other = Studies("microsoft/phi-2")
    with pytest.raises(UserError, match=r"rank\.json: expected the scale phi-2, found phi-tiny"):
        borrowed_spread(other.study("learning_rate"), other)
    made = json.loads(Path("metrics/studies/rank.json").read_text())
    write_json(tmp_path / "rank.json", made | {"seeds": [0]})
    monkeypatch.setattr(comparison, "STUDIES", tmp_path)
    with pytest.raises(UserError, match=r"rank\.json: made with other settings or seeds than studies"):
        borrowed_spread(studies.study("learning_rate"), studies)


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
