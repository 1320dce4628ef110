"""A column holds what was appended."""

import numpy as np

from onesentence.core.columns import FIRST_ROWS, Column


def test_a_column_keeps_numbers_while_it_grows():
    column, pairs = Column(np.int32), Column(np.uint64, 2)
    assert len(column) == 0 and column.values.shape == (0,) and pairs.values.shape == (0, 2)
    expected = []
    for size in (0, 1, 3, FIRST_ROWS, 7, 10 * FIRST_ROWS, 2):
        more = np.arange(len(expected), len(expected) + size)
        column.extend(more)
        pairs.extend(np.stack([more, more + 1], axis=1))
        expected += more.tolist()
    assert column.values.tolist() == expected and column.values.dtype == np.int32
    assert pairs.values.tolist() == [[number, number + 1] for number in expected]
