"""Studies that run real stages: killed, continued, compared; failures are named."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
import yaml
from cluster import make_small
from conftest import make_project, run, take_cache

from onesentence.core.files import write_json, write_text
from onesentence.study.clone import LAST, Clone
from onesentence.study.declaration import Studies
from onesentence.study.jobs import Job, clones_for, compare_in
from onesentence.study.pool import WORK
from onesentence.study.variants import run_name

TINY_STUDIES = {
    "scales": {
        "tiny": {"model": "models/tiny", "settings": {"evaluate.split": "validation"}, "quick": {}},
    },
    "studies": {
        "rank": {
            "question": "Does quality grow with the rank?",
            "baseline": "rank-2",
            "seeds": [0, 1],
            "axes": {"lora.rank": [2, 4]},
            "analysis": "trend",
            "along": "lora.rank",
        },
        "broken": {
            "question": "What of a variant that fails?",
            "baseline": "as-set",
            "seeds": [0],
            "variants": {
                "as-set": {"lora.rank": 2},
                "no-module": {"lora.target_modules": ["nothing"]},
                "resamples": {"lora.rank": 2, "evaluate.resamples": 150},
            },
        },
    },
}


@pytest.fixture(scope="module")
def studied(tmp_path_factory, pairs, tiny, ran):
    """The tiny project with studies of its own, committed; the tests below take it as the last one left
    it. The stages before training are in its cache, as a researcher's are.
    """
    project = make_project(tmp_path_factory.mktemp("studied"), pairs, tiny)
    take_cache(project, ran)
    (project / "studies.yaml").write_text(yaml.safe_dump(TINY_STUDIES, sort_keys=False))
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--message=studies")
    return project


def study(folder: Path, *arguments: str, check: bool = True):
    return run(folder, "python", "-m", "onesentence", "study", *arguments, check=check)


@contextmanager
def started(folder: Path, name: str):
    """`make study` in the background; it is killed at the end, so that it can tidy nothing up."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with subprocess.Popen(
        ["python", "-m", "onesentence", "study", name, "--jobs", "2"],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def wait_until(reached) -> None:
    """Wait at most four minutes."""
    deadline = time.time() + 240
    while not reached() and time.time() < deadline:
        time.sleep(0.05)
    assert reached()


def test_a_variant_goes_on_in_the_clone_where_it_was_killed(tmp_path, monkeypatch):
    """Also where it is the last one that is missing, and one clone is enough."""
    monkeypatch.chdir(tmp_path)
    assert clones_for(2, {"a", "b"}) == [0, 1]
    for number, name in ((0, "a"), (1, "b"), (3, "c")):
        clone = Clone(WORK / f"clone-{number}", "")
        clone.complete()
        (clone.root / LAST).write_text(f"ref {name}")
    assert clones_for(1, {"b"}) == [1]
    assert clones_for(1, {"a", "b"}) == [0]
    assert clones_for(2, {"c", "d"}) == [0, 3]
    assert clones_for(3, {"c", "a"}) == [0, 1, 3]
    assert clones_for(1, {"d"}) == [0]


@pytest.mark.slow
def test_a_study_that_is_killed_on_the_way_ends_in_its_comparison(studied):
    logs = studied / ".dvc/tmp/studies"

    def at_stage(name: str) -> list[Path]:
        """Logs of variants that have come to a stage."""
        return [log for log in logs.glob("*.log") if f"Running stage '{name}'" in log.read_text()]

    with started(studied, "rank"):
        wait_until((logs / "clone-0/dvc.yaml").is_file)  # while it sets itself up
    with started(studied, "rank"):
        wait_until(lambda: at_stage("train"))
    with started(studied, "rank"):
        wait_until(lambda: at_stage("generate@tuned"))
    before = {log: log.read_text() for log in at_stage("generate@tuned")}
    # Nothing of it reaches the user's files but the scores of what has ended.
    scores, costs = "metrics/studies/scores/rank.parquet", "benchmarks/results/studies/tiny-rank.json"
    status = run(studied, "git", "status", "--porcelain", "-uall").stdout.splitlines()
    assert set(status) <= {f"?? {scores}", f"?? {costs}"}
    assert run(studied, "git", "symbolic-ref", "--short", "HEAD").stdout.strip()

    # What is edited meanwhile reaches neither variants nor the comparison, and stays.
    with started(studied, "rank") as process:
        # Until then the variants of the killed study may go on, and git's state is not read yet.
        said = list(takewhile(lambda line: " to go" not in line, process.stdout))
        wait_until(
            lambda: any(log.read_text() != text for log, text in before.items()) and at_stage("score@tuned")
        )
        for name in ("stages/train.py", "docs/studies.md"):
            (studied / name).write_text((studied / name).read_text() + "\n")
        output = "".join(said) + process.stdout.read()
        process.wait(timeout=600)
    assert process.returncode == 0, output
    assert "ended the runs of a killed study; they go on from their last stage" in output
    for log, text in before.items():  # training that had ended before the kill is not done again
        # A variant may have gone on after the kill, even to its end, until the next study ended it.
        assert "Running stage 'train'" not in log.read_text().removeprefix(text)
    changed = run(studied, "git", "diff", "--name-only").stdout.split()
    written = {
        "docs/decisions.md",
        "metrics/studies/rank.json",
        "plots/studies/rank.csv",
        "plots/studies/rank.svg",
    }
    assert set(changed) == {"stages/train.py", "docs/studies.md", *written}
    assert (studied / "docs/studies.md").read_text().endswith("\n\n")
    run(studied, "git", "checkout", "--quiet", "--", "stages/train.py")

    done = study(studied, "rank", "--jobs", "2")
    assert "study rank: 4 of 4 runs are complete, 0 to go" in done.stdout
    assert "for each doubling" in done.stdout and "rank-4" in done.stdout
    assert not list(logs.glob("clone-*"))
    compared = json.loads((studied / "metrics/studies/rank.json").read_text())
    assert list(compared["variants"]) == ["rank-2", "rank-4"] and compared["seeds"] == [0, 1]
    assert compared["variants"]["rank-4"]["cost"]["trainable_parameters"] == 2 * 2 * 3 * 2 * 64 * 2
    taken = json.loads((studied / costs).read_text())  # not of a run that ended when the study was killed
    assert taken and set(taken) <= {run_name(f"rank-{rank}", seed) for rank in (2, 4) for seed in (0, 1)}
    assert all(cost["jobs"] == 2 and cost["seconds"] > 0 for cost in taken.values())
    assert all(cost["training_seconds"] > 0 for cost in taken.values() if "device" in cost)
    assert (studied / "plots/studies/rank.svg").is_file()
    assert "## rank\n\nDoes quality grow with the rank?" in (studied / "docs/studies.md").read_text()

    # Again: every run exists, nothing runs, no byte changes; plain DVC reads the experiments.
    before = written_by(studied)
    assert studied / scores in before
    again = study(studied, "rank")
    assert "4 of 4 runs are complete, 0 to go" in again.stdout and "scores alone" not in again.stdout
    assert written_by(studied) == before
    # The scores of each article are those of the experiments, and give the same numbers when they are gone.
    (studied / scores).unlink()
    study(studied, "rank")
    assert written_by(studied) == before
    shown = json.loads(run(studied, "dvc", "exp", "show", "--json").stdout)
    names = {e["name"] for revision in shown for e in revision.get("experiments") or []}
    assert names == {run_name(f"rank-{rank}", seed) for rank in (2, 4) for seed in (0, 1)}
    means = []
    for seed in (0, 1):
        text = run(
            studied, "git", "show", f"refs/exps/{ref_of(studied, f'rank-4-seed{seed}')}:metrics/summary.json"
        )
        means.append(json.loads(text.stdout)["rouge1"])
    assert compared["variants"]["rank-4"]["scores"]["rouge1"]["value"] == pytest.approx(
        np.mean(means), abs=1e-3
    )

    run(studied, "git", "add", "--all")
    run(studied, "git", "commit", "--quiet", "--message=study")


def written_by(folder: Path) -> dict[Path, bytes]:
    """What comparisons write, by file."""
    files = [path for name in ("metrics", "plots") for path in (folder / name / "studies").rglob("*.*")]
    files += [folder / "docs/studies.md", folder / "docs/decisions.md"]
    return {path: path.read_bytes() for path in files}


@pytest.mark.slow
def test_a_fresh_clone_computes_a_study_again_from_its_scores(studied, tmp_path):
    """Without experiments and without DVC's cache; and nothing runs that git has the scores of."""
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(studied), str(clone))
    assert run(clone, "git", "for-each-ref", "refs/exps").stdout == ""
    before = {path.relative_to(clone): text for path, text in written_by(clone).items()}
    assert before == {path.relative_to(studied): text for path, text in written_by(studied).items()}
    for name in before:
        if name.suffix != ".md" and name.stem == "rank" and name.suffix != ".parquet":
            (clone / name).unlink()
    compare = ("python", "-m", "onesentence", "compare", "rank")
    shown = run(clone, *compare, "--from-scores").stdout
    assert "for each doubling" in shown and run(clone, "git", "status", "--porcelain").stdout == ""
    done = study(clone, "rank")
    assert "4 of 4 runs are complete, 0 to go" in done.stdout and "complete as scores alone" in done.stdout
    assert run(clone, "git", "status", "--porcelain").stdout == ""
    # With other code, scores are no substitute for a run, but the numbers are still those of the scores.
    train = clone / "stages/train.py"
    train.write_text(train.read_text() + "ANOTHER = 1\n")
    assert "4 of 4 runs of rank are missing" in run(clone, *compare, check=False).stderr
    run(clone, *compare, "--from-scores")
    assert run(clone, "git", "status", "--porcelain").stdout.split() == ["M", "stages/train.py"]


@pytest.mark.slow
def test_what_a_reviewer_sees_with_and_without_the_cache(studied, tmp_path):
    """The experiments, and one against the other; pushed, pulled, applied, made a branch."""
    shown = run(studied, "python", "-m", "onesentence", "show", "rank").stdout
    assert "4 experiments" in shown and "rank=4, seed=1" not in shown.split("rank-4-seed0")[1].split("\n")[0]
    assert all(len(line) <= 120 for line in shown.splitlines())
    run(studied, "dvc", "exp", "apply", "rank-2-seed0")
    diff = run(studied, "python", "-m", "onesentence", "diff", "rank-4-seed0", "--markdown").stdout
    assert "| `lora.rank` | `4` | `2` |" in diff and "one run on each side, paired by article" in diff
    plain = json.loads(run(studied, "dvc", "exp", "diff", "--json", "rank-2-seed0", "rank-4-seed0").stdout)
    assert plain["params"]["params.yaml"]["lora.rank"] == {"old": 2, "new": 4, "diff": 2}
    page = run(studied, "dvc", "plots", "diff", "rank-2-seed0", "rank-4-seed0").stdout.strip()
    assert "rank-4-seed0" in Path(page.removeprefix("file://")).read_text()
    same = run(studied, "python", "-m", "onesentence", "diff", "rank-2-seed0").stdout
    assert same.count("identical") == 6 and "none changed" in same
    # Without the cache, as in a fresh clone: from the two intervals.
    bare, clone, drive = (tmp_path / name for name in ("bare", "clone", "drive"))
    run(studied, "git", "clone", "--quiet", "--bare", ".", str(bare))
    run(studied, "git", "remote", "add", "origin", str(bare))
    run(studied, "dvc", "remote", "add", "--default", "--local", "storage", str(drive))
    run(studied, "dvc", "exp", "push", "--quiet", "origin", "rank-2-seed0", "rank-4-seed0")
    run(tmp_path, "git", "clone", "--quiet", str(bare), str(clone))
    run(clone, "git", "fetch", "--quiet", "origin", "refs/exps/*:refs/exps/*")
    ref = f"refs/exps/{ref_of(clone, 'rank-4-seed0')}"
    run(clone, "git", "checkout", "--quiet", ref, "--", ".")
    diff = run(clone, "python", "-m", "onesentence", "diff", "rank-2-seed0", "--markdown").stdout
    assert "| `lora.rank` | `2` | `4` |" in diff and "unpaired, from the two intervals" in diff
    # With the folder that both reach: the colleague's experiment, applied, and as a branch.
    run(clone, "git", "checkout", "--quiet", "--force", "HEAD", "--", ".")
    run(clone, "dvc", "remote", "add", "--default", "--local", "storage", str(drive))
    run(clone, "dvc", "exp", "pull", "--quiet", "--force", "origin", "rank-2-seed0", "rank-4-seed0")
    run(clone, "dvc", "exp", "apply", "rank-4-seed0")
    assert "rank: 4" in (clone / "params.yaml").read_text()
    assert (clone / "models/tuned/adapter_model.safetensors").is_file()
    diff = run(clone, "python", "-m", "onesentence", "diff", "rank-2-seed0", "--markdown").stdout
    assert "one run on each side, paired by article" in diff
    run(clone, "dvc", "exp", "branch", "rank-4-seed0", "try-rank-4")
    assert run(clone, "git", "show", "try-rank-4:metrics/summary.json").stdout

    missing = run(studied, "python", "-m", "onesentence", "diff", "nothing", check=False)
    assert "'nothing': no commit, branch, tag or experiment has this name" in missing.stderr
    run(studied, "git", "checkout", "--quiet", "--force", "HEAD", "--", ".")


def ref_of(folder: Path, name: str) -> str:
    refs = run(folder, "git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    (matching,) = [ref for ref in refs if ref.endswith(f"/{name}")]
    return matching.removeprefix("refs/exps/")


@pytest.mark.slow
def test_an_experiment_of_other_articles_is_not_compared(studied, tmp_path):
    ref = f"refs/exps/{ref_of(studied, 'rank-4-seed1')}"
    made = run(studied, "git", "rev-parse", ref).stdout.strip()
    other = tmp_path / "other"
    run(studied, "git", "worktree", "add", "--quiet", "--detach", str(other), ref)
    evaluation = other / "metrics/evaluation.json"
    write_json(evaluation, json.loads(evaluation.read_text()) | {"n": 5})
    run(other, "git", "commit", "--all", "--quiet", "--message=other")
    run(other, "git", "update-ref", ref, "HEAD")
    scores = studied / "metrics/studies/scores/rank.parquet"
    kept = scores.read_bytes()
    scores.unlink()  # else its runs need no experiments
    refused = run(studied, "python", "-m", "onesentence", "compare", "rank", check=False)
    scores.write_bytes(kept)
    run(studied, "git", "update-ref", ref, made)
    run(studied, "git", "worktree", "remove", "--force", str(other))
    assert refused.returncode == 1
    assert "compare: n is 5 in rank-4-seed1 and 6 in rank-2-seed0" in refused.stderr
    assert run(studied, "git", "status", "--porcelain").stdout == ""  # nothing half-written


@pytest.mark.slow
def test_a_failure_is_named_with_its_log_and_the_rest_is_run(studied):
    failed = study(studied, "broken", check=False)
    assert failed.returncode == 1
    assert "no-module-seed0 failed; its log .dvc/tmp/studies/no-module-seed0.log ends" in failed.stdout
    assert "lora.target_modules: nothing matches no module" in failed.stdout
    assert (
        "1 runs failed: no-module-seed0" in failed.stderr
        and "remove a variant that cannot run" in failed.stderr
    )
    assert ref_of(studied, "resamples-seed0")  # the clone that it failed in works on
    # The others are compared, and say who is not among them.
    compared = json.loads((studied / "metrics/studies/broken.json").read_text())
    assert list(compared["variants"]) == ["as-set", "resamples"] and compared["left_out"] == ["no-module"]
    assert "Left out because runs are missing: no-module." in (studied / "docs/studies.md").read_text()
    refused = run(studied, "python", "-m", "onesentence", "compare", "broken", check=False)
    assert "1 of 3 runs of broken are missing, such as no-module-seed0" in refused.stderr

    # What another study has made under its own name is not made again.
    equal = [
        run(studied, "git", "rev-parse", f"refs/exps/{ref_of(studied, name)}").stdout
        for name in ("as-set-seed0", "rank-2-seed0")
    ]
    assert equal[0] == equal[1]

    (studied / "params.yaml").write_text((studied / "params.yaml").read_text() + "\n")
    dirty = study(studied, "rank", check=False)
    assert "1 tracked files are changed, such as params.yaml; commit them first" in dirty.stderr
    run(studied, "git", "checkout", "--quiet", "--", "params.yaml")


@pytest.mark.slow
@pytest.mark.long
def test_what_the_user_removes_runs_anew_where_it_is_wanted(studied):
    """Though the clone that made it holds a copy of it; else it stays removed."""
    assert list((studied / ".dvc/tmp/studies").glob("clone-*"))
    run(studied, "dvc", "exp", "remove", "resamples-seed0")
    scores = studied / "metrics/studies/scores/broken.parquet"
    scores.unlink()
    again = study(studied, "broken", check=False)
    assert "1 runs failed: no-module-seed0" in again.stderr and ref_of(studied, "resamples-seed0")
    assert list((studied / ".dvc/tmp/studies").glob("clone-*"))
    run(studied, "dvc", "exp", "remove", "resamples-seed0")
    study(studied, "rank")
    assert "resamples-seed0" not in run(studied, "git", "for-each-ref", "refs/exps").stdout


@pytest.mark.slow
def test_a_change_of_what_runs_were_made_with_makes_them_missing(studied, monkeypatch):
    """Definitions, data and the base count; the files of the code and the stage `report` do not."""
    from onesentence.study.experiments import finished

    monkeypatch.chdir(studied)
    assert len(finished(Studies("models/tiny").study("rank"))) == 4
    report = studied / "stages/report.py"
    report.write_text(report.read_text() + "\n")
    assert len(finished(Studies("models/tiny").study("rank"))) == 4
    # A comment, and a module that has another name: the same definitions.
    train = studied / "stages/train.py"
    text = train.read_text()
    train.write_text(text + "# A comment.\n")
    (studied / "onesentence/training/dropout.py").rename(studied / "onesentence/training/masks.py")
    for file in [*(studied / "stages").rglob("*.py"), *(studied / "onesentence").rglob("*.py")]:
        file.write_text(
            file.read_text().replace("onesentence.training.dropout", "onesentence.training.masks")
        )
    assert len(finished(Studies("models/tiny").study("rank"))) == 4
    train.write_text(text + "ANOTHER = 1\n")
    assert finished(Studies("models/tiny").study("rank")) == {}
    (studied / "onesentence/training/masks.py").unlink()
    run(studied, "git", "checkout", "--quiet", "--", ".")
    for name in ("data/local.dvc", "models/tiny/config.json"):
        changed = studied / name
        changed.write_text(changed.read_text() + "\n")
        assert finished(Studies("models/tiny").study("rank")) == {}
        run(studied, "git", "checkout", "--quiet", "--", ".")


def test_a_clone_finds_the_cache_of_a_repository_with_any_letters_in_its_path(tmp_path, monkeypatch):
    """DVC writes ASCII alone into its configuration, and empties the file where it cannot."""
    (tmp_path / "Größe 猫").mkdir()
    project = make_small(tmp_path / "Größe 猫")
    monkeypatch.chdir(project)
    commit = run(project, "git", "rev-parse", "HEAD").stdout.strip()
    clone = Job(0, commit, 1, inputs=False)
    cache = run(clone.folder, sys.executable, "-m", "dvc", "cache", "dir").stdout.strip()
    assert Path(cache).resolve() == project / ".dvc/cache"

    # The head of a scheduler compares in such a clone, in which no variant has run.
    def compared(study: str, quick: bool, partial: bool, folder: Path) -> None:
        for name in ("scores/rank.parquet", "rank.json"):
            write_text(folder / "metrics/studies" / name, name)
        for name in ("rank.csv", "rank.svg"):
            write_text(folder / "plots/studies" / name, name)

    monkeypatch.setattr("onesentence.study.jobs.compare", compared)
    compare_in(clone, "rank", quick=False, partial=False)
    assert (project / "metrics/studies/rank.json").read_text() == "rank.json"
    assert (project / "plots/studies/rank.svg").read_text() == "rank.svg"
