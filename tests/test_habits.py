"""The habits of the repository: what runs before a commit, and what runs on a push."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PINNED = re.compile(r"^[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
SUPPORTED = ["3.11", "3.12", "3.13", "3.14"]


def actions(path: Path) -> list[str]:
    """What a workflow uses, each with its comment."""
    return re.findall(r"uses: (.+)$", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_its_commit_and_says_its_version(path):
    assert [action for action in actions(path) if not PINNED.match(action)] == []


def test_an_action_has_one_pin_in_all_workflows():
    pins = {action for path in WORKFLOWS for action in actions(path)}
    assert len(pins) == len({pin.partition("@")[0] for pin in pins}) >= 4


def test_ci_tries_every_supported_version_of_python():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert jobs["quick"]["strategy"]["matrix"]["python"] == SUPPORTED
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = [name.rpartition(" ")[2] for name in project["classifiers"] if ":: Python :: 3." in name]
    assert versions == SUPPORTED
    assert project["requires-python"] == f">={SUPPORTED[0]}"


def test_no_hook_needs_a_network():
    hooks = [hook for repo in HOOKS["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in HOOKS["repos"]} == {"local"}
    assert {hook["language"] for hook in hooks} == {"system"}
    assert [hook["id"] for hook in hooks if not hook["entry"].startswith(".venv/bin/")] == []


def test_hooks_leave_files_alone_that_a_stage_or_a_library_writes():
    written = (
        "models/phi-tiny/tokenizer.json",
        "models/phi-tiny-64/config.json",
        "metrics/studies/rank.json",
    )
    written += ("plots/loss.svg", "dvc.lock", "presets/smollm2-docstrings/metrics/data.json")
    assert [path for path in written if not re.search(HOOKS["exclude"], path)] == []
    people = ("models/README.md", "params.yaml", "onesentence/core/plots.py", "presets/phi2-xsum.yaml")
    assert [path for path in people if re.search(HOOKS["exclude"], path)] == []


def test_the_citation_is_of_the_version_that_is_packaged():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for key in ("version", "license", "keywords"):
        assert citation[key] == project[key]
