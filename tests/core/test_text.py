"""Words, sentences and n-grams agree with values computed by hand."""

import random
import re
import time

import pytest

from onesentence.core.text import (
    ABBREVIATIONS,
    first_sentence,
    fold,
    novel_ngram_share,
    percent,
    sentences,
    with_heading,
    word_spans,
    words,
)


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
        ("Donau\u00addampf\u2060schiff", ["donaudampfschiff"]),  # a soft hyphen and a word joiner
        ("", []),
        (" .,;!? \n\t", []),
    ],
)
def test_words_are_folded_runs_of_letters_and_digits_of_any_script(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("M\u00fcller traf B\u00e4r", ["m\u00fcller", "traf", "b\u00e4r"]),
        ("Stra\u00dfe STRASSE", ["strasse", "strasse"]),
        ("\u0130ZM\u0130R izmir", ["izmir", "izmir"]),
        ("cafe\u0301", ["caf\u00e9"]),  # a letter and its accent, as two characters
        ("\u732b\u304c\u5ea7\u308b", ["\u732b", "\u304c", "\u5ea7", "\u308b"]),
        ("\u7b2c10\u56deNHK\u676f", ["\u7b2c", "10", "\u56de", "nhk", "\u676f"]),
        ("\uff11\uff12\uff13 \uff21\uff42", ["123", "ab"]),  # full width
        ("\uff76\uff9e", ["\u30ac"]),  # a half-width kana and its mark are one word
        ("\u0e1b\u0e25\u0e32", ["\u0e1b", "\u0e25", "\u0e32"]),  # Thai
        ("\u1781\u17d2\u1798\u17c2\u179a", ["\u1781\u17d2", "\u1798\u17c2", "\u179a"]),  # Khmer
        ("\ud55c\uad6d\uc5b4 \ubb38\uc7a5", ["\ud55c\uad6d\uc5b4", "\ubb38\uc7a5"]),  # Korean has blanks
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("می\u200cخواهم", ["میخواهم"]),  # one word; its joiner is dropped
        ("ΟΔΟΣ οδός", ["οδοσ", "οδόσ"]),  # final sigma
        ("Привет, мир!", ["привет", "мир"]),
        ("It\u2019s \u00a330m \u2013 \u201cno\u201d", ["it", "s", "30m", "no"]),
        ("❤\ufe0f ❤ 🇬🇧🇫🇷", ["❤", "❤", "🇬🇧", "🇫🇷"]),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467x", ["\U0001f468\U0001f469\U0001f467", "x"]),
    ],
)  # fmt: skip
def test_words_of_every_script(text, expected):
    assert words(text) == expected
    assert [fold(text[start:end]) for start, end in word_spans(text)] == expected


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


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", ["He said \u201cno.\u201d", "They left."]),
        ("en", ["Wait\u2026", "\u2018Why?\u2019", "She left.", "(\u201cNo.\u201d)", "\u2014 Yes."]),
        ("en", ["Mr. \u00c9lan met J. Smith and \u00c9. Zola.", "\u00c9lan left.", "\u00dcber won."]),
        ("fr", ["\u00ab Non. \u00bb", "Elle partit.", "\u00c0 midi, M. Blanc vint."]),
        ("de", ["Er sagte „Nein.“", "Sie ging am 3. Oktober.", "»Doch.«", "Übrigens kam z. B. Dr. Müller."]),
        ("es", ["\u00bfQu\u00e9?", "\u00a1No!", "S\u00ed, gan\u00f3 la Sra. D\u00edaz en EE. UU. ayer."]),
        ("ru", ["В 2015 г. Пушкин ушёл.", "А. С. Пушкин!", "— Да."]),
        ("el", ["Είπε «όχι.»", "Έφυγε."]),
        ("ar", ["هل جاء؟", "نعم.", "قال د. سمير."]),
        ("ur", ["\u0648\u06c1 \u0622\u06cc\u0627\u06d4", "\u0648\u06c1 \u06af\u06cc\u0627\u06d4"]),
        ("hi", ["वह गया।", "डॉ. सिंह आए।"]),
        ("am", ["\u1230\u120b\u121d\u1362", "\u12f0\u1205\u1293\u1362"]),
        ("ko", ["\uadf8\ub294 \uac14\ub2e4.", "\uadf8\ub140\ub294 \uc654\ub2e4."]),
    ],
)  # fmt: skip
def test_sentences_of_languages_with_blanks(language, expected):
    assert sentences(" ".join(expected), language) == expected


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("zh", ["他走了。", "她来了！", "“走吧。”", "他说。", "真的？！", "3.5米……是。"]),
        ("zh", ["\u4f60\u597d\u5417?", "\u6211\u5f88\u597d."]),
        ("ja", ["彼は「行く。」と言った。", "去った｡"]),
        ("my", ["\u101e\u1030\u104a\u1001\u101b\u102e\u104b", "\u101e\u1030\u104b"]),
        ("km", ["\u1782\u17b6\u178f\u17cb\u17d4", "\u1782\u17b6\u178f\u17cb\u17d4"]),
    ],
)  # fmt: skip
def test_sentences_of_languages_without_blanks(language, expected):
    assert sentences("".join(expected), language) == expected


def test_thai_has_no_full_stop_and_a_line_is_a_sentence():
    text = "\u0e1e.\u0e28. 2563 \u0e21\u0e32\n\u0e44\u0e1b"
    assert sentences(text, "th") == ["\u0e1e.\u0e28. 2563 \u0e21\u0e32", "\u0e44\u0e1b"]


@pytest.mark.parametrize(
    "quotes",
    [
        "\u201c\u201d",
        "\u2018\u2019",
        "\u201e\u201c",
        "\u00ab\u00bb",
        "\u00bb\u00ab",
        "\u2039\u203a",
        "\u300c\u300d",
        '""',
    ],
)
def test_no_quote_makes_the_whole_article_its_first_sentence(quotes):
    article = f"He said {quotes[0]}no.{quotes[1]} They left. {quotes[0]}Why?{quotes[1]} It rained."
    assert sentences(article, "en") == [
        f"He said {quotes[0]}no.{quotes[1]}", "They left.", f"{quotes[0]}Why?{quotes[1]}", "It rained.",
    ]  # fmt: skip


def ascii_sentences(text: str) -> list[str]:
    """The sentences of English ASCII text by the rule behind the published scores."""
    end = re.compile(r"[.!?][\"')\]]*(?=\s+[\"'(\[]?[A-Z0-9`*:]|\s*$)")
    result = []
    for paragraph in re.split(r"\n\s*\n", text):
        paragraph, start = " ".join(paragraph.split()), 0
        for match in end.finditer(paragraph):
            last = paragraph[start : match.end()].rsplit(" ", 1)[-1].lstrip("\"'([")
            short = last.lower() in ABBREVIATIONS["en"] or re.fullmatch(r"[A-Z]\.", last)
            if not short or match.end() == len(paragraph):
                result.append(paragraph[start : match.end()].strip())
                start = match.end()
        result += [paragraph[start:].strip()] if paragraph[start:].strip() else []
    return result


def test_sentences_and_words_of_english_in_ascii_are_as_published():
    rng = random.Random(0)
    parts = [
        *".!?\"'()[]`*:{}-,",
        "\n",
        "\n\n",
        "...",
        "A",
        "Bob",
        "x_1",
        "etc.",
        "e.g.",
        "U.S.",
        "J.",
        "3",
        "3.5",
    ]
    for _ in range(3_000):
        text = "".join(rng.choice(parts) + rng.choice(["", " "]) for _ in range(rng.randint(0, 25)))
        assert sentences(text, "en") == ascii_sentences(text)
        assert words(text) == re.findall("[a-z0-9_]+", text.lower())


@pytest.mark.parametrize(
    "text", [".", '." ', "e.g. E ", "A", "\n", "\u3002", "\u201c", ". \u201c", "\u00e9", ".\u00bb "]
)
def test_time_grows_linearly_with_the_length_of_a_text(text):
    started = time.process_time()
    sentences(text * 20_000, "de")
    words(text * 20_000)
    assert time.process_time() - started < 1


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
def test_joined_sentences_are_the_text(text):
    assert " ".join(sentences(text, "en")).split() == text.split()


def test_a_semicolon_ends_a_sentence_only_in_greek():
    assert sentences("Τι είναι; Ήταν εδώ.", "el") == ["Τι είναι;", "Ήταν εδώ."]
    assert sentences("Τι είναι; ήταν εδώ.", "el") == ["Τι είναι; ήταν εδώ."]
    assert sentences("It is; He left.", "en") == ["It is; He left."]


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


def test_a_whole_article_is_its_heading_a_blank_line_and_its_text():
    assert (
        with_heading("def f(x)", "First paragraph.\n\nSecond.") == "def f(x)\n\nFirst paragraph.\n\nSecond."
    )
    assert with_heading("", "First paragraph.\n\nSecond.") == "First paragraph.\n\nSecond."


@pytest.mark.parametrize(
    ("share", "text"), [(0.95, "95%"), (0.9, "90%"), (0.975, "97.5%"), (0.999, "99.9%"), (1 / 3, "33.3333%")]
)
def test_a_percentage_has_the_digits_of_the_share(share, text):
    assert percent(share) == text
