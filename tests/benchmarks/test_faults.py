"""The benchmark of faults: how a file is damaged, what is a sentence, and a few faults in `prepare`."""

import json
import shutil

import pytest
from conftest import ROOT

from benchmarks import faults
from benchmarks.small import Project

COMMITTED = ROOT / "benchmarks/results/faults.json"


@pytest.mark.parametrize(("change", "size"), [(faults.flipped, 7), (faults.half, 3)])
def test_a_damaged_file_keeps_its_place_and_its_times(tmp_path, change, size):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    path.chmod(0o444)
    before = path.stat()
    faults.damaged(path, change)
    after = path.stat()
    assert path.read_bytes() != b"content" and after.st_size == size
    assert (after.st_ino, after.st_mtime_ns, after.st_mode) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_mode,
    )


def test_the_sentence_is_that_of_the_stage_before_that_of_dvc():
    said = "Running stage 'train':\nerror: train: the disk is full\nERROR: failed to reproduce 'train'\n"
    assert faults.sentence_of(said) == "error: train: the disk is full"
    assert faults.sentence_of("ERROR: failed to reproduce 'train'\n") == "ERROR: failed to reproduce 'train'"
    assert faults.sentence_of("Traceback (most recent call last):\n") is None


def test_every_stage_is_covered_by_every_fault_that_can_meet_it():
    assert set(faults.WRITES) == set(faults.EDITS) == set(faults.STAGES)
    assert set(faults.READS) == set(faults.STAGES) - {"prepare"}
    cells = faults.chosen_cells(list(faults.FAULTS), list(faults.STAGES))
    assert len(cells) == len(set(cells)) > 80
    assert all(stage in faults.STAGES for _, stage in cells)


@pytest.mark.skipif(not COMMITTED.is_file(), reason="no table was committed")
def test_the_page_has_the_table_of_the_committed_run():
    result = json.loads(COMMITTED.read_text())
    assert faults.table(result) in (ROOT / "docs/reliability.md").read_text()
    failed = [
        (name, stage)
        for name, stages in result["cells"].items()
        for stage, entry in stages.items()
        if entry["passed"] is False
    ]
    assert failed == []


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Project:
    """The small project after its first stage."""
    folder = tmp_path_factory.mktemp("faults") / "project"
    folder.mkdir()
    project = Project(folder).lay_out()
    project.run("dvc", "repro", "prepare")
    return project


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["disk_full", "read_only", "input_vanishes", "parameter_edited", "two_at_once"]
)
def test_a_fault_in_prepare_ends_in_a_sentence_and_the_next_run_is_right(prepared, tmp_path, name):
    shutil.copytree(prepared.folder, tmp_path / "project", symlinks=True)
    entry = faults.run_cell(Project(tmp_path / "project"), name, "prepare", tmp_path / "log")
    if entry["passed"] is None:
        pytest.skip(entry["why"])
    assert entry["passed"], entry


@pytest.mark.slow
def test_a_run_that_goes_wrong_is_not_called_passed(prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared.folder, tmp_path / "project", symlinks=True)
    project = Project(tmp_path / "project")
    fault = faults.FAULTS["clock_set_back"]
    # A run without any fault, of which a failure is expected.
    unharmed = faults.Fault("none", faults.little_address_space, fails=True)
    assert not fault.fails
    monkeypatch.setitem(faults.FAULTS, "none", unharmed)
    monkeypatch.setattr(faults, "LITTLE", 1 << 40)
    entry = faults.run_cell(project, "none", "prepare", tmp_path / "log")
    assert entry["passed"] is False and "exit code 0" in entry["problems"]
