"""A preset's own pipeline: presets/NAME/, beside the default's results and not over them."""

import json

import pytest
import yaml
from conftest import ROOT, run, write_local

from stages.commands import rung
from stages.common import params
from stages.common.errors import UserError

OVERLAY = "prompt:\n  template: label\ntrain:\n  learning_rate: 0.03\nlora:\n  rank: 4\n"


@pytest.mark.slow
def test_a_preset_runs_beside_the_default_and_leaves_it_as_it_was(project, pairs):
    (project / "presets/own.yaml").write_text(OVERLAY)
    given = write_local(project.parent / "given", pairs)
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--message=preset")
    folder = project / "presets/own"
    run(project, "python", "-m", "stages.commands.rung", "own")
    refused = run(project, "python", "-m", "stages.commands.rung", "own", "--run", check=False)
    assert refused.returncode == 1
    assert "presets/own: data/local not found; put your articles there: make data FROM=PATH PRESET=own" in (
        refused.stderr
    )
    run(folder, "python", "-m", "stages.commands.data", str(given))
    shown = run(project, "python", "-m", "stages.commands.rung", "own", "--run").stdout
    assert "All of it is in presets/own" in shown and "8 test articles" in shown

    values = yaml.safe_load((folder / "params.yaml").read_text())
    assert values["lora"]["rank"] == 4 and values["prompt"]["template"] == "label"
    for name in ("metrics/summary.json", "metrics/evaluation.json", "plots/results.md", "dvc.lock"):
        assert (folder / name).is_file()
        assert not (folder / name).is_symlink()
    assert (folder / "models/tuned/adapter_model.safetensors").is_file()
    # Nothing outside of it, but what it is laid out from.
    changed = run(project, "git", "status", "--porcelain").stdout.splitlines()
    assert changed == ["?? presets/own/"]
    assert not (project / "models/tuned").exists()

    # Clean when committed, nothing left to do, and seen from the repository's root.
    run(project, "git", "add", "--all")
    listed = run(project, "git", "ls-files", "-s", "presets/own").stdout
    assert "120000" in listed and "adapter_model" not in listed and "report.html" not in listed
    run(project, "git", "commit", "--quiet", "--message=ran")
    again = run(project, "python", "-m", "stages.commands.rung", "own", "--run").stdout
    assert "up to date" in again
    assert run(project, "git", "status", "--porcelain").stdout == ""
    metrics = json.loads(run(project, "dvc", "metrics", "show", "--json").stdout)
    assert any("presets/own/metrics/summary.json" in name for name in metrics[""]["data"])


def lay_out(project, monkeypatch, text=OVERLAY):
    monkeypatch.chdir(project)
    (project / "presets/own.yaml").write_text(text)
    return rung.lay_out("own")


def test_a_layout_is_made_once_and_its_parameters_are_kept(project, monkeypatch):
    folder = lay_out(project, monkeypatch)
    text = (project / folder / "params.yaml").read_text()
    assert "rank: 4" in text and "# Every setting of the study" in text
    (project / folder / "params.yaml").write_text(text.replace("rank: 4", "rank: 2"))
    assert rung.lay_out("own") == folder
    assert "rank: 2" in (project / folder / "params.yaml").read_text()
    assert (project / folder / "stages/train.py").samefile(project / "stages/train.py")
    assert (project / folder / "dvc.yaml").readlink().as_posix() == "../../dvc.yaml"


def test_a_preset_is_laid_over_the_committed_parameters(project, monkeypatch):
    """Another preset, or `make data`, may have changed the file in front of us."""
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("alpha: null", "alpha: 32"))
    folder = lay_out(project, monkeypatch)
    assert yaml.safe_load((project / folder / "params.yaml").read_text())["lora"]["alpha"] is None
    assert "alpha: 32" in (project / "params.yaml").read_text()


def test_the_base_model_is_linked_and_one_that_is_not_there_is_named(project, monkeypatch):
    folder = lay_out(project, monkeypatch)
    rung.require_model(folder)
    assert (project / folder / "models/tiny/config.json").is_file()
    values = project / folder / "params.yaml"
    values.write_text(values.read_text().replace("models/tiny", "models/none"))
    with pytest.raises(UserError, match=r"presets/own/params.yaml: model.path: models/none not found"):
        rung.require_model(folder)
    assert not (project / folder / "models/none").is_symlink()


def test_a_cpu_without_the_presets_format_is_told_before_anything_runs(project, monkeypatch):
    monkeypatch.setattr("stages.common.modeling.has_bfloat16", lambda: False)
    folder = lay_out(project, monkeypatch, "train:\n  autocast: bfloat16\n")
    with pytest.raises(UserError, match=r"presets/own/params.yaml: train.autocast: .* use none"):
        rung.require_model(folder)


def test_a_wrong_preset_leaves_nothing(project, monkeypatch):
    with pytest.raises(UserError, match=r"presets/own.yaml: .* not changed"):
        lay_out(project, monkeypatch, "lora:\n  rank: many\n")
    assert not (project / "presets/own").exists()
    with pytest.raises(UserError, match=r"preset 'other': presets/other.yaml not found; there are"):
        rung.lay_out("other")


def test_what_is_no_link_of_ours_is_not_replaced(project, monkeypatch):
    (project / "presets/own").mkdir()
    (project / "presets/own/stages").mkdir()
    with pytest.raises(UserError, match=r"presets/own/stages: expected a link to \.\./\.\./stages"):
        lay_out(project, monkeypatch)


@pytest.mark.parametrize("name", ["smollm2-docstrings", "smollm2-xsum"])
def test_a_preset_of_the_packaged_model_fits_the_parameters(tmp_path, monkeypatch, name):
    from stages.commands import edit as editing

    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    editing.apply(params.read_yaml(ROOT / f"presets/{name}.yaml"), name)
    values = params.parse_yaml((tmp_path / "params.yaml").read_text(), tmp_path / "params.yaml")
    assert values["model"]["name"] == values["model"]["path"] == "models/smollm2-135m"
    assert params.problems(values) == []
