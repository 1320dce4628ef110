"""How metrics rank faithfulness: rho by hand and by scipy, whole articles, the committed numbers."""

import json
from itertools import pairwise

import numpy as np
import pytest
from conftest import ROOT, SHARED
from scipy.stats import spearmanr

from benchmarks.faithfulness import (
    END,
    GROUPS,
    JUDGED,
    OF_ARTICLE,
    PUBLISHED,
    START,
    correlation,
    drawn_rows,
    measured,
    ranked,
    read_annotations,
    table,
)
from onesentence.commands.score import settings_with
from onesentence.core.errors import UserError
from onesentence.evaluation.resampling import Sample

ANNOTATIONS = SHARED / "xsum-faithfulness/annotations.jsonl"
COMMITTED = json.loads((ROOT / "benchmarks/results/faithfulness.json").read_text())
# Maynez et al. 2020: Spearman's rho with faithful and factual.
ELSEWHERE = {"rouge1": (0.197, 0.125), "bertscore": (0.190, 0.116), "entailment": (0.431, 0.264)}


def row(k: int, **other) -> dict:
    """A row of the file; four in a row are of one article, and every second article has its text."""
    article = k // 4
    whole = f"The council of town {article} met on day {k}. Nobody came in {1900 + k}."
    summary = f"the council of town {article + k % 3} met" + " again" * (k % 5)
    own = {
        "id": f"a{article}", "system": "ABCD"[k % 4], "summary": summary,
        "faithful": round(((7 * k) % 11) / 11, 4), "factual": k % 2, "rouge1": k / 100, "bertscore": 0.5,
        "entailment": 1 - k / 100, "document": whole if article % 2 else None,
        "reference": "The council met." if article % 2 and article > 2 else None,
    }  # fmt: skip
    return own | other


def write(path, rows) -> None:
    path.write_text("".join(f"{json.dumps(each)}\n" for each in rows))


def test_rho_is_that_of_the_formula_and_with_ties_that_of_scipy():
    left, right = np.array([1, 2, 3, 4, 5.0]), np.array([20, 10, 40, 30, 50.0])
    assert correlation(left, right) == pytest.approx(1 - 6 * 4 / (5 * 24))  # four distances of 1
    draw = np.random.default_rng(0)
    tied = draw.integers(0, 4, 60).astype(float), draw.integers(0, 3, 60).astype(float)
    assert correlation(*tied) == pytest.approx(spearmanr(*tied).statistic)
    assert np.isnan(correlation(left, np.ones(5)))


@pytest.mark.parametrize("clusters", [40, 120])  # random subsets; the bootstrap
def test_articles_are_drawn_whole(clusters):
    sample = Sample.of([f"a{k // 3}" for k in range(3 * clusters)])
    draws = drawn_rows(sample, 50)
    assert sample.few == (clusters == 40) and len(draws) == 50
    for rows in draws:
        counts = np.bincount(rows, minlength=3 * clusters).reshape(clusters, 3)
        assert (counts == counts[:, :1]).all()
        assert counts.max() == 1 if sample.few else len(rows) == 3 * clusters
    assert len({rows.tobytes() for rows in draws}) == 50


def test_rows_without_a_score_and_columns_without_a_difference_are_left_out():
    draw = np.random.default_rng(0)
    shares = draw.random(80)
    columns = {"same": shares.copy(), "some": -shares, "one": np.ones(80), "none": np.full(80, np.nan)}
    columns["some"][:20] = np.nan
    found = ranked(columns, {"faithful": shares}, [f"a{k // 2}" for k in range(80)], 100, 0.95)
    assert list(found) == ["same", "some"]
    assert found["same"] == {"n": 80, "articles": 40, "faithful": {"value": 1, "low": 1, "high": 1}}
    assert (found["some"]["n"], found["some"]["articles"]) == (60, 30)
    assert found["some"]["faithful"]["value"] == pytest.approx(-1) and "above_first" not in found["some"]


def test_differences_are_paired():
    draw = np.random.default_rng(0)
    shares, groups = draw.random(400), [f"a{k}" for k in range(400)]
    noise = 0.5 * draw.random(400)
    columns = {"first": shares + noise, "close": shares + noise + 0.01 * draw.random(400)}
    entry = ranked(columns, {"faithful": shares}, groups, 200, 0.95)["close"]
    paired = entry["above_first"]["faithful"]
    assert paired["low"] <= paired["value"] <= paired["high"]
    width, alone = (each["high"] - each["low"] for each in (paired, entry["faithful"]))
    assert width < alone / 5


def test_a_file_by_hand_is_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # of params.yaml
    path, rows = tmp_path / "a.jsonl", [row(k) for k in range(48)]
    rows[0]["summary"] = "the town\\'s council"
    write(path, rows)
    read = read_annotations(path)
    assert read[0]["summary"] == "the town's council" and read[1:] == rows[1:]
    result = measured(read, settings_with("en", 100, "none"))
    assert (result["n"], result["articles"], result["resamples"]) == (48, 12, 100)
    assert list(result["published"]) == ["rouge1", "entailment"]  # a constant ranks nothing
    by_faithful = [[each["rouge1"] for each in rows], [each["faithful"] for each in rows]]
    assert result["published"]["rouge1"]["faithful"]["value"] == pytest.approx(
        spearmanr(*by_faithful).statistic
    )
    assert result["published_with_document"]["rouge1"]["n"] == 24
    assert (result["reference"]["rouge1"]["n"], result["reference"]["rouge1"]["articles"]) == (20, 5)
    assert {"rouge1", "meteor", "bertscore"} < set(result["reference"])
    assert {"novel_1", "coverage", "compression"} < set(result["document"]) <= set(OF_ARTICLE)
    assert "entailment" not in result["document"]
    shown = table(result)
    assert "| ROUGE-1 | published | 48 (12) |" in shown and "| METEOR | this repository | 20 (5) |" in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"faithful": 1.5}, "'faithful': expected a number from 0 to 1, found 1.5"),
        ({"entailment": None}, "'entailment': expected a number from 0 to 1, found None"),
        ({"factual": True}, "'factual': expected a number"),
        ({"summary": " "}, "'summary': expected a text, found ' '"),
        ({"document": 3}, "'document': expected a text or null, found 3"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, change, message):
    path = tmp_path / "a.jsonl"
    write(path, [row(0), row(1, **change)])
    with pytest.raises(UserError, match=f"a.jsonl, line 2: {message}"):
        read_annotations(path)


def test_a_file_that_is_not_one_of_annotations_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    for text, message in (("", "empty"), ("{\n", "line 1: not valid JSON"), ("[1]\n", "found list")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_annotations(path)
    with pytest.raises(UserError, match="not a file of annotations"):
        read_annotations(tmp_path / "nowhere.jsonl")
    missing = row(0)
    del missing["rouge1"]
    write(path, [missing])
    with pytest.raises(UserError, match=r"'rouge1': .*found 'no such key'"):
        read_annotations(path)


@pytest.mark.skipif(not ANNOTATIONS.is_file(), reason="the annotations are not on this machine")
def test_the_committed_numbers_are_those_of_the_data_and_of_the_paper():
    rows = read_annotations(ANNOTATIONS)
    assert (len(rows), len({each["id"] for each in rows})) == (1_992, 498)
    for group, key, origin in GROUPS:
        kept = [each for each in rows if key is None or each[key]]
        if origin != "published":
            continue
        for name in PUBLISHED:
            entry = COMMITTED[group][name]
            assert entry["n"] == len(kept)
            for kind in JUDGED:
                rho = spearmanr([each[name] for each in kept], [each[kind] for each in kept]).statistic
                assert entry[kind]["value"] == pytest.approx(rho, abs=1e-4)
                assert entry[kind]["low"] < entry[kind]["value"] < entry[kind]["high"]
    for name, published in ELSEWHERE.items():
        values = [COMMITTED["published"][name][kind]["value"] for kind in JUDGED]
        assert values == pytest.approx(published, abs=6e-4)
    # The same metric on the same rows, computed here and published.
    ours, theirs = (COMMITTED[group]["rouge1"] for group in ("reference", "published_with_reference"))
    assert ours["n"] == theirs["n"] == 244
    assert ours["faithful"]["value"] == pytest.approx(theirs["faithful"]["value"], abs=0.03)
    kept = [each for each in rows if each["document"]]
    columns = {name: np.array([each[name] for each in kept]) for name in ("rouge1",)}
    judged = {"faithful": np.array([each["faithful"] for each in kept])}
    again = ranked(columns, judged, [each["id"] for each in kept], COMMITTED["resamples"], 0.95)
    expected = COMMITTED["published_with_document"]["rouge1"]["faithful"]
    assert again["rouge1"]["faithful"] == pytest.approx(expected, abs=1e-4)


def test_the_page_shows_the_committed_numbers():
    page = (ROOT / "docs/evaluation.md").read_text()
    block = page.partition(START)[2].partition(END)[0]
    assert block == table(COMMITTED)
    rows = block.splitlines()[2:]
    assert len(rows) > 20 and not any(one == other != "" for one, other in pairwise(rows))
    # What the page says of the numbers.
    best = max(abs(entry["faithful"]["value"]) for entry in COMMITTED["published"].values())
    assert best**2 < 1 / 5 and "less than a fifth of the variance" in page
    novel, judged = (
        COMMITTED[group][name]["faithful"]["value"]
        for group, name in (("document", "novel_1"), ("published_with_document", "entailment"))
    )
    said = " ".join(page.split())
    assert -novel >= judged and "ranks *faithful* about as well as the published entailment" in said
    factual = COMMITTED["document"]["novel_1"]["factual"]
    assert factual["low"] < 0 < factual["high"] and "It says little about *factual*" in said
