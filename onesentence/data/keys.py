"""Numbers equal keys alike: a hash table in numpy, for millions of rows at 25 bytes each."""

import numpy as np
from numpy.typing import NDArray

from onesentence.core.columns import Column

KEY_BYTES = 16  # of a key: a digest so long that two unequal texts never share it in practice
FULL = 0.6  # of the slots in use; above, the table is doubled
BLOCK = 65_536  # keys that are looked up at once


def as_keys(digests: list[bytes]) -> NDArray[np.uint64]:
    """Digests of KEY_BYTES bytes as keys (uint64 [digests, 2])."""
    return np.frombuffer(b"".join(digests), dtype=np.uint64).reshape(-1, 2)


class KeyTable:
    """Gives each distinct key a number, in the order of first appearance."""

    def __init__(self) -> None:
        self.keys = Column(np.uint64, 2)  # the distinct keys, by their number
        self._slots = np.full(1 << 12, -1, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(number of each key, whether the key is at its first appearance). keys: uint64 [n, 2]."""
        numbers = np.empty(len(keys), dtype=np.int64)
        new = np.zeros(len(keys), dtype=bool)
        for start in range(0, len(keys), BLOCK):
            block = slice(start, start + BLOCK)
            numbers[block], new[block] = self._add(keys[block])
        return numbers, new

    def _add(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: of equal keys the earliest comes first
        ordered = keys[order]
        starts = np.ones(len(keys), dtype=bool)
        starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        distinct = order[starts]  # the place of each distinct key's first appearance
        of_distinct = self._find(keys[distinct])
        missing = np.sort(distinct[of_distinct < 0])
        known = len(self)
        self._insert(keys[missing])
        number_at = np.full(len(keys), -1, dtype=np.int64)
        number_at[distinct] = of_distinct
        number_at[missing] = np.arange(known, len(self))
        numbers = np.empty(len(keys), dtype=np.int64)
        numbers[order] = number_at[distinct][np.cumsum(starts) - 1]
        new = np.zeros(len(keys), dtype=bool)
        new[missing] = True
        return numbers, new

    def _find(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The number of each key, -1 for an unknown one."""
        found = np.full(len(keys), -1, dtype=np.int64)
        waiting = np.arange(len(keys))
        mask = np.uint64(len(self._slots) - 1)
        place = (keys[:, 0] & mask).astype(np.int64)
        while len(waiting):
            held = self._slots[place[waiting]]
            waiting, held = waiting[held >= 0], held[held >= 0]  # an empty slot: the key is unknown
            same = (self.keys.values[held] == keys[waiting]).all(axis=1)
            found[waiting[same]] = held[same]
            waiting = waiting[~same]
            place[waiting] = (place[waiting] + 1) & int(mask)  # the next slot, cyclic
        return found

    def _insert(self, keys: NDArray[np.uint64]) -> None:
        """Append distinct keys that are not in the table."""
        first = len(self)
        self.keys.extend(keys)
        if len(self) <= FULL * len(self._slots):
            self._fill(np.arange(first, len(self)))
            return
        size = len(self._slots)
        while len(self) > FULL * size:
            size *= 2
        self._slots = np.full(size, -1, dtype=np.int32)
        for start in range(0, len(self), BLOCK):
            self._fill(np.arange(start, min(start + BLOCK, len(self))))

    def _fill(self, numbers: NDArray[np.int64]) -> None:
        """Put the numbers of keys that no slot holds into slots."""
        mask = len(self._slots) - 1
        place = (self.keys.values[numbers, 0] & np.uint64(mask)).astype(np.int64)
        while len(numbers):
            free = self._slots[place] < 0
            self._slots[place[free]] = numbers[free]  # of several keys for one slot, one gets it
            left = self._slots[place] != numbers
            numbers, place = numbers[left], (place[left] + 1) & mask
