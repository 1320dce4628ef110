"""What `make verify` says: the first stage that differs, how far, and how the machines differ."""

import json

import pytest
import yaml
from conftest import run
from study.cluster import make_small

from onesentence.commands.verify import differences, distance, locked, report
from onesentence.core.machine import machine


def write_project(folder, loss: float, words: str = "same"):
    """A graph of two stages with a JSON, a CSV and a text output."""
    folder.mkdir()
    graph = {"stages": {"train": {"cmd": "x"}, "generate": {"foreach": {}, "do": {"cmd": "x"}}}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump(graph, sort_keys=False))
    files = {
        "train.json": json.dumps({"loss": loss, "steps": 5, "parts": {"first": loss}}),
        "loss.csv": f"step,loss\n1,{loss}\n",
        "base.txt": words,
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    lock = {
        "stages": {
            "generate@base": {
                "deps": [{"path": "train.json", "md5": str(loss)}],
                "outs": [{"path": "base.txt", "md5": words}],
            },
            "train": {"outs": [{"path": name, "md5": str(loss)} for name in ("train.json", "loss.csv")]},
        }
    }
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    return folder


def test_equal_outputs_say_nothing(tmp_path):
    root, clone = write_project(tmp_path / "root", 2.5), write_project(tmp_path / "clone", 2.5)
    assert report(locked(root), root, clone) == []


def test_the_first_stage_that_differs_is_the_first_of_the_graph_not_of_the_lock(tmp_path):
    root = write_project(tmp_path / "root", 2.5)
    clone = write_project(tmp_path / "clone", 2.75, "other")
    assert list(locked(root)) == ["train", "generate@base"]
    assert report(locked(root), root, clone) == [
        "the first stage that differs is train: outs train.json, outs loss.csv",
        "train: train.json: 2 of 3 numbers differ, most loss: 2.75 here, 2.5 committed",
        "train: loss.csv: 1 of 2 numbers differ, most row 2, column 2: 2.75 here, 2.5 committed",
        "generate@base: base.txt: differs, and has no numbers to compare",
    ]


def change_lock(folder, **stages):
    """Set entries of stages in a project's dvc.lock; @ is written __."""
    path = folder / "dvc.lock"
    lock = yaml.safe_load(path.read_text())
    for name, entry in stages.items():
        lock["stages"].setdefault(name.replace("__", "@"), {}).update(entry)
    path.write_text(yaml.safe_dump(lock))


def test_another_dependency_parameter_or_stage_is_a_difference(tmp_path):
    root, clone = write_project(tmp_path / "root", 2.5), write_project(tmp_path / "clone", 2.5)
    change_lock(root, train={"params": {"params.yaml": {"seed": 1}}})
    change_lock(clone, train={"params": {"params.yaml": {"seed": 2}}})
    change_lock(clone, generate__base={"deps": [{"path": "train.json", "md5": "other"}]})
    change_lock(clone, generate__tuned={"outs": [{"path": "tuned.txt", "md5": "1"}]})
    assert report(locked(root), root, clone) == [
        "the first stage that differs is train: params params.yaml: seed",
        "train: params.yaml: seed: 2 here, 1 committed",
        "generate@base: train.json: differs, but none of its 3 numbers does",
        "generate@tuned: tuned.txt: only here",
    ]


def test_a_folder_that_dvc_caches_is_compared_file_by_file(tmp_path):
    """With DVC itself: a stage that writes a folder, run in two projects."""
    from conftest import run

    projects = []
    for name, value in (("root", 1), ("clone", 2)):
        folder = tmp_path / name
        folder.mkdir()
        run(folder, "git", "init", "--quiet")
        run(folder, "dvc", "init", "--quiet")
        write = (
            f"mkdir out && echo 5 > out/same.txt && echo {value} > out/other.csv && echo 1 > out/{name}.txt"
        )
        (folder / "dvc.yaml").write_text(
            yaml.safe_dump({"stages": {"score": {"cmd": write, "outs": ["out"]}}}, sort_keys=False)
        )
        run(folder, "dvc", "repro")
        projects.append(folder)
    root, clone = projects
    assert locked(root)["score"]["outs", "out"].endswith(".dir")
    assert report(locked(root), root, clone) == [
        "the first stage that differs is score: outs out",
        "score: out/clone.txt: only here",
        "score: out/other.csv: 1 of 1 numbers differ, most row 1, column 1: 2 here, 1 committed",
        "score: out/root.txt: only in the committed dvc.lock",
    ]
    md5 = locked(root)["score"]["outs", "out"]
    (root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    assert report(locked(root), root, clone)[1:] == [
        "score: out: differs; run `dvc pull` to see which files of the committed folder differ"
    ]


def test_a_stage_that_the_graph_no_longer_has_is_left_out(tmp_path):
    """DVC keeps its entry in dvc.lock."""
    root = write_project(tmp_path / "root", 2.5)
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    lock["stages"] |= {"gone": lock["stages"]["train"], "gone@base": lock["stages"]["train"]}
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert list(locked(root)) == ["train", "generate@base"]


@pytest.mark.slow
def test_inputs_that_dvc_tracks_are_verified_in_the_clone(tmp_path):
    """Its cache is empty; an input that is not here is named before anything runs."""
    project = make_small(tmp_path)
    run(project, "dvc", "repro", "--quiet")
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--message=run")
    verify = ("python", "-m", "onesentence", "verify")
    assert "dvc.lock are the committed ones, byte for byte" in run(project, *verify).stdout
    (project / "data/input.txt").write_text("other")
    differs = run(project, *verify, check=False).stderr
    assert "gives other bytes than the committed ones" in differs and "data/input.txt" in differs
    assert "no machine of the committed numbers is recorded in benchmarks/results/machine.json" in differs
    (project / "data/input.txt").unlink()
    missing = run(project, *verify, check=False)
    assert missing.stderr.startswith("error: data/input.txt: not found; a stage reads it.")
    assert "Running stage" not in missing.stdout


def test_a_missing_output_is_said(tmp_path):
    root, clone = write_project(tmp_path / "root", 2.5), write_project(tmp_path / "clone", 2.75)
    (clone / "train.json").unlink()
    missing = "differs; one of the two versions is missing, so their numbers cannot be compared"
    assert distance(clone / "train.json", root / "train.json") == missing
    assert f"train: train.json: {missing}" in report(locked(root), root, clone)


def test_machines_differ_line_by_line():
    here = machine()
    there = {**here, "instructions": "AVX2", "versions": {**here["versions"], "torch": "2.12.0"}}
    assert differences(here, here) == []
    lines = differences(there, here)
    assert len(lines) == 2
    assert f"instructions: {here['instructions']} here, AVX2 where" in lines[0]
    assert lines[1].startswith(f"versions: torch: {here['versions']['torch']} here, 2.12.0")


def test_a_machine_is_described_without_the_names_of_host_and_user():
    import getpass
    import platform

    text = json.dumps(machine())
    assert set(machine()) >= {"cpu", "cores", "instructions", "threads", "versions"}
    assert platform.node() not in text or len(platform.node()) < 4
    assert f'"{getpass.getuser()}"' not in text
