"""What `make verify` says: the first stage that differs, how far, and how the machines differ."""

import json

import pytest
import yaml

from stages.commands.verify import differences, distance, outputs, report
from stages.common.machine import machine


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
            "generate@base": {"outs": [{"path": "base.txt", "md5": words}]},
            "train": {"outs": [{"path": name, "md5": str(loss)} for name in ("train.json", "loss.csv")]},
        }
    }
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    return folder


def test_equal_outputs_say_nothing(tmp_path):
    root, clone = write_project(tmp_path / "root", 2.5), write_project(tmp_path / "clone", 2.5)
    assert report(root, clone) == []


def test_the_first_stage_that_differs_is_the_first_of_the_graph_not_of_the_lock(tmp_path):
    root = write_project(tmp_path / "root", 2.5)
    clone = write_project(tmp_path / "clone", 2.75, "other")
    assert list(outputs(root)) == ["train", "generate@base"]
    assert report(root, clone) == [
        "the first stage that differs is train: train.json, loss.csv",
        "train.json: 2 of 3 numbers differ, most of all loss: 2.75 here, 2.5 committed",
        "loss.csv: 1 of 2 numbers differ, most of all row 2, column 2: 2.75 here, 2.5 committed",
        "base.txt: differs, and holds no numbers to compare",
    ]


def test_a_missing_output_is_said(tmp_path):
    root, clone = write_project(tmp_path / "root", 2.5), write_project(tmp_path / "clone", 2.75)
    (clone / "train.json").unlink()
    assert distance(clone / "train.json", root / "train.json") == "is not there on both sides"
    assert "train.json: is not there on both sides" in report(root, clone)


def test_machines_differ_line_by_line():
    here = machine()
    there = {**here, "instructions": "AVX2", "versions": {**here["versions"], "torch": "2.12.0"}}
    assert differences(here, here) == []
    found = differences(there, here)
    assert len(found) == 2
    assert f"instructions: {here['instructions']} here, AVX2 where" in found[0]
    assert found[1].startswith(f"versions: torch: {here['versions']['torch']} here, 2.12.0")


def test_a_machine_is_described_without_the_names_of_host_and_user():
    import getpass
    import platform

    text = json.dumps(machine())
    assert set(machine()) >= {"cpu", "cores", "instructions", "threads", "versions"}
    assert platform.node() not in text or len(platform.node()) < 4
    assert f'"{getpass.getuser()}"' not in text


@pytest.mark.parametrize("name", ["verify", "estimate"])
def test_the_commands_have_help(name):
    from conftest import ROOT, run

    shown = run(ROOT, "python", "-m", f"stages.commands.{name}", "--help").stdout
    assert shown.startswith("usage:") and "options:" in shown
