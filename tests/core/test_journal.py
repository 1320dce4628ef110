"""A journal gives back what was appended, up to the first line that is not as it was written."""

import json

import pytest

from onesentence.core.journal import Journal

ENTRIES = [{"batch": [1, 0], "scores": [0.1 + 0.2, 1e-300]}, {"text": "Größe \udc80\x00\n"}, {"batch": []}]


@pytest.fixture
def path(tmp_path):
    journal = Journal(tmp_path / "a.journal")
    assert journal.entries == [] and not journal.path.exists()
    for entry in ENTRIES:
        journal.append(entry)
    return journal.path


def test_entries_come_back_exactly_and_more_can_follow(path):
    journal = Journal(path)
    assert journal.entries == ENTRIES and not journal.dropped
    journal.append({"more": 1})
    assert Journal(path).entries == [*ENTRIES, {"more": 1}]


def test_a_file_cut_at_any_byte_gives_the_whole_lines_before_it(path):
    content = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for size in range(len(content)):
        path.write_bytes(content[:size])
        journal = Journal(path)
        whole = sum(end <= size for end in ends)
        assert journal.entries == ENTRIES[:whole]
        assert path.stat().st_size == (ends[whole - 1] if whole else 0)
        journal.append(ENTRIES[whole])  # the run goes on
        assert Journal(path).entries == ENTRIES[: whole + 1]


def test_a_flipped_bit_anywhere_drops_its_line_and_those_after_it(path):
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        assert Journal(path).entries == ENTRIES[: content[:place].count(b"\n")]


def test_a_line_that_is_missing_in_the_middle_drops_those_after_it(path):
    first, _, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + third)
    assert Journal(path).entries == ENTRIES[:1]


def test_numbers_that_are_none_are_refused(path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        Journal(path).append({"score": float("nan")})
    assert Journal(path).entries == ENTRIES


def test_a_line_with_a_right_hash_and_no_object_is_damage(tmp_path):
    from onesentence.core.journal import _hash

    text = json.dumps([1])
    (tmp_path / "a.journal").write_text(f"{_hash('', text)} {text}\n")
    assert Journal(tmp_path / "a.journal").entries == []
