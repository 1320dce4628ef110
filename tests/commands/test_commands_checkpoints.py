"""`onesentence checkpoints`: what it lists, and what it removes."""

import os
import time

import pytest
from click.testing import CliRunner

from onesentence.commands.checkpoints import age_text, command, size_text
from onesentence.core import checkpoints
from onesentence.core.errors import UserError

KEYS = ("0123456789abcdef", "fedcba9876543210")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Two stages that were stopped, one of them three days ago."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(checkpoints.ROOT, str(tmp_path / "root"))
    for stage, key in zip(("train", "score@tuned"), KEYS, strict=True):
        with pytest.raises(ZeroDivisionError), checkpoints.claimed(stage, key) as folder:
            (folder / "scores.journal").write_bytes(b"a\nb\n" + b"x" * 2_000)
            raise ZeroDivisionError
    old = time.time() - 3 * 86_400
    os.utime(folder / "scores.journal", (old, old))
    return tmp_path


def said(*options: str) -> str:
    done = CliRunner().invoke(command, options, catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_it_lists_stage_progress_state_size_and_age(here):
    lines = [line for line in said().splitlines() if "-" + KEYS[0] in line or "-" + KEYS[1] in line]
    assert len(lines) == 2
    assert all(f"{words}" in line for line in lines for words in ("2 batches", "unfinished", "2.0 kB"))
    assert "score@tuned-" in lines[0] and "3 days ago" in lines[0]
    assert "train-" in lines[1] and "under a minute ago" in lines[1]


def test_it_removes_what_no_process_uses(here):
    assert said("--clean", "--older-than", "1") == "checkpoints: 1 removed (2.0 kB)\n"
    with checkpoints.claimed("train", KEYS[0]) as folder:
        assert said("--clean") == "checkpoints: 0 removed (0 bytes); 1 in use\n"
        assert folder.is_dir()
    assert said() == said("--clean") == f"checkpoints: none in {here / 'root'}\n"


@pytest.mark.parametrize("days", ["-1", "nan", "-inf"])
def test_a_wrong_age_removes_nothing(here, days):
    with pytest.raises(UserError, match="--older-than: expected a number of days from 0, found"):
        said("--clean", f"--older-than={days}")
    assert said().count("unfinished") == 2


def test_sizes_and_ages_have_units():
    assert [size_text(n) for n in (0, 999, 1_000, 13_650_000, 2 * 10**9, 5e12)] == [
        "0 bytes", "999 bytes", "1.0 kB", "13.7 MB", "2.0 GB", "5.0 TB",
    ]  # fmt: skip
    assert [age_text(s) for s in (0, 59, 60, 7_200, 86_400, 2e6)] == [
        "under a minute", "under a minute", "1 minute", "2 hours", "1 day", "23 days",
    ]  # fmt: skip
