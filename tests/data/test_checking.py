"""Rows as `prepare` checks them: what counts as empty, and which spellings are one text."""

import pytest

from onesentence.data.checking import COPIED, EMPTY, _flags, side, text_digest
from onesentence.data.rows import Example


@pytest.mark.parametrize("text", ["", " \n", "...", "\u200b", "\u2014 \u2014", "\u0301"])
@pytest.mark.parametrize("column", ["document", "summary"])
def test_a_text_without_a_word_is_empty(text, column):
    row = Example(**{"id": "a", "document": "A text.", "summary": "Some words.", column: text})
    assert _flags(row, "en") == EMPTY


def test_a_text_with_a_word_of_any_script_is_not_empty():
    for text in ("7", "\u4e2d", "\U0001f600", "a"):
        assert _flags(Example("a", "A text.", text), "en") == 0
    assert _flags(Example("a", "A text. More.", "A text."), "en") == COPIED


@pytest.mark.parametrize(
    "other", ["caf\u00e9  bar", " caf\u00e9\r\nbar ", "cafe\u0301 bar", "caf\u00e9\u00a0bar"]
)
def test_spellings_of_one_text_are_one(other):
    assert text_digest(other) == text_digest("caf\u00e9 bar") != text_digest("cafe bar")
    assert side(other) == side("caf\u00e9 bar")
