"""Near-duplicates agree with brute force on sets and multisets of words, in whole numbers."""

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from onesentence.data.near_duplicates import (
    BODY_BOUND,
    SUMMARY_BOUND,
    NearDuplicates,
    OverlapIndex,
    shingles,
    summary_set,
)

REPO = Path(__file__).parents[2]


def grams(text: str) -> set[tuple[str, ...]]:
    """Word 5-grams; a text of fewer words is one n-gram (the texts here are lower-case words and blanks)."""
    tokens = text.split()
    if len(tokens) < 5:
        return {tuple(tokens)} if tokens else set()
    return {tuple(tokens[i : i + 5]) for i in range(len(tokens) - 4)}


def bodies_match(left: str, right: str) -> bool:
    """Jaccard > 1/2 without a division."""
    a, b = grams(left), grams(right)
    return 2 * len(a & b) > len(a | b)


def summaries_match(left: str, right: str) -> bool:
    """2 * overlap / (sum of lengths) > 4/5 without a division."""
    a, b = Counter(left.split()), Counter(right.split())
    return 5 * 2 * (a & b).total() > 4 * (a.total() + b.total())


def text_of(rng: random.Random, vocabulary: int, low: int, high: int) -> str:
    return " ".join(f"w{rng.randrange(vocabulary)}" for _ in range(rng.randint(low, high)))


def changed(rng: random.Random, text: str) -> str:
    """The text with a few words replaced, dropped or inserted, so that overlaps are around the bound."""
    tokens = text.split()
    for _ in range(rng.randint(0, max(1, len(tokens) // 6))):
        place = rng.randrange(len(tokens) + 1)
        tokens[place : place + rng.randint(0, 2)] = [f"w{rng.randrange(40)}"] * rng.randint(0, 2)
    return " ".join(tokens)


@pytest.mark.parametrize("seed", range(4))
def test_matches_equal_those_of_brute_force(seed):
    rng = random.Random(seed)
    rows = [(text_of(rng, 40, 0, 60), text_of(rng, 12, 0, 15)) for _ in range(40)]
    rows += [(changed(rng, body), changed(rng, summary)) for body, summary in rows]
    rows += [(changed(rng, body), text_of(rng, 30, 5, 20)) for body, _ in rows[:40]]
    rng.shuffle(rows)
    indexed, queries = rows[:90], rows
    index = NearDuplicates(*zip(*indexed, strict=True))
    matches, by_body, by_summary = 0, 0, 0
    for body, summary in queries:
        of_body = {i for i, (other, _) in enumerate(indexed) if bodies_match(body, other)}
        of_summary = {i for i, (_, other) in enumerate(indexed) if summaries_match(summary, other)}
        assert index.matches(body, summary).tolist() == sorted(of_body | of_summary)
        matches += len(of_body | of_summary)
        by_body += len(of_body - of_summary)
        by_summary += len(of_summary - of_body)
    # There were many matches, and matches by each rule alone.
    assert matches > 150 and by_body > 10 and by_summary > 10


@pytest.mark.parametrize("seed", range(3))
def test_overlap_index_on_random_sets(seed):
    rng = np.random.default_rng(seed)
    base = [rng.choice(80, size=rng.integers(1, 40), replace=False) for _ in range(60)]
    near = [np.union1d(row[: -(len(row) // 4) or None], rng.choice(80, size=2)) for row in base]
    sets = [np.unique(row).astype(np.uint64) for row in base + near]
    for numerator, denominator in ((1, 3), (2, 5)):
        index = OverlapIndex(sets, numerator / denominator)
        for row in sets:
            expected = [
                i
                for i, other in enumerate(sets)
                if denominator * len(set(row.tolist()) & set(other.tolist()))
                > numerator * (len(row) + len(other))
            ]
            assert index.matches(row).tolist() == expected


def numbered(prefix: str, count: int) -> str:
    return " ".join(f"{prefix}{i}" for i in range(count))


@pytest.mark.parametrize(("left", "right"), [(1, 1), (2, 1), (3, 3), (5, 7), (16, 16), (40, 41), (100, 3)])
def test_a_body_jaccard_of_exactly_one_half_does_not_match(left, right):
    # k + 4 distinct words make k 5-grams. Outputs with a common beginning of o + 4 words, then `left` and
    # `right` words of their own, have a Jaccard of o / (o + left + right).
    for overlap, expected in ((left + right - 1, []), (left + right, []), (left + right + 1, [0])):
        common = numbered("c", overlap + 4)
        a, b = f"{common} {numbered('a', left)}", f"{common} {numbered('b', right)}"
        index = NearDuplicates([a], [numbered("s", 5)])
        assert index.matches(b, numbered("t", 5)).tolist() == expected


@pytest.mark.parametrize(("left", "right"), [(1, 1), (1, 2), (0, 1), (3, 3), (5, 8), (16, 16), (30, 0)])
def test_a_summary_f1_of_exactly_0_8_does_not_match(left, right):
    # F1 is 2 o / (2 o + left + right): 0.8 at o = 2 (left + right).
    edge = 2 * (left + right)
    for overlap, expected in ((edge - 1, []), (edge, []), (edge + 1, [0])):
        common = numbered("c", overlap)
        a, b = f"{common} {numbered('a', left)}", f"{common} {numbered('b', right)}"
        index = NearDuplicates([numbered("x", 30)], [a])
        assert index.matches(numbered("y", 30), b).tolist() == expected


def test_summaries_are_multisets():
    # As sets these are equal; as multisets "a a a a b" and "a b b b b" share 2 of 5 words.
    index = NearDuplicates(["one"], ["a a a a b"])
    assert index.matches("two", "a b b b b").tolist() == []
    assert index.matches("two", "b a a a a").tolist() == [0]


def test_a_word_repeated_hundreds_of_times_is_counted_in_full():
    # F1 of 260 against 1,000 of the same word is 520 / 1,260 = 0.41.
    index = NearDuplicates(["one"], ["a " * 1_000])
    assert index.matches("two", "a " * 260).tolist() == []


def test_empty_texts_match_nothing():
    index = NearDuplicates(["", "a b c d e f"], ["", "p q r"])
    assert index.matches("", "").tolist() == []
    assert index.matches("...", "!").tolist() == []
    assert NearDuplicates([], []).matches("a b c d e", "f g").tolist() == []


def test_identical_texts_match_whatever_their_case_and_punctuation():
    index = NearDuplicates(["One two, three four five six."], ["A short one."])
    assert index.matches("one two three four FIVE six", "nothing of it").tolist() == [0]
    assert index.matches("nothing of it at all here", "a SHORT one").tolist() == [0]
    assert NearDuplicates(["hi"], ["yes"]).matches("Hi!", "no").tolist() == [0]


def test_shingles_are_one_for_each_distinct_5_gram_in_order():
    assert len(shingles("a b c d e f g")) == 3
    assert len(shingles("a b c d e " * 4)) == 5  # the 5 rotations
    assert len(shingles("a b c")) == 1 and len(shingles("")) == 0
    row = shingles(numbered("w", 500))
    assert row.dtype == np.uint64 and np.all(row[1:] > row[:-1]) and len(row) == 496
    # The order of the words matters.
    assert shingles("a b c d e").tolist() != shingles("e d c b a").tolist()


def test_hashes_are_the_same_in_every_process():
    text = "The same words \u00e9\u00e9 the same numbers, whatever PYTHONHASHSEED says \U0001f600"
    program = (
        "import sys\nfrom onesentence.data.near_duplicates import shingles, summary_set\n"
        "print(shingles(sys.argv[1]).tolist(), summary_set(sys.argv[1]).tolist())"
    )
    here = f"{shingles(text).tolist()} {summary_set(text).tolist()}"
    for seed in ("0", "1", "12345"):
        result = subprocess.run(
            [sys.executable, "-c", program, text],
            env={**os.environ, "PYTHONPATH": str(REPO), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.strip() == here


def test_the_bounds_are_those_of_jaccard_one_half_and_f1_0_8():
    # o / (a + b - o) = 1/2 is o = (a + b) / 3; 2 o / (a + b) = 0.8 is o = 0.4 (a + b).
    assert pytest.approx(1 / 3) == BODY_BOUND and pytest.approx(0.4) == SUMMARY_BOUND
