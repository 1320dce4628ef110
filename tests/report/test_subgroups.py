"""Groups of articles, and the choice of outputs that people read."""

from itertools import pairwise

import numpy as np
import pytest

from onesentence.evaluation.resampling import Sample, difference_of, summary_of
from onesentence.report import subgroups
from onesentence.report.subgroups import chosen_articles, facets, group_rows, labelled_groups, quantile_groups


def plain(groups: list[tuple[str, np.ndarray]]) -> list[tuple[str, list[int]]]:
    return [(label, group.tolist()) for label, group in groups]


def test_quantile_groups_by_hand():
    values = np.array([50.0, 10.0, 40.0, 20.0, 30.0])
    assert plain(quantile_groups(values, 2, ".0f")) == [("10 to 30", [1, 3, 4]), ("40 to 50", [2, 0])]
    assert plain(quantile_groups(values, 1, ".1f")) == [("10.0 to 50.0", [1, 3, 4, 2, 0])]


def test_quantile_groups_leave_nan_out_and_hold_every_other_article_once():
    rng = np.random.default_rng(0)
    values = np.where(rng.random(57) < 0.2, np.nan, rng.integers(0, 9, size=57))
    groups = quantile_groups(values, 4, ".0f")
    together = np.concatenate([group for _, group in groups])
    assert sorted(together.tolist()) == np.flatnonzero(~np.isnan(values)).tolist()
    sizes = [len(group) for _, group in groups]
    assert max(sizes) - min(sizes) <= 1
    for (_, one), (_, other) in pairwise(groups):
        assert values[one].max() <= values[other].min()
    assert [len(group) for _, group in quantile_groups(np.array([1.0, 2.0]), 5, ".0f")] == [1, 1]
    assert quantile_groups(np.full(3, np.nan), 5, ".0f") == []


def test_labelled_groups_by_hand():
    assert plain(labelled_groups(["ok", "echo", "ok"])) == [("echo", [1]), ("ok", [0, 2])]


def test_facets_group_every_article_once():
    rng = np.random.default_rng(1)
    lengths, cut = rng.integers(20, 400, size=40), np.where(rng.random(40) < 0.3, 7, 0)
    novelty = rng.random(40) * 100
    statuses = ["ok"] * 38 + ["echo", "no end"]
    by_facet = facets(lengths, cut, novelty, statuses)
    assert set(by_facet) == {"length", "cut", "novelty", "status"}
    for _, groups in by_facet.values():
        assert sorted(np.concatenate([group for _, group in groups]).tolist()) == list(range(40))
    assert [label for label, _ in by_facet["cut"][1]] == ["cut", "whole"]
    assert (cut[dict(by_facet["cut"][1])["cut"]] == 7).all()
    assert [len(by_facet[name][1]) for name in ("length", "novelty", "status")] == [5, 4, 3]


def test_rows_of_groups_are_the_groups_own_scores():
    rng = np.random.default_rng(2)
    scores = {name: rng.random(30) * 100 for name in ("lead", "tuned")}
    succeeded = {"lead": np.ones(30, dtype=bool), "tuned": np.arange(30) >= 3}
    groups = [("first", np.arange(10)), ("one", np.array([29])), ("rest", np.arange(10, 30))]
    rows = group_rows(groups, scores, succeeded, 300, 0.95, Sample.independent(30))
    assert [(row["group"], row["n"]) for row in rows] == [("first", 10), ("one", 1), ("rest", 20)]
    assert [row["tuned_success"] for row in rows] == [70, 100, 100]
    for row, (_, group) in zip(rows, groups, strict=True):
        assert row["tuned"]["value"] == pytest.approx(scores["tuned"][group].mean(), abs=1e-6)
        assert row["lead"] == summary_of(scores["lead"][group], 300, 0.95)
        assert row["gain"] == difference_of(scores["tuned"][group], scores["lead"][group], 300, 0.95)
    assert rows[1]["gain"]["p_randomization"] > 0.5  # one article shows nothing


def test_articles_to_read_by_hand(monkeypatch):
    monkeypatch.setattr(subgroups, "OUTPUTS_OF_A_KIND", 2)
    scores = np.array([5.0, 0.0, 9.0, 4.0, 2.0])  # mean 4
    chosen = chosen_articles(scores)
    assert (chosen["worst"], chosen["best"], chosen["average"]) == ([1, 4], [2, 0], [3, 0])
    assert len(set(chosen["random"])) == 2 and chosen["random"] == sorted(chosen["random"])
    assert chosen_articles(scores) == chosen


def test_fewer_articles_than_are_shown_are_all_shown():
    chosen = chosen_articles(np.array([1.0, 1.0, 0.0]))
    assert chosen["worst"] == [2, 0, 1]
    assert all(sorted(indices) == [0, 1, 2] for indices in chosen.values())


def test_which_articles_are_random_does_not_depend_on_their_scores():
    one, other = (chosen_articles(np.random.default_rng(seed).random(200)) for seed in (1, 2))
    assert one["random"] == other["random"] and one["worst"] != other["worst"]
    assert len(one["random"]) == subgroups.OUTPUTS_OF_A_KIND
