"""The soak: what counts as a mismatch and as a repeated step; and five kills."""

import hashlib
import json
import subprocess
import time

import psutil
import pytest
import yaml
from conftest import ROOT

from benchmarks import soak
from benchmarks.small import GROWS, hash_of

COMMITTED = ROOT / "benchmarks/results/soak.json"


def write_outputs(folder, **texts) -> None:
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)


def record(folder, *paths) -> None:
    outs = [{"path": path, "md5": "0" * 32} for path in paths]
    lock = {"schema": "2.0", "stages": {"one": {"cmd": "one", "outs": outs}}}
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock))


def test_an_output_is_wrong_if_it_differs_or_if_dvc_calls_it_finished_and_it_is_missing(tmp_path):
    write_outputs(tmp_path, a="whole", b="whole")
    expected = {"a.txt": hash_of(tmp_path / "a.txt"), "b.txt": hash_of(tmp_path / "b.txt")}
    record(tmp_path, "a.txt")
    assert soak.differing_outputs(tmp_path, expected) == []
    (tmp_path / "b.txt").unlink()
    assert soak.differing_outputs(tmp_path, expected) == []  # its stage has not ended
    write_outputs(tmp_path, b="who")
    assert soak.differing_outputs(tmp_path, expected) == ["b.txt differs in an unfinished stage"]
    (tmp_path / "b.txt").unlink()
    (tmp_path / "a.txt").unlink()
    assert soak.differing_outputs(tmp_path, expected) == ["a.txt is missing though DVC calls it finished"]
    write_outputs(tmp_path, a="who")
    assert soak.differing_outputs(tmp_path, expected) == ["a.txt differs though DVC calls it finished"]


@pytest.mark.parametrize("torn", ["", "schema: '2.0'\nsta", "schema: '2.0'\nstages:\n  one:\n    cm"])
def test_a_lock_that_a_kill_has_torn_calls_nothing_finished(tmp_path, torn):
    """DVC writes it in place."""
    write_outputs(tmp_path, a="whole")
    expected = {"a.txt": hash_of(tmp_path / "a.txt")}
    (tmp_path / "a.txt").unlink()
    record(tmp_path, "a.txt")
    assert soak.differing_outputs(tmp_path, expected)
    (tmp_path / "dvc.lock").write_text(torn)
    assert soak.differing_outputs(tmp_path, expected) == []


def test_the_loss_curve_may_be_shorter_until_its_stage_has_ended(tmp_path):
    (tmp_path / GROWS).parent.mkdir()
    (tmp_path / GROWS).write_text("step,loss\n1,5.0\n")
    assert soak.differing_outputs(tmp_path, {GROWS: "another"}) == []
    record(tmp_path, GROWS)
    assert soak.differing_outputs(tmp_path, {GROWS: "another"}) == [
        f"{GROWS} differs though DVC calls it finished"
    ]


def test_an_object_of_the_cache_must_have_the_hash_that_names_it(tmp_path):
    for content, suffix in ((b"a file", ""), (b"[]", ".dir")):
        name = hashlib.md5(content).hexdigest()
        path = tmp_path / "files/md5" / name[:2] / (name[2:] + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert soak.broken_objects(tmp_path) == []
    path.write_bytes(b"[")
    assert [text.partition(":")[0] for text in soak.broken_objects(tmp_path)] == [
        f"{path.parent.name}/{path.name}"
    ]


def write_curve(folder, steps: int) -> None:
    (folder / GROWS).parent.mkdir(exist_ok=True)
    rows = "".join(f"{k},1.0,\n" for k in range(1, steps + 1))
    (folder / GROWS).write_text("step,loss,validation_loss\n" + rows)


@pytest.mark.parametrize(
    ("said", "steps", "repeated"),
    [
        ("Running stage 'train':\ntrain: continuing from checkpoint-8\n", 8, [3]),
        ("Running stage 'train':\n", 2, [11]),  # from the start, though there was a checkpoint
        ("Running stage 'train':\n", 0, []),  # it has not come so far
        ("Running stage 'smoke':\n", 0, []),
    ],
)
def test_repeated_steps_are_those_between_the_kill_and_the_checkpoint(tmp_path, said, steps, repeated):
    write_curve(tmp_path, 11)
    counted = soak.Repetitions()
    counted.killed("here", tmp_path)
    write_curve(tmp_path, steps)
    log = tmp_path / "log"
    log.write_text(said)
    assert counted.resolved("here", log, tmp_path) == repeated
    if repeated:
        assert counted.resolved("here", log, tmp_path) == []  # once for each kill


def test_a_second_kill_before_the_training_goes_on_forgets_no_step(tmp_path):
    counted = soak.Repetitions()
    for steps in (11, 0):
        write_curve(tmp_path, steps)
        counted.killed("here", tmp_path)
    log = tmp_path / "log"
    log.write_text("Running stage 'train':\ntrain: continuing from checkpoint-8\n")
    assert counted.resolved("here", log, tmp_path) == [3]


def test_a_process_that_has_just_ended_is_not_killed():
    waits = subprocess.Popen(["sleep", "60"])
    assert soak.stopped(psutil.Process(waits.pid))
    waits.kill()
    waits.wait()
    ends = subprocess.Popen(["true"])
    process = psutil.Process(ends.pid)
    while process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert not soak.stopped(process)  # its exit code is 0, whatever is sent to it
    ends.wait()
    assert not soak.stopped(process)


@pytest.mark.skipif(not COMMITTED.is_file(), reason="no soak was committed")
def test_the_page_has_the_table_of_the_committed_run_and_nothing_was_lost():
    result = json.loads(COMMITTED.read_text())
    assert soak.table(result) in (ROOT / "docs/reliability.md").read_text()
    assert result["mismatches"] == []
    assert result["most_steps_repeated"] <= result["checkpoint_every"]
    assert sum(result["kills_by_kind"].values()) == result["kills"]


@pytest.mark.slow
def test_five_kills_lose_nothing(tmp_path):
    result = soak.soak(tmp_path, kills=5, runs=("pipeline",), seed=1, target="train")
    assert result["kills"] == 5
    assert result["mismatches"] == []
    assert result["most_steps_repeated"] <= result["checkpoint_every"]
