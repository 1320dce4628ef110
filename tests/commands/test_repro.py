"""A preset's own pipeline: presets/NAME/, beside the default's results and not over them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, run, write_local

from onesentence.commands import base, repro
from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.files import file_sha256

OVERLAY = "prompt:\n  template: label\ntrain:\n  learning_rate: 0.03\nlora:\n  rank: 4\n"


def run_own(project: Path, pairs: list[dict]) -> Path:
    """Run a preset of the project's own on its own articles, and commit; its folder."""
    (project / "presets/own.yaml").write_text(OVERLAY)
    given = write_local(project.parent / "given", pairs)
    folder = project / "presets/own"
    run(project, "python", "-m", "onesentence", "repro", "own")
    run(folder, "python", "-m", "onesentence", "data", str(given))
    run(project, "python", "-m", "onesentence", "repro", "own", "--run")
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--message=ran")
    return folder


def links(project: Path, revision: str) -> list[str]:
    """The links in presets/ of a revision. DVC would replace them by what is behind them."""
    listed = run(project, "git", "ls-tree", "-r", revision, "presets/").stdout.splitlines()
    return [line.rpartition("\t")[2] for line in listed if line.startswith("120000")]


@pytest.mark.slow
def test_a_preset_runs_beside_the_default_and_leaves_it_as_it_was(project, pairs):
    (project / "presets/own.yaml").write_text(OVERLAY)
    given = write_local(project.parent / "given", pairs)
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--message=preset")
    folder = project / "presets/own"
    run(project, "python", "-m", "onesentence", "repro", "own")
    refused = run(project, "python", "-m", "onesentence", "repro", "own", "--run", check=False)
    assert refused.returncode == 1
    assert "presets/own: data/local not found; add your articles: make data FROM=PATH PRESET=own" in (
        refused.stderr
    )
    run(folder, "python", "-m", "onesentence", "data", str(given))
    shown = run(project, "python", "-m", "onesentence", "repro", "own", "--run").stdout
    assert "Results are in presets/own" in shown and "8 test articles" in shown

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

    # Clean when committed, nothing left to do, and nothing that DVC looks for at the repository's root.
    run(project, "git", "add", "--all")
    listed = run(project, "git", "ls-files", "-s", "presets/own").stdout
    assert "120000" in listed and "adapter_model" not in listed and "report.html" not in listed
    run(project, "git", "commit", "--quiet", "--message=ran")
    again = run(project, "python", "-m", "onesentence", "repro", "own", "--run").stdout
    assert "up to date" in again
    assert run(project, "git", "status", "--porcelain").stdout == ""
    assert "presets" not in run(project, "dvc", "status").stdout
    assert "presets" not in run(project, "dvc", "data", "status", "--granular").stdout
    # The cache is the repository's, so that a clone of the folder needs no other.
    assert not (folder / ".dvc/cache").exists()
    shutil.rmtree(folder / "models/tuned")
    run(folder, "dvc", "checkout")
    assert (folder / "models/tuned/adapter_model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.long
def test_experiments_run_in_a_preset_s_pipeline(project, pairs):
    folder = run_own(project, pairs)
    # A variant, compared with what it varies; git holds both.
    run(folder, "dvc", "exp", "run", "--name", "wider", "--set-param", "lora.rank=8")
    diff = run(folder, "python", "-m", "onesentence", "diff", "HEAD", "--markdown").stdout
    assert "lora.rank" in diff and "learning_rate" not in diff
    assert "one run on each side, paired by article" in diff
    missing = run(folder, "python", "-m", "onesentence", "diff", "HEAD", "--folder", "other", check=False)
    assert "--folder: HEAD has no other; name presets/NAME of a preset that was run" in missing.stderr
    # In a copy of the commit, as a queue runs it.
    run(folder, "git", "checkout", ".")
    run(folder, "dvc", "exp", "run", "--temp", "--name", "copied", "--set-param", "lora.rank=2")
    assert "copied" in run(folder, "dvc", "exp", "show").stdout
    refs = run(project, "git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    experiments = [ref for ref in refs if ref.endswith(("/wider", "/copied"))]
    assert len(experiments) == 2
    assert all(links(project, ref) == links(project, "HEAD") for ref in experiments)


STUDIES = """
scales:
  own: {model: models/tiny, pipeline: presets/own, settings: {evaluate.split: validation}, quick: {}}
studies:
  rank:
    question: Does quality grow with the rank?
    baseline: rank-2
    seeds: [0]
    axes: {lora.rank: [2, 3]}
"""


@pytest.mark.slow
@pytest.mark.long
def test_a_study_runs_in_a_preset_s_pipeline(project, pairs):
    (project / "studies.yaml").write_text(STUDIES)
    folder = run_own(project, pairs)
    assert (folder / "studies.yaml").read_text() == STUDIES
    shown = run(folder, "python", "-m", "onesentence", "study", "rank", "--jobs", "2").stdout
    assert "2 to go" in shown and "rank-3" in shown
    refs = run(project, "git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    assert sorted(ref.rpartition("/")[2] for ref in refs) == ["own-rank-2-seed0", "own-rank-3-seed0"]
    assert links(project, refs[0]) == links(project, "HEAD")
    changed = run(project, "git", "status", "--porcelain", "-uall").stdout.split()[1::2]
    written = [
        f"presets/own/{top}/studies/rank.{end}" for top, end in (("metrics", "json"), ("plots", "csv"))
    ]
    written += ["docs/studies-own.md", "presets/own/plots/studies/rank.svg"]
    written += ["presets/own/metrics/studies/scores/rank.parquet", "benchmarks/results/studies/own-rank.json"]
    assert sorted(changed) == sorted(written)
    page = (project / "docs/studies-own.md").read_text()
    assert page.startswith("# Studies of own\n") and "(../presets/own/plots/studies/rank.svg)" in page
    compared = json.loads((folder / "metrics/studies/rank.json").read_text())
    assert compared["scale"] == "own" and list(compared["variants"]) == ["rank-2", "rank-3"]
    # Without the experiments: nothing runs, and no byte changes.
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--message=study")
    run(folder, "dvc", "exp", "remove", "own-rank-2-seed0", "own-rank-3-seed0")
    again = run(folder, "python", "-m", "onesentence", "study", "rank").stdout
    assert "2 of 2 runs are complete" in again
    run(folder, "python", "-m", "onesentence", "compare", "rank", "--from-scores")
    assert run(project, "git", "status", "--porcelain").stdout == ""


def test_the_default_is_compared_with_a_preset(project, monkeypatch):
    """Both sides' results are the same files here, and one parameter differs."""
    lay_out(project, monkeypatch)
    for folder, rank in (("", 2), ("presets/own/", 4)):
        place = project / folder
        (place / "metrics").mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "metrics/evaluation.json", place / "metrics")
        (place / "params.yaml").write_text(f"lora:\n  rank: {rank}\n")
    run(project, "git", "add", "--all", "--force")
    run(project, "git", "commit", "--quiet", "--message=both")
    against = run(project, "python", "-m", "onesentence", "diff", "HEAD", "--folder", "presets/own").stdout
    back = run(project / "presets/own", "python", "-m", "onesentence", "diff", "HEAD", "--folder", ".").stdout
    own = run(project / "presets/own", "python", "-m", "onesentence", "diff", "HEAD").stdout
    assert "Studies" not in against and "Plots" not in against and "Studies" in own
    assert "HEAD:presets/own" in against and "lora.rank" in against and "lora.rank" in back
    shutil.rmtree(project / "presets/own")  # as on a branch without it: what git holds is compared
    assert (
        run(project, "python", "-m", "onesentence", "diff", "HEAD", "--folder", "presets/own").stdout
        == against
    )
    run(project, "git", "checkout", "--", "presets/own")
    assert "Parameters: none changed" in own


def lay_out(project, monkeypatch, text=OVERLAY):
    monkeypatch.chdir(project)
    (project / "presets/own.yaml").write_text(text)
    return repro.lay_out("own")


def test_a_layout_is_made_once_and_its_parameters_are_kept(project, monkeypatch):
    folder = lay_out(project, monkeypatch)
    text = (project / folder / "params.yaml").read_text()
    assert "rank: 4" in text and "# Every setting of the pipeline" in text
    (project / folder / "params.yaml").write_text(text.replace("rank: 4", "rank: 2"))
    assert repro.lay_out("own") == folder
    assert "rank: 2" in (project / folder / "params.yaml").read_text()
    assert (project / folder / "stages/train.py").samefile(project / "stages/train.py")
    assert (project / folder / "requirements.txt").readlink().as_posix() == "../../requirements.txt"
    # The graph follows the repository's.
    changed = "# another\n" + (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(changed)
    repro.lay_out("own")
    assert not (project / folder / "dvc.yaml").is_symlink()
    assert (project / folder / "dvc.yaml").read_text() == changed


def test_a_preset_is_laid_over_the_committed_parameters(project, monkeypatch):
    """Another preset, or `make data`, may have changed the file in front of us."""
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("alpha: null", "alpha: 32"))
    folder = lay_out(project, monkeypatch)
    assert yaml.safe_load((project / folder / "params.yaml").read_text())["lora"]["alpha"] is None
    assert "alpha: 32" in (project / "params.yaml").read_text()


def test_the_base_model_is_linked_and_one_that_is_not_there_is_named(project, monkeypatch):
    folder = lay_out(project, monkeypatch)
    repro.require_model(folder)
    assert (project / folder / "models/tiny/config.json").is_file()
    values = project / folder / "params.yaml"
    values.write_text(values.read_text().replace("models/tiny", "models/none"))
    with pytest.raises(UserError, match=r"presets/own/params.yaml: model.watch: models/none not found"):
        repro.require_model(folder)
    assert not (project / folder / "models/none").is_symlink()


def test_a_packed_model_is_tracked_in_the_folder_and_comes_back_from_the_cache(project, monkeypatch):
    folder = lay_out(project, monkeypatch, "model:\n  name: models/packed\n  watch: models/packed\n")
    weights = project / "models/tiny/model.safetensors"
    tokenizer = project / "models/tiny/tokenizer.json"
    packed = replace(
        base.BASES["smollm2-135m"],
        weights_sha256=file_sha256(weights),
        tokenizer_sha256=file_sha256(tokenizer),
    )
    monkeypatch.setitem(base.BASES, "packed", packed)
    made = []
    monkeypatch.setattr(base, "make", lambda name, wheel, models: made.append(models / name))
    shutil.copytree(project / "models/tiny", project / "models/packed")
    repro.require_model(folder)
    assert (folder / "models/packed.dvc").is_file() and not (folder / "models/packed").is_symlink()
    assert not (project / "models/packed.dvc").exists()

    # Neither here nor at the top: from the cache.
    shutil.rmtree(folder / "models/packed")
    shutil.rmtree(project / "models/packed")
    repro.require_model(folder)
    assert file_sha256(folder / "models/packed/model.safetensors") == packed.weights_sha256 and not made

    # Another file of that name at the top is not taken for it.
    shutil.rmtree(folder / "models/packed")
    (folder / "models/packed.dvc").unlink()
    shutil.copytree(project / "models/tiny", project / "models/packed")
    (project / "models/packed/tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"base: tokenizer.json: expected SHA-256 .* `make base NAME=packed`"):
        repro.require_model(folder)
    assert not (folder / "models/packed").exists()


def test_the_folder_has_the_remotes_of_the_repository(project, monkeypatch, tmp_path):
    run(project, "dvc", "remote", "add", "--default", "shared", str(tmp_path / "shared"))
    run(project, "dvc", "remote", "add", "--local", "mine", "../mine")
    folder = lay_out(project, monkeypatch)
    listed = run(project / folder, "dvc", "remote", "list").stdout
    assert str(tmp_path / "shared") in listed and str((project / "../mine").resolve()) in listed
    config = (project / folder / ".dvc/config").read_text()
    assert "../../../.dvc/cache" in config and "mine" not in config
    assert run(project, "git", "diff", "--cached", "--name-only").stdout == ""


def test_a_wrong_configuration_of_dvc_leaves_none_in_the_folder(project, monkeypatch):
    config = project / ".dvc/config"
    text = config.read_text()
    config.write_text("[core\n")
    with pytest.raises(UserError, match=r"^\.dvc: its configuration is not valid: .*; correct it"):
        lay_out(project, monkeypatch)
    assert not (project / "presets/own/.dvc/config").exists()
    config.write_text(text)
    folder = lay_out(project, monkeypatch)
    assert "../../../.dvc/cache" in (project / folder / ".dvc/config").read_text()


def test_a_cpu_without_the_presets_format_is_told_before_anything_runs(project, monkeypatch):
    monkeypatch.setattr("onesentence.model.loading.has_bfloat16", lambda: False)
    folder = lay_out(project, monkeypatch, "train:\n  autocast: bfloat16\n")
    with pytest.raises(UserError, match=r"presets/own/params.yaml: train.autocast: .* use none"):
        repro.require_format(folder)


def test_a_wrong_preset_leaves_nothing(project, monkeypatch):
    with pytest.raises(UserError, match=r"presets/own.yaml: .* not changed"):
        lay_out(project, monkeypatch, "lora:\n  rank: many\n")
    assert not (project / "presets/own").exists()
    with pytest.raises(UserError, match=r"preset 'other': presets/other.yaml not found .expected one of"):
        repro.lay_out("other")


def test_what_is_no_link_of_ours_is_not_replaced(project, monkeypatch):
    (project / "presets/own").mkdir()
    (project / "presets/own/stages").mkdir()
    with pytest.raises(UserError, match=r"presets/own/stages: expected a link to \.\./\.\./stages"):
        lay_out(project, monkeypatch)


def test_a_file_in_the_way_of_a_folder_is_named_and_kept(project, monkeypatch):
    monkeypatch.chdir(project)
    (project / "presets" / "own.yaml").write_text(OVERLAY)
    folder = project / "presets" / "own"
    folder.write_text("mine")
    with pytest.raises(UserError, match="presets/own: expected a folder, found something else; move that"):
        repro.lay_out("own")
    assert folder.read_text() == "mine"
    folder.unlink()
    folder.mkdir()
    (folder / "metrics").write_text("mine")
    with pytest.raises(UserError, match="presets/own/metrics: expected a folder, found something else"):
        repro.lay_out("own")


@pytest.mark.parametrize("name", ["smollm2-docstrings", "smollm2-xsum"])
def test_a_preset_of_the_packaged_model_fits_the_parameters(tmp_path, monkeypatch, name):
    from onesentence.commands import edit as editing

    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    editing.apply(params.read_yaml(ROOT / f"presets/{name}.yaml"), name)
    values = params.parse_yaml((tmp_path / "params.yaml").read_text(), tmp_path / "params.yaml")
    assert values["model"]["name"] == values["model"]["watch"] == "models/smollm2-135m"
    assert params.problems(values) == []
