"""DVC experiments as git holds them: found, reused, renamed."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import run
from samples import RANKS, declared, hold, put_experiment

from onesentence.commands import show
from onesentence.commands.diff import commit_of
from onesentence.core.errors import UserError
from onesentence.study import experiments
from onesentence.study.experiments import (
    experiment_refs,
    has_values,
    in_git,
    make_the_only,
    require_distinct,
    reuse_equal_experiments,
    study_command,
)
from onesentence.study.scores import object_here


def test_a_variant_that_a_default_makes_the_same_as_another_is_refused(tmp_path):
    """A change of a default must not turn `lora` into rsLoRA under its old name."""
    change = {"axes": {}, "variants": {"as-set": {}, "rank-4": {"lora.rank": 4}}, "baseline": "as-set"}
    study = declared(tmp_path, one={**RANKS, **change, "analysis": "none", "along": None}).study("one")
    whole = {"lora": {"rank": 8}, "train": {"epochs": 1}}
    require_distinct(study, whole)
    with pytest.raises(
        UserError, match=r"studies\.one: as-set and rank-4 have the same values with this params\.yaml"
    ):
        require_distinct(study, {**whole, "lora": {"rank": 4}})


@pytest.mark.parametrize(("folder", "more"), [("", ""), ("presets/own", " PRESET=own")])
def test_the_command_that_is_named_is_one_of_this_pipeline(monkeypatch, folder, more):
    monkeypatch.setattr(experiments, "pipeline_here", lambda: folder)
    assert study_command("rank") == f"`make study NAME=rank{more}`"
    assert study_command("quick-rank") == f"`make study NAME=rank QUICK=1{more}`"


@pytest.fixture
def held(tmp_path, monkeypatch) -> Path:
    """A repository whose params.yaml and one file of code experiments were made with."""
    monkeypatch.chdir(tmp_path)
    return hold(tmp_path)


def test_an_experiment_has_the_values_that_its_lock_holds(held):
    """DVC writes small numbers as YAML 1.2 has them, which YAML 1.1 reads as text."""
    ref = put_experiment(held, "small", "5e-05")
    assert has_values(ref, {"train.learning_rate": 5e-05})
    assert not has_values(ref, {"train.learning_rate": 6e-05}) and not has_values(ref, {})


def test_a_key_that_was_added_later_orphans_no_experiment(held):
    """An experiment that was made without `evaluate.nli_model` is one with its default, null."""
    older = '0.002, "evaluate": {"split": "test", "resamples": 200}'
    ref = put_experiment(held, "older", older)
    added = "nli_model: null, nli_revision: null, nli_sha256: null"
    text = "train: {learning_rate: 0.002}\nseed: 0\nevaluate: {split: test, resamples: 200, "
    Path("params.yaml").write_text(f"{text}{added}}}\n")
    assert has_values(ref, {}) and reuse_equal_experiments({"same": {}}) == ["same"]
    assert not has_values(ref, {"evaluate.nli_model": "models/nli"})
    assert not has_values(ref, {"evaluate.resamples": 300})
    Path("params.yaml").write_text(f"{text}{added}, other: null}}\n")  # a key of which nothing is known
    assert not has_values(ref, {})


def test_an_experiment_is_matched_whether_it_reported_to_a_tracker_or_is_older_than_that_key(held):
    ref = put_experiment(held, "old", "0.004", train='{"learning_rate": 0.004}')
    values = '{"learning_rate": 0.004, "report_to": "mlflow"}'
    tracked = put_experiment(held, "tracked", "0.004", "cd", values)
    for name in (ref, tracked):
        assert has_values(name, {"train.learning_rate": 0.004})
        assert not has_values(name, {})
    Path("params.yaml").write_text("train: {learning_rate: 0.002, report_to: none}\nseed: 0\n")
    for name in (ref, tracked):
        assert has_values(name, {"train.learning_rate": 0.004})
        assert has_values(name, {"train.learning_rate": 0.004, "train.report_to": "wandb"})
        assert not has_values(name, {"train.report_to": "none"})
        assert not has_values(name, {"train.learning_rate": 0.004, "train.epochs": 2})


def test_an_equal_experiment_has_the_same_code_and_values(held):
    ref = put_experiment(held, "one", "0.004")
    assert reuse_equal_experiments({"near": {"train.learning_rate": 0.0041}, "as-set": {}}) == []
    assert reuse_equal_experiments({"same": {"train.learning_rate": 0.004}}) == ["same"]
    assert commit_of("same") == run(held, "git", "rev-parse", ref).stdout.strip() == commit_of("one")
    Path("code.py").write_text("2\n")
    assert reuse_equal_experiments({"other": {"train.learning_rate": 0.004}}) == []


def test_a_file_behind_a_link_is_the_one_that_is_compared(held, tmp_path_factory, monkeypatch):
    """A link's own object in git says nothing of its target. DVC's links into a cache are not followed."""
    pipeline = held / "presets/own"
    (pipeline / "models").mkdir(parents=True)
    (held / "models/tiny").mkdir(parents=True)
    (pipeline / "models/tiny").symlink_to("../../../models/tiny")
    (pipeline / "models/cached").symlink_to(tmp_path_factory.mktemp("cache"))
    assert in_git("models/tiny") == "models/tiny"
    monkeypatch.chdir(pipeline)
    assert in_git("models/tiny/config.json") == "models/tiny/config.json"
    assert in_git("models/cached/x") == "presets/own/models/cached/x"
    assert in_git("models/own.dvc") == "presets/own/models/own.dvc"
    (held / "models/tiny/config.json").write_text("1")
    run(held, "git", "add", "--all")
    run(held, "git", "commit", "--quiet", "--message=model")
    known = object_here("models/tiny")
    assert known == run(held, "git", "rev-parse", "HEAD:models/tiny").stdout.strip()
    (held / "models/tiny/config.json").write_text("2")
    assert object_here("models/tiny") is None


def test_an_equal_experiment_has_the_same_pins_whatever_the_comments_beside_them(held):
    requirements = Path("requirements.txt")
    requirements.write_text("# One\na==1\nb==2  # why\n")
    put_experiment(held, "one", "0.004")
    wanted = {"same": {"train.learning_rate": 0.004}}
    requirements.write_text("b==2\n\n# Two\na==1\n")
    assert reuse_equal_experiments(wanted) == ["same"]
    for changed in ("a==1\nb==3\n", "a==1\n", "a==1\nb==2\nc==1\n"):
        requirements.write_text(changed)
        assert reuse_equal_experiments({"other": wanted["same"]}) == []


def test_a_name_that_another_experiment_has_is_given_and_nothing_is_lost(held):
    """A default and its variant are exchanged: each is found again under the other's name."""
    put_experiment(held, "as-set-seed0", "0.002")
    put_experiment(held, "fast-seed0", "0.004")
    slow, fast = commit_of("as-set-seed0"), commit_of("fast-seed0")
    wanted = {"as-set-seed0": {"train.learning_rate": 0.004}, "fast-seed0": {"train.learning_rate": 0.002}}
    assert reuse_equal_experiments(wanted) == list(wanted)
    assert commit_of("as-set-seed0") == fast and commit_of("fast-seed0") == slow
    assert reuse_equal_experiments(wanted) == list(wanted)  # once more changes nothing
    assert commit_of("as-set-seed0") == fast and commit_of("fast-seed0") == slow


def test_an_equal_experiment_of_another_baseline_takes_the_name_from_what_is_wanted_too(held):
    put_experiment(held, "as-set-seed0", "0.002", "aa")
    put_experiment(held, "fast-seed0", "0.004", "bb")
    slow, fast = commit_of("as-set-seed0"), commit_of("fast-seed0")
    wanted = {"as-set-seed0": {"train.learning_rate": 0.004}, "slow-seed0": {"train.learning_rate": 0.002}}
    assert reuse_equal_experiments(wanted) == list(wanted)
    assert commit_of("as-set-seed0") == fast and commit_of("slow-seed0") == slow


def test_two_branches_keep_their_experiments_of_one_name(held):
    """The wanted one has the name; the other is found again by its values."""
    values = {"train.learning_rate": 0.004}
    put_experiment(held, "fast-seed0", "0.004", "aa")
    first = commit_of("fast-seed0")
    Path("code.py").write_text("2\n")
    ref = put_experiment(held, "fast-seed0", "0.004", "bb")
    with pytest.raises(UserError, match=f"'fast-seed0': 2 experiments have this name; .*{first[:10]}"):
        commit_of("fast-seed0")
    make_the_only(ref)
    second = commit_of("fast-seed0")
    assert second != first == commit_of(f"fast-seed0.{first[:7]}")
    Path("code.py").write_text("1\n")  # back on the first branch
    assert reuse_equal_experiments({"fast-seed0": values}) == ["fast-seed0"]
    assert commit_of("fast-seed0") == first and commit_of(f"fast-seed0.{second[:7]}") == second
    assert set(experiment_refs()) == {"fast-seed0", f"fast-seed0.{second[:7]}"}


def test_the_list_leaves_out_experiments_of_other_pipelines(held, monkeypatch):
    """Every commit holds the files of all. One's summary is no object, another's has a text for a number."""
    own = held / "presets/own"
    (own / "metrics").mkdir(parents=True)
    for name, text in (("params.yaml", "seed: 0\n"), ("metrics/summary.json", '{"rouge1": 1.5}')):
        (own / name).write_text(text)
    run(held, "git", "add", "--all")
    run(held, "git", "commit", "--quiet", "--message=a preset")
    for number, summary in enumerate(('{"rouge1": 31.25}', "[]", '{"rouge1": "high"}')):
        (held / "metrics").mkdir(exist_ok=True)
        (held / "metrics/summary.json").write_text(summary)
        put_experiment(held, f"own-{number}", "0.002", baseline=f"a{number}")
    run(held, "git", "rm", "--quiet", "-r", "--force", "--cached", "metrics")
    shutil.rmtree(held / "metrics")
    (own / "metrics/summary.json").write_text('{"rouge1": 2.5}')
    run(held, "git", "add", "--all")
    tree = run(held, "git", "write-tree").stdout.strip()
    commit = run(held, "git", "commit-tree", tree, "-p", "HEAD", "-m", "foreign").stdout.strip()
    run(held, "git", "update-ref", f"refs/exps/ff/{'0' * 38}/foreign", commit)
    monkeypatch.chdir(own)
    foreign = CliRunner().invoke(show.command, [], catch_exceptions=False).output
    assert "1 experiment," in foreign and "foreign" in foreign and "2.50" in foreign
    monkeypatch.chdir(held)
    shown = CliRunner().invoke(show.command, [], catch_exceptions=False).output
    assert "3 experiments" in shown and "own-2" in shown and "31.25" in shown and "foreign" not in shown
    (held / "metrics").mkdir(exist_ok=True)
    (held / "metrics/summary.json").write_text("{")
    put_experiment(held, "damaged", "0.002", baseline="a9")
    with pytest.raises(
        UserError, match=r"damaged:metrics/summary\.json: not valid JSON .* remove the experiment"
    ):
        CliRunner().invoke(show.command, [], catch_exceptions=False)


def test_a_machine_without_git_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"^git: not found; install it"):
        experiments.git("status")
