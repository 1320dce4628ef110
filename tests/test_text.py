"""Words, sentences and n-grams against values worked out by hand."""

import pytest

from stages.common.text import body_of, first_sentence, novel_ngram_share, sentences, without_heading, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat sat.", ["the", "cat", "sat"]),
        ("snake_case and 3.5", ["snake_case", "and", "3", "5"]),
        ("Don't", ["don", "t"]),
        ("caf\u00e9 au lait", ["caf\u00e9", "au", "lait"]),
        (
            "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
            ["\u05e9\u05dc\u05d5\u05dd", "\u05e2\u05d5\u05dc\u05dd"],
        ),
        ("ok \U0001f600\U0001f600 ok", ["ok", "\U0001f600", "\U0001f600", "ok"]),
        ("", []),
        (" .,;!? \n\t", []),
    ],
)
def test_words_are_folded_runs_of_letters_and_digits_of_any_script(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("No full stop here", ["No full stop here"]),
        ("It is 3.5 metres. Next.", ["It is 3.5 metres.", "Next."]),
        ("See numpy.linalg for this. Done.", ["See numpy.linalg for this.", "Done."]),
        # A lower-case word cannot start a sentence.
        ("He paid approx. five. then left.", ["He paid approx. five. then left."]),
        ("Use `x`. `y` is next.", ["Use `x`.", "`y` is next."]),
        ("Wrapped over\nthree\nlines. Next one.", ["Wrapped over three lines.", "Next one."]),
    ],
)
def test_sentences_end_at_a_stop_before_something_that_can_start_one(text, expected):
    assert sentences(text, "en") == expected


@pytest.mark.parametrize(
    "text",
    [
        "Ask Mr. Jones about it.",
        "Many metals, e.g. Iron, rust.",
        "Compare i.e. Other things, cf. The paper, vs. Nothing.",
        "See Fig. 3 and Sec. 4 of Smith et al. Again.",
        "The U.S. Senate met.",
        "Written by J. R. Smith and A. Jones.",
        "It began on Jan. 3 this year.",
    ],
)
def test_abbreviations_and_initials_end_no_sentence(text):
    assert sentences(text, "en") == [text]


def test_an_abbreviation_at_the_end_of_the_text_ends_the_last_sentence():
    assert sentences("First. We sell apples, pears etc.", "en") == ["First.", "We sell apples, pears etc."]
    assert sentences("Apples, pears etc.\n\nNext.", "en") == ["Apples, pears etc.", "Next."]


def test_a_blank_line_ends_a_sentence_and_white_space_is_folded():
    text = "A title without a stop\n\nThe   first\n sentence. The\tsecond.\n  \n\n\nLast"
    assert sentences(text, "en") == ["A title without a stop", "The first sentence.", "The second.", "Last"]


def test_quotes_and_brackets_stay_with_their_sentence():
    assert sentences('He said "Stop." Then he left.', "en") == ['He said "Stop."', "Then he left."]
    assert sentences("It rained. (It often does.) We left.", "en") == [
        "It rained.",
        "(It often does.)",
        "We left.",
    ]
    assert sentences('Go! "Why?" she asked.', "en") == ["Go!", '"Why?" she asked.']


@pytest.mark.parametrize("text", ["", " ", "\n\n \t\n"])
def test_empty_text_has_no_sentence(text):
    assert sentences(text, "en") == []
    assert first_sentence(text, "en") == ""


def test_emoji_and_right_to_left_text_lose_nothing():
    emoji = "It works \U0001f600. It does not \U0001f622! End."
    assert sentences(emoji, "en") == ["It works \U0001f600.", "It does not \U0001f622!", "End."]
    hebrew = "\u05d6\u05d4 \u05d8\u05e7\u05e1\u05d8. \u05d5\u05e2\u05d5\u05d3 \u05d0\u05d7\u05d3."
    assert " ".join(sentences(hebrew, "en")) == hebrew


@pytest.mark.parametrize(
    "text",
    ["One. Two\n\nThree! (Four.) J. Doe etc. five? \U0001f600 Six.", "x" * 50, "A.B.C. D! E?", "... . ."],
)
def test_sentences_put_together_are_the_text(text):
    assert " ".join(sentences(text, "en")).split() == text.split()


def test_first_sentence_is_the_first_of_all():
    assert first_sentence("\n\n One thing. Another.", "en") == "One thing."


def test_novel_ngram_share_by_hand():
    document, summary = "the cat sat on the mat", "the cat ate the mat"
    # 1-grams {the, cat, ate, mat}: "ate" is new. 2-grams the-cat, cat-ate, ate-the, the-mat: the two in the
    # middle are new. 3-grams: all three hold "ate".
    assert novel_ngram_share(document, summary, 1) == 1 / 4
    assert novel_ngram_share(document, summary, 2) == 2 / 4
    assert novel_ngram_share(document, summary, 3) == 1.0
    assert novel_ngram_share(document, summary, 5) == 1.0


def test_novel_ngrams_are_distinct_and_ignore_case_and_punctuation():
    # {new, old}: three times "new" counts once.
    assert novel_ngram_share("Old.", "new NEW new, old", 1) == 1 / 2
    assert novel_ngram_share("A b, c", "a B; C", 3) == 0.0


def test_novel_ngram_share_is_none_where_the_summary_is_too_short():
    assert novel_ngram_share("a b c", "a b", 3) is None
    assert novel_ngram_share("a b c", "", 1) is None
    assert novel_ngram_share("", "a b", 2) == 1.0


def test_only_documents_of_docstrings_have_a_heading_to_drop():
    document = "def f(x)\n\nFirst paragraph.\n\nSecond."
    assert without_heading(document) == "First paragraph.\n\nSecond."
    assert body_of(document, "docstrings") == "First paragraph.\n\nSecond."
    assert body_of(document, "local") == document
    assert body_of(document, "EdinburghNLP/xsum") == document
    assert body_of("no blank line", "docstrings") == ""
