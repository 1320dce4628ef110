"""Arrays that grow row by row, for what a stage must remember of every row."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]

FIRST_ROWS = 1_024


class Column:
    """A growing array, of one number a row or of `width`. It grows in place, by an eighth at a time."""

    def __init__(self, dtype: type, width: int | None = None) -> None:
        self._rows = 0
        self._width = width
        self._array: Numbers = np.empty(self._shape(FIRST_ROWS), dtype)

    def _shape(self, rows: int) -> tuple[int, ...]:
        return (rows,) if self._width is None else (rows, self._width)

    def __len__(self) -> int:
        return self._rows

    @property
    def values(self) -> Numbers:
        """The numbers so far: a view, which must not be used after the next `extend`."""
        return self._array[: self._rows]

    def extend(self, values: Numbers) -> None:
        """Append the numbers of more rows."""
        end = self._rows + len(values)
        if end > len(self._array):
            # realloc moves the pages of a large array instead of copying them, so memory never holds two.
            self._array.resize(self._shape(max(end, len(self._array) * 9 // 8)), refcheck=False)
        self._array[self._rows : end] = values
        self._rows = end
