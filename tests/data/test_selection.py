"""Subsets nest and are as likely as each other; the most novel half by hand."""

from pathlib import Path

import numpy as np
import pytest

from onesentence.core.errors import UserError
from onesentence.core.params import SPLITS
from onesentence.core.pool import Pool
from onesentence.data.rows import Example, RowWriter, StoredRows, encode
from onesentence.data.selection import in_chunks, most_novel_half, subset


def stored(folder: Path, rows: list[Example]) -> StoredRows:
    writer = RowWriter(folder / "rows")
    blobs = [encode(row) for row in rows]
    writer.extend(b"".join(blobs), np.array([len(blob) for blob in blobs], dtype=np.uint32))
    return writer.close()


def test_the_most_novel_half_by_hand(tmp_path):
    document = "The bridge over the river was closed."
    summaries = {
        "copy": "The bridge over the river",  # every 2-gram is the document's
        "half": "bridge over a river",  # 1 of 3 is
        "new": "Crossing shut",
        "word": "Shut",  # has no 2-gram, and its word is new
        "name": "Bridge",  # nor has this, and the document has its word
        "most": "The bridge is shut",  # 1 of 3 is
    }
    rows = [Example(name, document, summary) for name, summary in summaries.items()]
    names, on_disk = list(summaries), stored(tmp_path, rows)

    def half(count: int) -> list[str]:
        return [names[row] for row in most_novel_half(np.arange(count), on_disk, Pool(1))]

    assert half(6) == ["half", "new", "word"]  # order kept
    assert half(2) == ["half"]
    assert half(0) == []


def rows_of(count: int) -> np.ndarray:
    return 7 * np.arange(count)  # indices of rows, of which cleaning dropped some


@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize("split", SPLITS)
def test_subsets_nest_and_all_is_a_permutation(seed, split):
    rows = rows_of(200)
    everything = subset(rows, None, seed, split)
    assert sorted(everything) == rows.tolist() and everything.tolist() != rows.tolist()
    for size in (1, 7, 100, 199, 200):
        assert subset(rows, size, seed, split).tolist() == everything[:size].tolist()


def test_subsets_differ_by_seed_and_by_split_and_repeat():
    rows = rows_of(100)
    orders = [subset(rows, None, seed, split).tolist() for seed in (0, 1, 2) for split in SPLITS]
    assert len({tuple(order) for order in orders}) == 9
    assert orders[0] == subset(rows, None, 0, SPLITS[0]).tolist()


def test_every_row_is_as_likely_to_be_chosen():
    rows = rows_of(10)
    counts = dict.fromkeys(rows.tolist(), 0)
    for seed in range(1_000):
        for row in subset(rows, 3, seed, "train").tolist():
            counts[row] += 1
    # 300 each; the standard error is (1,000 * 0.3 * 0.7)^0.5 = 14.5.
    assert all(abs(count - 300) < 5 * 14.5 for count in counts.values())


def test_the_error_for_too_large_a_subset_gives_the_number_of_rows():
    with pytest.raises(
        UserError, match=r"data\.test_size: asks for 1,201 rows, but test has 1,200 after cleaning"
    ):
        subset(rows_of(1_200), 1_201, 0, "test")
    with pytest.raises(UserError, match=r"but train has 5 in the half that data\.selection leaves; lower it"):
        subset(rows_of(5), 6, 0, "train", "in the half that data.selection leaves")


def test_chunks_hold_all_rows_in_order(tmp_path):
    rows = [Example(str(i), f"d {i}", "s") for i in range(1_000)]
    chunks = list(in_chunks(stored(tmp_path, rows)))
    assert len(chunks) > 2 and [row for chunk in chunks for row in chunk] == rows
