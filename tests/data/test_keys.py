"""The table of keys does what a dict does, for millions of keys in little memory."""

import hashlib
import random
import tracemalloc

import numpy as np
import pytest

from onesentence.data.keys import KEY_BYTES, KeyTable, as_keys


def keys_of(names: list[str]) -> np.ndarray:
    return as_keys([hashlib.blake2b(name.encode(), digest_size=KEY_BYTES).digest() for name in names])


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_those_of_a_dict(seed):
    rng, table, numbers = random.Random(seed), KeyTable(), {}
    for _ in range(120):
        names = [str(rng.randrange(12_000)) for _ in range(rng.randint(0, 400))]
        new = []
        for name in names:
            new.append(name not in numbers)
            numbers.setdefault(name, len(numbers))
        found, is_new = table.add(keys_of(names))
        assert found.tolist() == [numbers[name] for name in names] and is_new.tolist() == new
    assert len(table) == len(numbers) > 8_000  # the table has grown twice


def test_keys_that_want_the_same_slot_are_distinguished():
    keys = np.zeros((6_000, 2), dtype=np.uint64)
    keys[:, 0] = 5  # which decides the slot
    keys[:, 1] = np.arange(6_000) // 2  # each key twice
    table = KeyTable()
    numbers, new = table.add(keys)
    assert numbers.tolist() == [i // 2 for i in range(6_000)]
    assert new.tolist() == [True, False] * 3_000
    assert table.add(keys[::-1])[0].tolist() == numbers.tolist()[::-1]


def test_a_key_takes_few_bytes():
    generator = np.random.default_rng(0)
    tracemalloc.start()
    table = KeyTable()
    sizes = []
    for _ in range(2):
        for _ in range(200):
            table.add(generator.integers(0, 2**64, (1_000, 2), dtype=np.uint64))
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    # A digest of 16 bytes, and 4 bytes for each of 1.7 to 3.3 slots; an eighth more while arrays grow.
    assert len(table) == 400_000 and sizes[1] < 400_000 * (16 * 9 / 8 + 4 * 3.4)
