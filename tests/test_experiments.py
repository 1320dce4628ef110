"""What DVC users do: own data, experiments in the workspace, in a copy and queued, a remote."""

import json
import re
import shutil
import time

import pytest
from conftest import copy_project, copy_repository, edit, run, stage, write_local


def experiments(folder) -> dict[str, dict]:
    """Parameters and metrics of every experiment by name, through DVC's own table."""
    rows = json.loads(run(folder, "dvc", "exp", "show", "--json").stdout)
    found = {}
    for revision in rows:
        for experiment in revision.get("experiments") or []:
            for state in experiment["revs"][:1]:
                found[experiment["name"]] = state["data"]
    return found


@pytest.mark.slow
def test_own_data_is_a_dependency_and_every_kind_of_experiment_finds_it(ran, tmp_path, pairs):
    project = copy_project(ran, tmp_path)
    assert "up to date" in run(project, "dvc", "status").stdout

    # Workspace, copy, queue: each with another value, each with its own result.
    # Another rank runs training and what follows, and never the untuned model.
    said = run(project, "dvc", "exp", "run", "--name", "here", "-S", "lora.rank=2").stdout
    after = ["train", "generate@tuned", "score@tuned", "evaluate", "report"]
    assert re.findall(r"Running stage '([^']+)'", said) == after
    changed = run(project, "git", "status", "--porcelain").stdout
    assert "metrics/train.json" in changed and "metrics/smoke.json" not in changed
    run(project, "git", "checkout", "--quiet", ".")
    run(project, "dvc", "checkout", "--quiet")
    run(project, "dvc", "exp", "run", "--quiet", "--name", "copy", "--temp", "-S", "evaluate.resamples=150")
    queue = ("dvc", "exp", "run", "--quiet", "--name", "queued", "--queue")
    run(project, *queue, "-S", "data.seed=1", "tokenize")
    run(project, "dvc", "queue", "start")
    for _ in range(100):
        status = run(project, "dvc", "queue", "status").stdout
        if "Running" not in status and "Queued" not in status:
            break
        time.sleep(5)  # asking takes seconds of the cores that the queue runs on
    assert "Success" in status, status + run(project, "dvc", "queue", "logs", "queued", check=False).stdout
    found = experiments(project)
    keys = (("lora", "rank"), ("evaluate", "resamples"), ("data", "seed"))
    values = {
        name: [data["params"]["params.yaml"]["data"][section][key] for section, key in keys]
        for name, data in found.items()
    }
    assert values == {"here": [2, 100, 0], "copy": [16, 150, 0], "queued": [16, 100, 1]}
    # With another seed other articles are drawn, in the queue's own copy of the user's data.
    prepared = {name: data["outs"]["data/prepared"]["hash"] for name, data in found.items()}
    assert prepared["here"] == prepared["copy"] != prepared["queued"]
    for data in found.values():
        assert "rouge1" in data["metrics"]["metrics/summary.json"]["data"]
    shown = run(project, "dvc", "exp", "show", "--only-changed", "--no-pager").stdout
    assert "rouge1" in shown and "queued" in shown
    difference = json.loads(run(project, "dvc", "metrics", "diff", "--json", "here", "copy").stdout)
    assert all(name == "metrics/summary.json" for name in difference)
    page = run(project, "dvc", "plots", "show").stdout
    assert "index.html" in page

    # One changed line of the user's data, and DVC knows whose turn it is.
    given = write_local(tmp_path / "given", pairs) / "train.jsonl"
    rows = [json.loads(line) for line in given.read_text().splitlines()]
    rows[3]["summary"] = "Another summary of the same article."
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(project, "python", "-m", "onesentence", "data", str(tmp_path / "given"))
    status = json.loads(run(project, "dvc", "status", "--json").stdout)
    assert {"changed deps": {"data/local": "modified"}} in status["prepare"]


def test_data_from_one_file_and_bad_data_leaves_everything_as_it_was(tmp_path, pairs):
    folder = tmp_path / "project"
    folder.mkdir()
    copy_repository(folder)
    rows = "".join(json.dumps(pair) + "\n" for pair in pairs[:60])
    (tmp_path / "mine.jsonl").write_text(rows)
    out = run(folder, "python", "-m", "onesentence", "data", str(tmp_path / "mine.jsonl")).stdout
    assert "+  source: local" in out and "data/local/mine.jsonl" in out
    assert (folder / "data/local.dvc").is_file()
    before = (folder / "params.yaml").read_bytes()

    (tmp_path / "bad.jsonl").write_text(rows + '{"document": "x", \n')
    failed = run(folder, "python", "-m", "onesentence", "data", str(tmp_path / "bad.jsonl"), check=False)
    assert failed.returncode == 1
    assert "line 61: not valid JSON" in failed.stderr and failed.stderr.count("\n") == 1
    assert (folder / "params.yaml").read_bytes() == before
    assert [path.name for path in (folder / "data/local").iterdir()] == ["mine.jsonl"]


@pytest.mark.slow
def test_push_clone_pull_and_the_adapter_scores_the_same(ran, tmp_path):
    project = copy_project(ran, tmp_path)
    drive = tmp_path / "drive"
    # --old-file: without setting up an environment in the copy.
    make = ("make", "--old-file=.venv/.installed", "remote", f"DIR={drive}")
    run(project, *make)
    run(project, "dvc", "push", "--quiet")

    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(project), str(clone))
    run(clone, *make)
    run(clone, "dvc", "pull", "--quiet")
    assert "up to date" in run(clone, "dvc", "status").stdout
    shutil.copytree(clone / "data/predictions", tmp_path / "pulled")
    (clone / "data/predictions/tuned.jsonl").unlink()
    stage(clone, "generate", "tuned")
    again = (clone / "data/predictions/tuned.jsonl").read_bytes()
    assert again == (tmp_path / "pulled/tuned.jsonl").read_bytes()
    wanted = (clone / "metrics/evaluation.json").read_bytes()
    stage(clone, "evaluate")
    assert (clone / "metrics/evaluation.json").read_bytes() == wanted


def test_a_rung_fits_whatever_the_parameters_ask_for():
    from onesentence.commands.ladder import kept_rows, overrides

    sizes = {"train": 3_000, "validation": 50, "test": None}
    kept = {"train": 19_000, "validation": 60, "test": 80}
    assert overrides(100, sizes, kept)[:6] == [
        "-S", "data.train_size=100", "-S", "data.validation_size=50", "-S", "data.test_size=80"
    ]  # fmt: skip
    assert overrides(100, sizes, kept)[6:10] == ["-S", "train.epochs=1", "-S", "train.steps=null"]
    assert overrides(None, sizes, kept)[5] == "data.test_size=null"
    assert kept_rows({"train": 1_501, "test": 80}, "novel_half") == {"train": 751, "test": 80}
    assert kept_rows(kept, "all") == kept


@pytest.mark.slow
def test_the_ladder_climbs_and_stops_at_the_first_rung_that_fails(project):
    edit(project, prompt__max_input_tokens=16)  # no room for a document
    run(project, "git", "commit", "--all", "--quiet", "--message=broken")
    failed = run(project, "python", "-m", "onesentence", "ladder", check=False)
    assert failed.returncode == 1
    assert "ladder: 10 rows failed" in failed.stderr
    assert "leaves no room for the document" in failed.stdout + failed.stderr
    assert "ladder: 100" not in failed.stdout and "ladder: all" not in failed.stdout


def test_bad_parameters_stop_every_stage_with_one_message(project):
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("  rank: 16", "  rnak: 16"))
    for name in ("prepare", "tokenize", "smoke", "train", "evaluate", "report"):
        failed = stage(project, name, check=False)
        assert failed.returncode == 1
        assert "lora.rnak: unknown key, did you mean 'rank'?" in failed.stderr
        assert "Traceback" not in failed.stderr
    (project / "params.yaml").write_text(text + "\n  : [")
    failed = stage(project, "prepare", check=False)
    assert failed.returncode == 1 and "params.yaml: not valid YAML" in failed.stderr
