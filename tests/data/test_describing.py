"""Lengths, novelty, groups and near-duplicates, by hand."""

import numpy as np
import pytest

from onesentence.core.pool import Pool
from onesentence.core.text import novel_ngram_share, words
from onesentence.data import describing
from onesentence.data.describing import NGRAMS, Description, group_sizes, novel_share, parts, quantiles
from onesentence.data.near_duplicates import save_index
from onesentence.data.rows import Example, RowWriter, encode


@pytest.fixture
def stored(tmp_path):
    """Writes rows to a file of their own."""

    def write(rows: list[Example]):
        writer = RowWriter(tmp_path / str(len(list(tmp_path.iterdir()))))
        blobs = [encode(row) for row in rows]
        writer.extend(b"".join(blobs), np.array([len(blob) for blob in blobs], dtype=np.uint32))
        return writer.close()

    return write


@pytest.fixture
def describe(stored):
    """The description of rows."""

    def values(rows: list[Example]) -> dict:
        description = Description()
        for _, part in parts(stored(rows), Pool(1), "test"):
            description.add(part)
        return description.values()

    return values


@pytest.fixture
def near_duplicate_percent(stored, tmp_path):
    """Percent of held-out rows that have a near-duplicate among the training rows."""

    def percent(train: list[Example], held_out: list[Example]) -> float:
        index = tmp_path / f"index of {len(list(tmp_path.iterdir()))}"
        found = [part for _, part in parts(stored(held_out), Pool(1), "test")]
        save_index(index, *([row for part in found for row in getattr(part, name)] for name in HASHES))
        duplicates = {row for _, part in parts(stored(train), Pool(1), "test", index) for row in part.matches}
        return 100 * len(duplicates) / len(held_out)

    return percent


HASHES = ("bodies", "summaries")


def test_group_sizes_by_hand():
    assert group_sizes(np.array([0, 0, 5, 0, 2, 5])) == {"groups": 3, "largest_group": 3}
    assert group_sizes(np.array([7, 3, 9, 1])) == {"groups": 4, "largest_group": 1}


def test_very_long_and_very_short_documents_are_described(describe):
    long = Example("long", "word " * 100_000, "A summary of it")
    short = Example("short", "word", "Another one")
    description = describe([long, short])
    lengths = description["document_words"]
    assert (lengths["p0"], lengths["p100"]) == (1, 100_000)
    assert description["novel_ngrams_percent"]["1"] == 100


def test_quantiles_are_lengths_that_occur():
    # Of 20 lengths, the least length that 5 % (25 %, ...) of them do not exceed.
    assert quantiles(np.array([10 * i for i in range(20, 0, -1)])) == {
        "p0": 10,
        "p5": 10,
        "p25": 50,
        "p50": 100,
        "p75": 150,
        "p95": 190,
        "p100": 200,
    }
    assert set(quantiles(np.array([7])).values()) == {7}


def test_describe_by_hand(describe):
    rows = [
        # 1-grams: x of {a, b, x}; 2-grams: b-x of {a-b, b-x}; 3-grams: a-b-x alone; no 4-gram.
        Example("1", "a b c d", "A b x."),
        # 1-grams: none of {c, d, e, f}; 2-grams: d-e of three does not occur; 3-grams: both; the 4-gram.
        Example("2", "c d. f! e f", "c d e f"),
    ]
    description = describe(rows)
    assert description["novel_ngrams_percent"] == pytest.approx(
        {
            "1": 100 * (1 / 3 + 0) / 2,
            "2": 100 * (1 / 2 + 1 / 3) / 2,
            "3": 100 * (1 + 1) / 2,
            "4": 100,  # of the one summary that has a 4-gram
        }
    )
    assert description["document_words"] == {
        "p0": 4,
        "p5": 4,
        "p25": 4,
        "p50": 4,
        "p75": 5,
        "p95": 5,
        "p100": 5,
    }
    assert description["summary_words"]["p0"] == 3 and description["summary_words"]["p100"] == 4


def test_describe_counts_novelty_without_the_heading_and_null_without_ngrams(describe):
    row = Example("1", "other text", "name", heading="def name(x)")
    assert describe([row])["document_words"]["p50"] == 5  # of the whole article
    assert describe([row])["novel_ngrams_percent"] == {
        "1": 100,
        "2": None,
        "3": None,
        "4": None,
    }
    assert describe([Example("1", "name", "name")])["novel_ngrams_percent"]["1"] == 0


def test_near_duplicate_percent_counts_held_out_rows_once(near_duplicate_percent):
    def numbered(start: int, stop: int) -> str:
        return " ".join(f"w{i}" for i in range(start, stop))

    train = [
        Example("1", numbered(0, 60), "one of a kind"),
        Example("2", numbered(3, 63), "two of a pair"),
        Example("3", numbered(500, 560), "a summary that occurs in both splits"),
    ]
    held_out = [
        Example("a", numbered(5, 65), "body like rows 1 and 2"),
        Example("b", numbered(700, 760), "a summary that occurs in both splits"),
        Example("c", numbered(800, 860), "nothing like it anywhere"),
        Example("d", numbered(40, 100), "too little in common"),
    ]
    assert near_duplicate_percent(train, held_out) == 50
    assert near_duplicate_percent([], held_out) == 0
    assert near_duplicate_percent(held_out, held_out[:1]) == 100


def test_novelty_is_of_the_first_rows_alone(describe, monkeypatch):
    monkeypatch.setattr(describing, "NOVELTY_ROWS", 300)  # more than a chunk
    copied = [Example(str(i), "a b c", "a b") for i in range(300)]
    assert describe(copied)["novel_ngrams_percent"]["1"] == 0
    assert describe([*copied, Example("new", "a b c", "x y")])["novel_ngrams_percent"]["1"] == 0
    assert describe([Example("new", "a b c", "x y"), *copied])["novel_ngrams_percent"]["1"] == pytest.approx(
        100 / 300
    )


def test_novel_shares_are_those_of_the_whole_texts(pairs):
    for pair in pairs[:150]:
        for n in NGRAMS:
            expected = novel_ngram_share(pair["document"], pair["summary"], n)
            share = novel_share(words(pair["document"]), words(pair["summary"]), n)
            assert np.isnan(share) if expected is None else share == expected
