"""Rows come back from disk as they were, in any order."""

import pickle

import numpy as np

from onesentence.data.rows import Example, RowWriter, decode, decode_all, encode

ROWS = [
    Example("1", "A document", "a summary", "Herald", "def f(x)"),
    Example("\u00e9 \U0001f600", "caf\u00e9\n\x00 \u05e9", "", ""),
    Example("3", "", "", "", ""),
    Example("4", "long " * 50_000, "short"),
]


def test_a_row_without_a_group_is_its_own_group():
    assert Example("7", "d", "s").group == "7" and Example("7", "d", "s", "Herald").group == "Herald"


def test_encoding_loses_nothing():
    assert [decode(encode(row)) for row in ROWS] == ROWS


def test_rows_are_read_in_any_order_from_any_process(tmp_path):
    writer = RowWriter(tmp_path / "rows")
    order = [0, 1, 2, 3, 2, 1, 0, 3, 3]
    for number in order:  # one at a time, as chunks of any size
        blob = encode(ROWS[number])
        writer.extend(blob, np.array([len(blob)], dtype=np.uint32))
    rows = writer.close()
    assert list(rows) == [ROWS[number] for number in order] and len(rows) == 9
    taken = rows.take(np.array([8, 1, 1, 5]))
    assert list(pickle.loads(pickle.dumps(taken))) == [ROWS[3], ROWS[1], ROWS[1], ROWS[1]]  # noqa: S301
    # What travels to a worker are places, not texts.
    assert len(pickle.dumps(taken)) < 1_000 < taken.sizes.sum()


def test_no_rows_are_no_rows(tmp_path):
    assert list(RowWriter(tmp_path / "rows").close()) == []
    assert list(decode_all(b"", np.empty(0, dtype=np.uint32))) == []
