"""Cleaning: which rows are dropped and for which reason, on rows written here."""

import tempfile
import tracemalloc
from pathlib import Path

from benchmarks import data
from onesentence.core.params import SPLITS
from onesentence.core.pool import Pool
from onesentence.data.checking import Chunk, Rules
from onesentence.data.cleaning import clean, read_rows
from onesentence.data.rows import Example
from onesentence.data.sources import Source


def cleaned(grouped: bool = False, **splits: list[Example]):
    """What `clean` keeps of lists by split, and plain dicts of its counts."""
    streams = {split: [Chunk(split, examples=splits.get(split, []))] for split in SPLITS}
    with tempfile.TemporaryDirectory() as folder:
        rows = read_rows(Source(streams, Rules("", "", None)), Pool(1), "en", Path(folder) / "rows")
        kept, counts = clean(rows, grouped)
        examples = {split: list(rows.stored.take(kept[split])) for split in SPLITS}
    return examples, {split: dict(count) for split, count in counts.items()}


def test_good_rows_are_kept_in_order():
    rows = [Example(str(i), f"Document {i}. More of it.", f"Summary {i}") for i in range(5)]
    kept, counts = cleaned(train=rows[:3], validation=rows[3:4], test=rows[4:])
    assert kept == {"train": rows[:3], "validation": rows[3:4], "test": rows[4:]}
    assert counts == {"train": {"read": 3}, "validation": {"read": 1}, "test": {"read": 1}}


def test_each_reason_drops_and_counts():
    rows = [
        Example("1", "A document. More.", "Kept"),
        Example("2", " \n", "No document"),
        Example("3", "No summary", "\t"),
        Example("4", "A  document.\nMore.", "The same document up to white space"),
        Example("5", "First sentence here. The rest.", "first sentence, HERE"),
        Example("6", "It is in test. More.", "Other"),
    ]
    test = [Example("t", "It is in test. More.", "Held out")]
    kept, counts = cleaned(train=rows, test=test)
    assert [row.id for row in kept["train"]] == ["1"] and kept["test"] == test
    assert counts["train"] == {
        "read": 6,
        "empty document or summary": 2,
        "duplicate document": 1,
        "summary is the document's first sentence": 1,
        "document is in another split": 1,
    }
    assert counts["test"] == {"read": 1}


def test_of_equal_documents_the_most_held_out_one_stays():
    text = "The same. In all."
    kept, counts = cleaned(
        train=[Example("a", text, "s")],
        validation=[Example("b", text, "s"), Example("c", text, "s")],
        test=[Example("d", text, "s")],
    )
    assert {split: [row.id for row in rows] for split, rows in kept.items()} == {
        "train": [],
        "validation": [],
        "test": ["d"],
    }
    assert counts["validation"] == {"read": 2, "document is in another split": 2}
    kept, counts = cleaned(
        train=[Example("a", text, "s")], validation=[Example("b", text, "s"), Example("c", text, "s")]
    )
    assert [row.id for row in kept["validation"]] == ["b"] and not kept["train"]
    assert counts["validation"] == {"read": 2, "duplicate document": 1}


def test_rows_of_a_group_in_a_more_held_out_split_are_dropped_and_counted():
    def row(name: str, group: str, summary: str = "s") -> Example:
        return Example(name, f"Document {name}. More of it.", summary, group)

    splits = {
        "train": [row("1", "A"), row("2", "B"), row("3", "C"), row("4", "D"), row("5", "A")],
        "validation": [row("6", "B"), row("7", "C")],
        # D's only row in test is dropped for another reason, so that D is not in test.
        "test": [row("8", "C"), row("9", "D", "document 9"), row("10", "E")],
    }
    kept, counts = cleaned(grouped=True, **splits)
    assert {split: [r.id for r in rows] for split, rows in kept.items()} == {
        "train": ["1", "4", "5"],  # B is in validation, C in test
        "validation": ["6"],
        "test": ["8", "10"],
    }
    assert counts["train"]["group is in another split"] == 2
    assert counts["validation"]["group is in another split"] == 1
    assert "group is in another split" not in counts["test"]
    # Without a group column every row stays: docstrings of one file may be in two splits.
    kept, _ = cleaned(**splits)
    assert len(kept["train"]) == 5 and len(kept["validation"]) == 2


def test_a_repeated_row_is_dropped_and_counted():
    one = Example("same", "One text. More.", "s")
    kept, counts = cleaned(train=[one, one])
    assert kept["train"] == [one] and counts["train"]["duplicate document"] == 1


def test_the_heading_of_a_docstring_is_not_its_first_sentence():
    row = Example("1", "Return it. More.", "Return it.", heading="def f(x)")
    assert cleaned(train=[row])[0]["train"] == []
    row = Example("1", "def f(x)\n\nReturn it. More.", "Return it.")
    assert cleaned(train=[row])[0]["train"] == [row]


def test_very_long_and_very_short_documents_pass():
    long = Example("long", "word " * 100_000, "A summary of it")
    short = Example("short", "word", "Another one")
    assert cleaned(train=[long, short])[0]["train"] == [long, short]


def test_memory_holds_places_and_digests_of_rows_but_no_texts(tmp_path):
    """What grows with the rows, counted in bytes: of four times as many rows, less what is always there."""

    def peak(count: int) -> int:
        def stream(split: str):
            for start in range(0, count, 200):
                rows = [
                    Example(
                        f"{split} {i}", f"Document {i} of {split}. {'Much more of it. ' * 20}", f"Summary {i}"
                    )
                    for i in range(start, start + 200)
                ]
                yield Chunk(split, examples=rows)

        source = Source({split: stream(split) for split in SPLITS}, Rules("", "", None))
        tracemalloc.start()
        rows = read_rows(source, Pool(1), "en", tmp_path / str(count))
        kept, _ = clean(rows, grouped=True)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert all(len(indices) == count for indices in kept.values())
        return most

    small, large = peak(1_000), peak(4_000)
    grown = (large - small) / (len(SPLITS) * 3_000)
    assert grown < 120, f"{grown:.0f} bytes a row; its text alone has 360"


def test_simulated_rows_are_all_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SIMULATED_HELD_OUT", 300)
    source = data.simulated(2_000)
    rows = read_rows(source, Pool(1), "en", tmp_path / "rows")
    cleaned, _ = clean(rows)
    assert [len(cleaned[split]) for split in SPLITS] == [1_400, 300, 300]
    texts = {row.document for row in rows.stored}
    assert len(texts) == 2_000 and all(len(text.split()) == 12 for text in texts)
