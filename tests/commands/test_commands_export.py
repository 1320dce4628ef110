import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner
from conftest import ROOT

from onesentence.commands import base, export, verify
from onesentence.commands import repro as rung
from onesentence.core.errors import UserError
from onesentence.core.files import read_json


@pytest.fixture
def asked(monkeypatch):
    """The commands that would run DVC, and where."""
    calls = []

    def run(command, cwd):
        calls.append((command, cwd))
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(export.subprocess, "run", run)
    return calls


def test_the_pipeline_is_laid_out_and_an_older_copy_is_replaced(project, monkeypatch):
    monkeypatch.chdir(project)
    assert not (project / "models/dvc.yaml").exists()  # `dvc pull` must not ask for what nobody has exported
    title = export.PIPELINE.read_text().splitlines()[0]
    for older in (None, f"{title}\nstages: {{}}\n"):
        if older:
            (project / "models/dvc.yaml").write_text(older)
        export.lay_out_export(project)
        assert (project / "models/dvc.yaml").read_text() == export.PIPELINE.read_text()


def test_a_pipeline_of_the_user_s_own_stays(project, monkeypatch):
    monkeypatch.chdir(project)
    (project / "models/dvc.yaml").write_text("stages: {mine: {cmd: echo}}\n")
    with pytest.raises(UserError, match=r"models/dvc.yaml: is no copy of pipeline.yaml"):
        export.lay_out_export(project)
    assert "mine" in (project / "models/dvc.yaml").read_text()


def test_the_command_runs_the_export_s_pipeline_and_passes_its_exit_code_on(project, monkeypatch, asked):
    monkeypatch.chdir(project)
    assert CliRunner().invoke(export.command, []).exit_code == 3
    ((command, folder),) = asked
    assert command == [sys.executable, "-m", "dvc", "repro", "models/dvc.yaml"]
    assert str(folder) == "."


@pytest.mark.parametrize(
    ("command", "words"),
    [(export.command, []), (verify.command, ["--record"]), (base.command, ["smollm2-135m"])],
)
def test_a_command_in_a_wrong_folder_says_so_and_writes_nothing(command, words, tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^\.dvc: not found; run the command in the repository's root"):
        CliRunner().invoke(command, words, catch_exceptions=False)
    assert not asked and not list(tmp_path.iterdir())


def test_a_preset_s_model_is_exported_in_its_own_folder(project, monkeypatch, asked):
    monkeypatch.chdir(project)
    (project / "presets/own.yaml").write_text("train: {epochs: 1}\n")
    monkeypatch.setattr(export, "require_model", lambda folder: None)
    monkeypatch.setattr(rung, "git", lambda *words: (project / "params.yaml").read_text())
    monkeypatch.setattr(export, "require_data", lambda folder, name: None)
    assert CliRunner().invoke(export.command, ["--preset", "own"]).exit_code == 3
    ((_, folder),) = asked
    assert str(folder) == "presets/own"
    assert (project / folder / "models/dvc.yaml").read_text() == export.PIPELINE.read_text()


def test_the_committed_proof_is_of_the_committed_parameters():
    proof, settings = (
        read_json(ROOT / "metrics/export.json"),
        yaml.safe_load((ROOT / "params.yaml").read_text()),
    )
    evaluation = read_json(ROOT / "metrics/evaluation.json")
    assert proof["target"] == settings["export"]["target"]
    assert proof["equivalence"]["margin"] == settings["export"]["margin"]
    assert proof["equivalence"]["verdict"] == "equivalent"
    for key in ("split", "n", "resamples", "confidence"):
        assert proof[key] == evaluation[key]
    name, _, version = proof["engine"].partition(" ")
    assert f"{name}=={version}\n" in (ROOT / "requirements.txt").read_text()
