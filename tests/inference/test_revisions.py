"""The model of another revision or of an experiment comes from git and DVC's cache, whole or not at all."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import run

from onesentence.core.errors import UserError
from onesentence.inference.models import find
from onesentence.inference.revisions import fetch
from onesentence.inference.summarizer import Summarizer

ARTICLES = ["def f(x: int) -> int\n\nReturns x, doubled.", "The council met on Monday. It chose a new mayor."]


def texts(model, **options) -> list[str]:
    return [summary.text for summary in Summarizer.load(model, **options).summarize(ARTICLES)]


def commit(folder, message: str) -> str:
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", f"--message={message}")
    return run(folder, "git", "rev-parse", "HEAD").stdout.strip()


@pytest.fixture(scope="module")
def history(tmp_path_factory, pipeline):
    """(repository, first commit, summaries there): the tuned model is DVC's, and another one at the second
    commit; the first is also the experiment `rank-8`."""
    from dvc.repo import Repo

    folder = tmp_path_factory.mktemp("history") / "repository"
    shutil.copytree(pipeline, folder)
    run(folder, "git", "init", "--quiet", "--initial-branch=main")
    with Repo.init(str(folder)) as repo:
        with repo.config.edit() as config:
            config["core"]["analytics"] = False
        repo.add([str(folder / "models/tuned")])
    (folder / ".gitignore").write_text("*.pyc\n")
    first = commit(folder, "first")
    run(folder, "git", "update-ref", f"refs/exps/{first[:2]}/{first[2:]}/rank-8", first)
    summaries = texts(folder)
    config_file = folder / "models/tuned/adapter_config.json"
    config = json.loads(config_file.read_text())
    config_file.unlink()  # a link into the cache must not be written through
    config_file.write_text(json.dumps(config | {"lora_alpha": 4}))
    with Repo(str(folder)) as repo:
        repo.add([str(folder / "models/tuned")])
    commit(folder, "second")
    assert texts(folder) != summaries
    return folder, first, summaries


@pytest.fixture
def here(history, monkeypatch):
    """The repository as the working directory."""
    monkeypatch.chdir(history[0])
    return history[0]


@pytest.mark.parametrize("name", ["rank-8", "HEAD~1", "commit"])
def test_an_experiment_or_a_revision_gives_its_own_model(history, here, name):
    _, first, summaries = history
    name = first[:10] if name == "commit" else name
    assert texts(name) == summaries
    found = find(name)
    assert found.name == f"models/tuned at {name} ({first[:7]})" and found.trained
    assert find(None, revision=name).name == found.name
    assert run(here, "git", "status", "--porcelain").stdout == ""


def test_a_fetched_model_is_kept_and_used_again_without_the_cache(history, here):
    folder, commit = fetch("main", here, untuned=False)
    assert folder == Path(".dvc/tmp/summarize") / commit  # no absolute path in what is printed
    shutil.move(here / ".dvc/cache", here / ".dvc/moved")
    try:
        assert fetch("main", here, untuned=False) == (folder, commit)
        assert texts("main") == texts(here)
    finally:
        shutil.move(here / ".dvc/moved", here / ".dvc/cache")


def test_without_a_cache_and_a_remote_one_sentence_says_so(history, here):
    shutil.rmtree(here / ".dvc/tmp/summarize", ignore_errors=True)
    shutil.move(here / ".dvc/cache", here / ".dvc/moved")
    try:
        with pytest.raises(
            UserError, match=r"^rank-8: its model is neither in DVC's cache nor in a remote"
        ) as e:
            find("rank-8")
        assert "\n" not in str(e.value) and str(here) not in str(e.value)
        assert list((here / ".dvc/tmp/summarize").iterdir()) == []  # nothing half-fetched
        # The base is in git.
        assert find(None, untuned=True, revision="rank-8").name.startswith("models/tiny at rank-8 (")
    finally:
        shutil.move(here / ".dvc/moved", here / ".dvc/cache")


def test_a_full_disk_is_not_said_of_the_cache(history, here, monkeypatch):
    from dvc.fs import dvc as fs

    shutil.rmtree(here / ".dvc/tmp/summarize", ignore_errors=True)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fs.DVCFileSystem, "get_file", full)
    with pytest.raises(UserError, match=r"^rank-8: the disk is full; free some space"):
        find("rank-8")
    assert list((here / ".dvc/tmp/summarize").iterdir()) == []


def test_a_name_that_means_nothing_is_refused(here, tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match=r"^nosuch: no folder, no experiment and no git revision has this name"
    ):
        find("nosuch")
    for name in ("HEAD:params.yaml", "HEAD:models", "HEAD^{tree}"):  # git knows them, but they are no commits
        with pytest.raises(UserError, match=r"no folder, no experiment and no git revision has this name"):
            find(None, revision=name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^main: is no folder, and this is no DVC repository"):
        find("main")


def test_a_preset_whose_base_is_a_link_has_revisions_too(here):
    run(here, "git", "checkout", "--quiet", "-b", "presets")
    try:
        preset = here / "presets/mine"
        (preset / "models").mkdir(parents=True)
        shutil.copy(here / "params.yaml", preset)
        shutil.copytree(here / "models/tuned", preset / "models/tuned")
        (preset / "models/tiny").symlink_to("../../../models/tiny")
        run(preset, "dvc", "init", "--quiet", "--subdir")
        shutil.copy(here / ".dvc/config", preset / ".dvc/config")
        commit(here, "a preset")
        summaries = texts(preset)
        run(here, "git", "tag", "linked")
        (preset / "models/tiny").unlink()
        (preset / "models/tiny").symlink_to("../../../../elsewhere")
        commit(here, "a link that leads out")
        # While the link at hand leads nowhere.
        linked = Summarizer.of(find(Path("presets/mine"), revision="linked")).summarize(ARTICLES)
        assert [summary.text for summary in linked] == summaries
        with pytest.raises(UserError, match=r"^presets of presets/mine: has no \.\./elsewhere; name"):
            find(Path("presets/mine"), revision="presets")
    finally:
        run(here, "git", "checkout", "--quiet", "--force", "main")
        shutil.rmtree(here / "presets", ignore_errors=True)


def test_a_revision_without_a_pipeline_is_refused(here):
    run(here, "git", "checkout", "--quiet", "-b", "other")
    try:
        for path, name in (("models/tuned.dvc", "models/tuned"), ("params.yaml", "params.yaml")):
            run(here, "git", "rm", "--quiet", "--cached", path)
            run(here, "git", "commit", "--quiet", f"--message=without {path}")
            with pytest.raises(
                UserError, match=rf"^other: has no {name}; name a revision whose pipeline was"
            ):
                find("other")
    finally:
        run(here, "git", "checkout", "--quiet", "--force", "main")
