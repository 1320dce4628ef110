"""Sentences about an evaluation, and the verdict on the report page."""

import numpy as np
import pytest

from onesentence.evaluation.comparison import failure_bias
from onesentence.report.formatting import mde_text
from onesentence.report.sentences import (
    bias_sentence,
    copying_sentence,
    difference_sentence,
    family_sentence,
    resampling_sentence,
    verdict_sentences,
)

SCORE = {"value": 30.811, "low": 28.54, "high": 32.89}
GAIN = {"value": 19.41, "low": 17.26, "high": 21.42, "mde": 3.1, "p_holm": 0.015}
LOSS = {"value": -2.5, "low": -3.5, "high": -1.5, "mde": 1.0, "p_holm": 0.015}
UNCLEAR = {"value": 0.4, "low": -1.99, "high": 2.64, "mde": 3.26, "p_holm": 0.93}


def evaluation(n: int = 500, score: dict = SCORE, **differences: dict) -> dict:
    """An evaluation with the differences tuned - NAME in ROUGE-1."""
    return {
        "n": n,
        "confidence": 0.95,
        "systems": {"tuned": {"rouge1": score}},
        "comparisons": {f"tuned-{name}": {"rouge1": entry} for name, entry in differences.items()},
    }


def test_the_verdict_groups_comparisons_by_what_their_test_showed():
    assert verdict_sentences(evaluation(base=GAIN, lead=GAIN, oracle=UNCLEAR)) == [
        "The fine-tuned model scores 30.81 in ROUGE-1 on 500 articles (95% interval 28.54 to 32.89).",
        "It is significantly better than the untuned base (+19.41 points [+17.26, +21.42]) and the first "
        "sentence (lead) (+19.41 points [+17.26, +21.42]).",
        "It does not differ significantly from the extractive oracle (+0.40 points [-1.99, +2.64]; minimum "
        "detectable effect: 3.26).",
    ]


def test_the_verdict_names_what_is_better_than_the_model():
    sentences = verdict_sentences(evaluation(base=GAIN, lead=LOSS, oracle=LOSS))
    assert len(sentences) == 2
    assert sentences[1].startswith("It is significantly better than the untuned base (+19.41 points")
    assert (
        "and significantly worse than the first sentence (lead) (-2.50 points [-3.50, -1.50]) and "
        in (sentences[1])
    )


def test_the_verdict_on_one_article_claims_nothing():
    """One article gives neither an interval nor a test."""
    score = {"value": 12.0, "low": None, "high": None}
    difference = {"value": 1.0, "low": None, "high": None, "mde": None, "p_holm": None}
    undefined = dict.fromkeys(difference)
    assert verdict_sentences(evaluation(1, score, base=difference, lead=undefined)) == [
        "The fine-tuned model scores 12.00 in ROUGE-1 on 1 article.",
        "There are too few clusters of articles to test it against the untuned base (+1.00 points).",
    ]


ENTRY = {"value": 1.234, "low": 0.5, "high": 2.0, "p_holm": 0.0125, "mde": 1.1}


def test_a_gain_is_called_a_gain():
    assert difference_sentence("the new one", "the old one", ENTRY, "rouge1", "1,200 articles", 0.95) == (
        "The new one gains 1.23 points of ROUGE-1 over the old one (95% interval +0.50 to +2.00, p = 0.0125 "
        "after Holm's correction). Minimum detectable effect (MDE) of one test on 1,200 articles, at 80% "
        "power: 1.10 points."
    )


def test_a_loss_is_called_a_loss():
    entry = {**ENTRY, "value": -1.234, "low": -2.0, "high": -0.5}
    said = difference_sentence("A", "B", entry, "meteor", "1,200 articles", 0.95)
    assert said.startswith("A loses 1.23 points of METEOR against B (95% interval -2.00 to -0.50, ")


@pytest.mark.parametrize("p", [0.0501, 0.6, 1.0])
def test_a_difference_that_is_not_significant_is_not_called_none(p):
    said = difference_sentence("the a", "the b", {**ENTRY, "p_holm": p}, "rouge1", "100 articles", 0.95)
    assert said.startswith("No significant difference in ROUGE-1 between the a and the b: +1.23 points (")
    assert "on 100 articles, at 80% power: 1.10 points" in said
    assert said.endswith("a smaller true difference cannot be ruled out.")
    assert "gain" not in said and "equal" not in said


def test_an_undefined_difference_is_said_to_be_undefined():
    said = difference_sentence("A", "B", dict.fromkeys(ENTRY), "rouge1", "100 articles", 0.95)
    assert said == "A and B cannot be compared in ROUGE-1: it is undefined."


def test_too_few_resamples_are_said():
    two = {"a-b": dict.fromkeys(range(10)), "a-c": dict.fromkeys(range(10))}
    # 20 tests: the smallest p of 399 resamples is 1/400, 20/400 after correction, which is 0.05.
    assert family_sentence(two, 399, 0.95, 500) == "Holm's correction covers all 20 tests (2 comparisons)."
    said = family_sentence(two, 199, 0.95, 500)
    assert "With 199 resamples no corrected p-value can fall below 0.1000, so no difference can be" in said
    assert said.endswith("Set evaluate.resamples to at least 400.")
    assert "at least 400" not in family_sentence(two, 400, 0.95, 500)
    # 2 of the 2^8 exchanges of 8 clusters are as far from 0 as the observed one: 20 * 2^-7.
    said = family_sentence(two, 1_999, 0.95, 8)
    assert "With 8 clusters no corrected p-value can fall below 0.1562, so no difference can be" in said
    assert "clusters" not in family_sentence(two, 1_999, 0.95, 10)


@pytest.mark.parametrize(
    ("clusters", "equal", "said"),
    [
        (500, 500.0, "resample single articles and treat them as independent."),
        (100, 100.0, "resample 100 clusters (unit: file), because articles of one cluster are alike."),
        (100, 61.4, "are alike. Their sizes differ: they carry as much information as 61 clusters of"),
        (1, 1.0, "resample 1 cluster (unit: file)"),
    ],
)
def test_the_sizes_of_clusters_are_said_where_they_differ(clusters, equal, said):
    resampling = {"unit": "file", "clusters": clusters, "effective_clusters": equal}
    systems = {"tuned": {"rouge1": {"design_effect": None}}}
    text = resampling_sentence({"n": 500, "resampling": resampling, "systems": systems})
    assert said in text and ("Their sizes" in text) == (equal == 61.4)


def test_failures_that_lean_are_said_to_lean():
    lengths = np.arange(1_000, 1_200)
    said = bias_sentence("X", failure_bias(lengths < 1_150, lengths), 200)
    assert said.startswith(
        "X: 50 of 200 outputs failed (25.0%) and score 0; long articles fail significantly more "
    )
    assert "median length 1,174 words against 1,074, rank test p < 0.0001" in said
    said = bias_sentence("X", failure_bias(lengths >= 1_050, lengths), 200)
    assert "short articles fail significantly more" in said and said.endswith("would bias the scores.")


def test_failures_that_do_not_lean_none_and_all():
    lengths = np.arange(200)
    said = bias_sentence("X", failure_bias(lengths % 4 != 1, lengths), 200)
    assert "(25.0%) and score 0; failures do not depend significantly on article length (" in said
    assert bias_sentence("X", failure_bias(lengths >= 0, lengths), 200) == "X: no output failed."
    assert bias_sentence("X", failure_bias(lengths < 0, lengths), 200) == "X: every output failed."


def test_copying_is_compared_with_the_references():
    systems = {
        "tuned": {"verbatim": {"value": 70.04}, "novel_2": {"value": None}},
        "reference": {"verbatim": {"value": 0.5}, "novel_2": {"value": 83.45}},
    }
    assert copying_sentence(systems) == (
        "70.0% of the fine-tuned model's outputs copy a span of their article word for word (references: "
        "0.5%). Novel 2-grams: n/a (references: 83.5%)."
    )
    systems["tuned"]["verbatim"]["value"] = None
    assert copying_sentence(systems) == "No output of the fine-tuned model contains a word."


def test_an_mde_below_two_digits_is_not_called_zero():
    tiny = {**ENTRY, "value": 0.0009, "low": -0.001, "high": 0.003, "p_holm": 0.4, "mde": 0.0025}
    said = difference_sentence("A", "B", tiny, "rouge1", "11,334 articles", 0.95)
    assert "80% power: below 0.01 points" in said
    assert mde_text(0.005) == "0.01" and mde_text(None) == "n/a"
