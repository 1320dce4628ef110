"""Changing params.yaml in place, with the committed file and the committed presets."""

import os
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from onesentence.commands import edit
from onesentence.core import params
from onesentence.core.errors import UserError

REPO = Path(__file__).parents[2]
COMMITTED = (REPO / "params.yaml").read_text(encoding="utf-8")
PRESETS = sorted((REPO / "presets").glob("*.yaml"))
FILE = Path("params.yaml")


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch) -> Path:
    """An empty folder with a copy of params.yaml; the model's folder is not there."""
    monkeypatch.chdir(tmp_path)
    FILE.write_text(COMMITTED, encoding="utf-8")
    return tmp_path


def values() -> dict:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def merged(base: dict, overlay: dict) -> dict:
    result = deepcopy(base)
    for section, change in overlay.items():
        result[section].update(change)
    return result


def comments(text: str) -> list[str]:
    return [match[1] for line in text.splitlines() if (match := re.search(r"(?:^|\s)(#.*)", line))]


def changed_keys(before: dict, after: dict) -> set[str]:
    return {key for section in after for key in pairs(after[section]) - pairs(before[section])}


def pairs(section) -> set[tuple[str, str]]:
    return {(key, repr(value)) for key, value in section.items()} if isinstance(section, dict) else set()


def test_there_are_presets():
    assert PRESETS


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_sets_its_values_and_no_other_and_keeps_the_comments(preset):
    overlay = params.read_yaml(preset)
    before = values()
    edit.apply(overlay, str(preset))
    assert values() == merged(before, overlay)
    assert comments(FILE.read_text(encoding="utf-8")) == comments(COMMITTED)
    assert params.load(("model",)).model.name == overlay["model"]["name"]


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_the_diff_of_a_preset_names_the_changed_lines(preset):
    overlay = params.read_yaml(preset)
    before = values()
    diff = edit.apply(overlay, str(preset))
    expected = sorted(
        f"{key}: {'null' if value is None else value}"
        for section, change in overlay.items()
        for key, value in change.items()
        if before[section][key] != value
    )
    assert expected
    added = [line for line in diff.splitlines() if line.startswith("+") and not line.startswith("+++")]
    removed = [line for line in diff.splitlines() if line.startswith("-") and not line.startswith("---")]
    assert sorted(re.sub(r"\s+#.*", "", line[1:]).strip() for line in added) == expected
    assert len(removed) == len(added)
    assert diff.startswith("--- params.yaml (before)\n+++ params.yaml (after)\n")


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_applied_twice_changes_nothing_the_second_time(preset):
    overlay = params.read_yaml(preset)
    edit.apply(overlay, str(preset))
    once = FILE.read_bytes()
    assert edit.apply(overlay, str(preset)) == ""
    assert FILE.read_bytes() == once


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_the_old_values_put_back_give_the_old_file(preset):
    overlay = params.read_yaml(preset)
    before = values()
    edit.apply(overlay, str(preset))
    edit.apply(
        {section: {key: before[section][key] for key in change} for section, change in overlay.items()}, "old"
    )
    assert FILE.read_text(encoding="utf-8") == COMMITTED


def test_an_empty_overlay_leaves_every_byte():
    assert edit.apply({}, "nothing") == ""
    assert edit.apply(values(), "the same values") == ""
    assert FILE.read_text(encoding="utf-8") == COMMITTED


def test_a_key_without_a_section_and_a_list_can_be_set():
    edit.apply({"seed": 7, "lora": {"target_modules": ["q_proj", "fc1"], "alpha": 3}}, "test")
    assert values()["seed"] == 7
    assert "\nseed: 7\n" in FILE.read_text() and "  target_modules: [q_proj, fc1]\n" in FILE.read_text()
    assert values()["lora"] == {
        **yaml.safe_load(COMMITTED)["lora"],
        "target_modules": ["q_proj", "fc1"],
        "alpha": 3,
    }


@pytest.mark.parametrize(
    ("overlay", "named"),
    [
        ({"lora": {"rnak": 8}}, "lora.rnak: unknown key, did you mean 'rank'?"),
        ({"lora": {"rank": 8, "rnak": 8}}, "lora.rnak: unknown key"),
        ({"lorra": {"rank": 8}}, "lorra: unknown section, did you mean 'lora'?"),
        ({"lora": {"rank": 0}}, "lora.rank: expected"),
        ({"lora": 3}, "lora: expected a section with keys"),
        ({"seed": True}, "seed: expected"),
        ({"model": {"revision": "abc"}, "lora": {"rank": 4}}, "model.revision: must be null for a folder"),
    ],
)
def test_an_overlay_that_would_not_load_changes_nothing(overlay, named, workspace):
    if "model" in overlay:
        edit.apply({"model": {"name": "a/folder", "watch": "a/folder", "revision": None}}, "setup")
    before = FILE.read_bytes()
    with pytest.raises(UserError) as raised:
        edit.apply(overlay, "presets/test.yaml")
    assert str(raised.value).startswith("presets/test.yaml: params.yaml not changed, ")
    assert named in str(raised.value)
    assert FILE.read_bytes() == before
    assert [file.name for file in workspace.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    "value", ["on", "yes", "No", "1:30", "1e-3", "0o17", "010", "null", "~", "a: b", "#x", "caf\u00e9"]
)
def test_a_text_stays_the_text_it_is(value):
    """A column can be called anything, also what YAML 1.1 takes for a truth value or a number."""
    edit.apply({"data": {"document_column": value}}, "test")
    assert params.load(("data",)).data.document_column == value


@pytest.mark.parametrize("value", [0.1, 1e-3, 5e-4, 1e-5, 2.5e-6])
def test_a_number_stays_the_number_it_is(value):
    edit.apply({"train": {"learning_rate": value}}, "test")
    assert params.load(("train",)).train.learning_rate == value


@pytest.mark.parametrize("text", ["seed: [1\n", "- a\n", "seed: 0\nseed: 1\n"])
def test_a_params_file_that_is_no_mapping_is_left_alone(text):
    FILE.write_text(text)
    with pytest.raises(UserError, match=r"params\.yaml: "):
        edit.apply({"seed": 1}, "test")
    assert FILE.read_text() == text


def run_preset(name: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "onesentence", "preset", name],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_applies_a_preset_and_names_those_there_are(workspace):
    (workspace / "presets").mkdir()
    (workspace / "presets" / "small.yaml").write_text("lora:\n  rank: 3\n")
    unknown = run_preset("smal")
    assert unknown.returncode == 1 and "Traceback" not in unknown.stderr
    assert unknown.stderr.startswith(
        "error: preset 'smal': presets/smal.yaml not found (expected one of small)"
    )
    assert FILE.read_text(encoding="utf-8") == COMMITTED

    applied = run_preset("small")
    assert applied.returncode == 0 and "+  rank: 3\n" in applied.stdout
    assert values()["lora"]["rank"] == 3
    assert "already has every value" in run_preset("small").stdout
