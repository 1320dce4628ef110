"""The likely cause of a difference, from what differs; and an error that a person can read."""

from dataclasses import replace

import pytest

from onesentence.core.params import Generate
from onesentence.core.prompts import Frame
from onesentence.export.engines import Written
from onesentence.export.folder import Exported
from onesentence.export.proof import Article, failure, first_difference, likely_cause

EXPORTED = Exported(
    "merged", Frame("a", "b"), 352, Generate(24, 4, 1.0, 3, 8192), "float32", "none", "base", None, 1.0
)


def article(name="x", prompt=(1, 2), found=(1, 2), text="An output.", stopped=True) -> Article:
    written = Written(list(found), [5], text, stopped, "ok")
    return Article(name, list(prompt), "An output.", True, written)


DIFFERENT, OTHER_PROMPT = article(text="Another."), article("y", found=(1, 3))
ROUNDED = replace(EXPORTED, dtype="bfloat16", kept=0.031)


@pytest.mark.parametrize(
    ("exported", "articles", "decoding", "words"),
    [
        (EXPORTED, [article(), OTHER_PROMPT], {}, "1 of 2 prompts have other token ids (y: token 1"),
        (EXPORTED, [DIFFERENT], {"num_beams": (4, 1)}, "decoding: .* (num_beams is 1, was 4)"),
        (EXPORTED, [article(stopped=False)], {}, "EOS: 0% of the outputs end by EOS, 100% did"),
        (ROUNDED, [DIFFERENT], {}, "bfloat16 kept 3.1% of the update"),
        (replace(EXPORTED, quantization="int8"), [DIFFERENT], {}, "int8 rounds them"),
        (EXPORTED, [DIFFERENT], {}, "the engine: prompts, settings and EOS are equal"),
    ],
)  # fmt: skip
def test_the_likely_cause(exported, articles, decoding, words):
    start, _, end = words.partition(".* ")
    cause = likely_cause(exported, articles, decoding)
    assert start in cause and end in cause


def test_the_first_difference_of_two_prompts():
    assert first_difference([1, 2, 3], [1, 5, 3]) == "token 1 is 5, expected 2"
    assert first_difference([1, 2, 3], [1, 2]) == "2 tokens, expected 3"


def result(verdict, low=-1.0, high=-0.5) -> dict:
    test = {"verdict": verdict, "value": -0.7, "low": low, "high": high, "margin": 0.3, "confidence": 0.9}
    return {
        "target": "merged", "engine": "transformers 5", "n": 4, "prompts_that_differ": 0, "equivalence": test,
    }  # fmt: skip


def test_an_equivalent_export_has_no_failure():
    assert failure(EXPORTED, [DIFFERENT], result("equivalent"), {}) is None


def test_a_failure_names_interval_counts_the_first_outputs_and_the_cause():
    articles = [
        article(),
        replace(DIFFERENT, id="first"),
        article("second", text="\x1b[31mred\n" + "x" * 500),
    ]
    lines = failure(EXPORTED, [*articles, replace(DIFFERENT, id="third")], result("different"), {}).split(
        "\n"
    )
    assert "different, ROUGE-1 -0.70 (90% interval [-1.00, -0.50], export.margin 0.3)" in lines[0]
    assert lines[1].strip() == "prompts that differ: 0 of 4; outputs that differ: 3"
    assert lines[2].strip() == "first: measured 'An output.', exported 'Another.'"
    assert "\x1b" not in lines[3] and len(lines[3]) < 300 and "third" not in "".join(lines)
    assert lines[4].strip().startswith("likely cause: the engine: ")


def test_an_undecided_test_says_what_would_decide_it():
    text = failure(EXPORTED, [DIFFERENT], result("undecided", None, None), {})
    assert "too few clusters for an interval" in text and "more articles (data.test_size) could" in text
    # An end of the margin is inside the interval: a larger margin would decide. Otherwise articles are few.
    for low, high, margin in ((-0.5, 0.1, True), (-0.01, 0.0, False), (0.0, 0.0, False), (-5.0, -4.0, False)):
        text = failure(EXPORTED, [DIFFERENT], result("undecided", low, high), {})
        assert ("or a larger margin could decide" in text) == margin
