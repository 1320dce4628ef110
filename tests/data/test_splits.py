"""A docstring's row gets the split of its file; near-duplicates get one split."""

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from scipy import stats

from onesentence.data.docstrings import DocumentedObject
from onesentence.data.splits import TEST_SHARE, VALIDATION_SHARE, side_of_file, split_docstrings

REPO = Path(__file__).parents[2]
NAMES = [f"dist/package/module_{i}.py" for i in range(10_000)]


def test_the_shares_of_files_are_as_configured():
    counts = Counter(side_of_file(name) for name in NAMES)
    expected = {
        "test": TEST_SHARE,
        "validation": VALIDATION_SHARE,
        "train": 1 - TEST_SHARE - VALIDATION_SHARE,
    }
    assert set(counts) == set(expected)
    p = stats.chisquare([counts[k] for k in expected], [len(NAMES) * v for v in expected.values()]).pvalue
    assert p > 0.001


def test_the_side_of_a_file_is_the_same_in_every_process():
    program = (
        "import random, sys\nrandom.seed(int(sys.argv[1]))\n"
        "from onesentence.data.splits import side_of_file\n"
        "print(' '.join(side_of_file(f'dist/package/module_{i}.py') for i in range(200)))"
    )
    for seed in ("0", "7"):
        result = subprocess.run(
            [sys.executable, "-c", program, seed],
            env={**os.environ, "PYTHONPATH": str(REPO), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.split() == [side_of_file(name) for name in NAMES[:200]]


def files_of(side: str, count: int = 1) -> list[str]:
    return [name for name in NAMES if side_of_file(name) == side][:count]


TRAIN, VALIDATION, TEST = (files_of(side)[0] for side in ("train", "validation", "test"))


def text(start: int, stop: int) -> str:
    """Distinct words, so that overlaps are easy to count."""
    return " ".join(f"w{i}" for i in range(start, stop))


def entry(file: str, name: str, body: str, summary: str | None = None) -> DocumentedObject:
    summary = summary or f"About {name} and {name}x and {name}y."
    return DocumentedObject(file, f"package.{name}", f"def package.{name}()", f"{summary}\n\n{body}")


def splits_of(entries: list[DocumentedObject]) -> dict[str, str]:
    rows, _ = split_docstrings(entries)
    return {row.id.split(".")[-1]: row.split for row in rows}


def test_a_row_without_near_duplicates_is_on_the_side_of_its_file():
    entries = [
        entry(TRAIN, "a", text(0, 60)),
        entry(VALIDATION, "b", text(100, 160)),
        entry(TEST, "c", text(200, 260)),
    ]
    assert splits_of(entries) == {"a": "train", "b": "validation", "c": "test"}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("left", "right", "side"),
    [(TRAIN, TEST, "train"), (TRAIN, VALIDATION, "train"), (VALIDATION, TEST, "validation")],
)
def test_near_duplicates_go_to_the_split_nearest_to_training(left, right, side, reverse):
    entries = [
        entry(left, "a", text(0, 60)),
        entry(right, "b", text(5, 65)),
        entry(TEST, "c", text(200, 260)),
    ]
    assert splits_of(entries[::-1] if reverse else entries) == {"a": side, "b": side, "c": "test"}


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (0, 2, 1)])
def test_chains_of_near_duplicates_go_to_one_split(order):
    # Windows of 60 words (56 5-grams) shifted by 15: neighbors share 41 of 71 (0.58), ends 26 of 86 (0.30).
    chain = [
        entry(TEST, "a", text(0, 60)),
        entry(VALIDATION, "b", text(15, 75)),
        entry(TRAIN, "c", text(30, 90)),
    ]
    assert splits_of([chain[0], chain[2]]) == {"a": "test", "c": "train"}
    assert splits_of([chain[i] for i in order]) == {"a": "train", "b": "train", "c": "train"}


def test_a_near_duplicate_summary_alone_links_rows():
    summary = "Return the largest of all the values that were given."
    entries = [entry(TRAIN, "a", text(0, 60), summary), entry(TEST, "b", text(100, 160), summary)]
    assert splits_of(entries) == {"a": "train", "b": "train"}


def test_exact_repeats_and_names_defined_again_are_dropped_and_counted():
    entries = [
        entry(TEST, "a", text(0, 60), "Return the first thing."),
        entry(TEST, "b", text(0, 60), "Return the first thing."),
        entry(TRAIN, "c", text(0, 60), "Return the first thing."),
        entry(TEST, "a", text(100, 160), "Something else than before."),
        entry(TEST, "d", "short body"),
        DocumentedObject(TEST, "package.e", "def package.e()", "One line only."),
    ]
    rows, dropped = split_docstrings(entries)
    assert [row.id for row in rows] == ["dist:package.a"]
    assert dropped == {
        "same body and summary as an earlier entry": 2,
        "name defined again (overload, branch)": 1,
        "body outside 12 to 5000 words": 1,
        "docstring of one line": 1,
    }


def test_the_same_name_in_two_distributions_makes_two_ids():
    other = TEST.replace("dist/", "other/")
    rows, dropped = split_docstrings(
        [entry(TEST, "a", text(0, 60)), entry(other, "a", text(100, 160), "Quite another summary.")]
    )
    assert [row.id for row in rows] == ["dist:package.a", "other:package.a"] and not dropped


def test_rows_carry_their_text_and_file():
    (row,), _ = split_docstrings([entry(TEST, "a", text(0, 20), "Return the first thing.")])
    assert (row.heading, row.document) == ("def package.a()", text(0, 20))
    assert (row.summary, row.file, row.split) == ("Return the first thing.", TEST, "test")


def grams(words: str) -> set[tuple[str, ...]]:
    tokens = words.split()
    return {tuple(tokens[i : i + 5]) for i in range(len(tokens) - 4)}


@pytest.mark.parametrize("seed", range(3))
def test_no_near_duplicate_is_left_across_sides(seed):
    rng = random.Random(seed)
    entries = []
    for i in range(150):
        start = rng.randrange(1_200)
        # Every summary has its own words, so that only bodies decide.
        entries.append(
            entry(
                rng.choice(NAMES[:60]), f"n{i}", text(start, start + rng.randint(20, 60)), f"A{i} b{i} c{i}."
            )
        )
    rows, dropped = split_docstrings(entries)
    assert not dropped and len({row.id for row in rows}) == len(rows) == 150

    sets = [grams(row.document) for row in rows]
    pairs = [
        (i, j) for i in range(150) for j in range(i) if 2 * len(sets[i] & sets[j]) > len(sets[i] | sets[j])
    ]
    assert sum(side_of_file(rows[i].file) != side_of_file(rows[j].file) for i, j in pairs) > 10
    assert all(rows[i].split == rows[j].split for i, j in pairs)
    # Rows never leave train, and a row moves only to a split that a chain of near-duplicates reaches.
    group = list(range(150))
    for i, j in pairs:
        old, new = group[i], group[j]
        group = [new if g == old else g for g in group]
    for i, row in enumerate(rows):
        sides = {side_of_file(rows[j].file) for j in range(150) if group[j] == group[i]}
        expected = next(side for side in ("train", "validation", "test") if side in sides)
        assert row.split == expected
