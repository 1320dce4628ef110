"""Scoring from Python: what is refused by name. Its numbers are those of the command (test_external.py)."""

import pytest

from onesentence.core.errors import UserError
from onesentence.evaluation.api import compare, score

TEXTS = ["The bridge was closed.", "A man was found."]


@pytest.mark.parametrize(
    ("references", "systems", "more", "message"),
    [
        (TEXTS, {"a": TEXTS}, {"language": "english"}, "language: expected a language's code of ISO 639"),
        (TEXTS, {"a-b": TEXTS}, {}, "systems: expected names without '-', found 'a-b'"),
        (TEXTS, {"": TEXTS}, {}, "systems: expected names without '-', found ''"),
        ([], {"a": []}, {}, "references: expected at least one text, found none"),
        ([TEXTS[0], "..."], {"a": TEXTS}, {}, "references[1]: has no word"),
        ([None, "b"], {"a": TEXTS}, {}, "references[0]: expected a text, found NoneType"),
        (TEXTS, {"a": [TEXTS[0], 3]}, {}, "a[1]: expected a text, found int"),
        (TEXTS, {"a": TEXTS}, {"documents": [TEXTS[0], None]}, "documents[1]: expected a text"),
        (TEXTS, {"a": TEXTS[:1]}, {}, "a: expected 2 texts, one for each reference, found 1"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(references, systems, more, message):
    with pytest.raises(UserError) as refused:
        score(references, systems, **more)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 1.5}, "confidence: expected a number between 0 and 1, found 1.5"),
        ({"confidence": 95}, "confidence: expected a number between 0 and 1, found 95"),
        ({"resamples": 0}, "resamples: expected a whole number of at least 1, found 0"),
        ({"resamples": 1e3}, "resamples: expected a whole number of at least 1, found 1000.0"),
    ],
)
def test_a_comparison_out_of_range_is_refused_by_name(options, message):
    scores = score(TEXTS, {"a": TEXTS})
    with pytest.raises(UserError) as refused:
        compare(scores, **options)
    assert str(refused.value) == message
    fewer = {**scores, **score(TEXTS[:1], {"b": TEXTS[:1]})}
    with pytest.raises(UserError, match="cannot be compared: number of articles is 2 in a and 1 in b"):
        compare(fewer)
    with pytest.raises(UserError, match="scores: expected those of at least one system, found none"):
        compare({})
