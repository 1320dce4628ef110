"""A study and its parts: experiments by name, curves without their missing variants."""

import pytest
from samples import RANKS, declared


def test_a_study_has_one_experiment_for_each_variant_and_seed(tmp_path):
    study = declared(tmp_path, rank=RANKS).study("rank")
    assert list(study.experiments()) == ["rank-8-seed0", "rank-16-seed0", "rank-8-seed7", "rank-16-seed7"]
    assert [study.position(variant) for variant in study.variants] == [8, 16]


def test_a_curve_that_lacks_a_variant_is_empty(tmp_path):
    series = {"low": ["rank-8"], "all": ["rank-8", "rank-16"]}
    ranks = {**RANKS, "analysis": "none", "series": series}
    study = declared(tmp_path, rank=ranks).study("rank").without({"rank-16"})
    assert [variant.name for variant in study.variants] == ["rank-8"]
    assert {label: [member.name for member in members] for label, members in study.series.items()} == {
        "low": ["rank-8"],
        "all": [],
    }


def test_a_study_that_follows_no_key_has_no_positions(tmp_path):
    study = declared(tmp_path, rank={**RANKS, "analysis": "none", "along": None}).study("rank")
    with pytest.raises(ValueError, match="rank follows no key"):
        study.position(study.variants[0])
