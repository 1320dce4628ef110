"""Studies on a GPU machine: what runs share is made once, and the numbers are those of the pipeline."""

import math
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT, command, copy_project, run

from benchmarks import gpu_studies
from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.files import read_json
from onesentence.study.experiments import with_values
from onesentence.study.scores import read_runs


def test_every_run_of_the_declared_studies_is_loadable(monkeypatch):
    monkeypatch.chdir(ROOT)
    runs = gpu_studies.declared()
    assert {"smollm2-xsum-rank-16-seed0", "smollm2-xsum-pairs-2051-seed0"} <= set(runs)
    for name, whole in runs.items():
        assert not params.problems(whole), name
        assert whole["model"]["name"] == "models/smollm2-135m" and whole["evaluate"]["split"] == "validation"


@pytest.fixture
def whole() -> dict:
    """params.yaml of this repository."""
    return params.read_yaml(ROOT / "params.yaml")


def rows_of(inputs: Path, whole: dict, train: int = 3, test: int = 2) -> None:
    """The tokenized rows of a run, so many of each split."""
    folder = inputs / gpu_studies.inputs_name(whole) / "data/tokenized"
    folder.mkdir(parents=True)
    for split, count in (("train", train), ("validation", 2), ("test", test)):
        pq.write_table(pa.table({"id": [f"{split}-{i}" for i in range(count)]}), folder / f"{split}.parquet")


def test_what_runs_have_in_common_is_made_once(tmp_path, whole):
    runs = {
        "as-set-seed0": whole,
        "also-as-set-seed0": whole,
        "greedy-seed0": with_values(whole, {"generate.num_beams": 1, "generate.no_repeat_ngram_size": 0}),
        "rank-8-seed0": with_values(whole, {"lora.rank": 8}),
        "few-seed0": with_values(whole, {"data.train_size": 10}),
        "slow-seed0": with_values(whole, {"train.learning_rate": 0.00025}),
        "full-seed0": with_values(whole, {"train.method": "full"}),
        "one-layer-seed0": with_values(whole, {"lora.target_modules": ["q_proj"]}),
    }
    rows_of(tmp_path, whole)
    rows_of(tmp_path, runs["few-seed0"], train=1)
    plan = gpu_studies.planned(runs, tmp_path)
    found = plan["runs"]
    assert found["as-set-seed0"] == found["also-as-set-seed0"]
    trainings = {name: run["training"] for name, run in found.items()}
    assert trainings["greedy-seed0"] == trainings["as-set-seed0"]
    assert len({training for name, training in trainings.items() if "as-set" not in name}) == 6
    # The untuned model has no adapter and reads no training rows, and it does write with other beams.
    bases = {name: run["base"] for name, run in found.items()}
    greedy = bases.pop("greedy-seed0")
    assert len(set(bases.values())) == 1 and greedy not in bases.values()
    jobs = {job["name"]: gpu_studies.Job(**job) for job in plan["jobs"]}
    assert set(jobs) == set(trainings.values()) | {*bases.values(), greedy}
    assert set(jobs[trainings["as-set-seed0"]].outputs) == {
        found["as-set-seed0"]["tuned"],
        found["greedy-seed0"]["tuned"],
    }
    assert all((job.training is None) == (name in {*bases.values(), greedy}) for name, job in jobs.items())


def test_another_test_set_is_another_base(tmp_path, whole):
    other = with_values(whole, {"data.test_size": 10})
    rows_of(tmp_path, whole)
    rows_of(tmp_path, other, test=1)
    found = gpu_studies.planned({"one": whole, "other": other}, tmp_path)["runs"]
    assert found["one"]["base"] != found["other"]["base"]


def test_an_archive_keeps_what_an_earlier_run_has_found(tmp_path):
    store, path = tmp_path / "store", tmp_path / "out/results.tar"
    first = gpu_studies.Archive(store, path)
    first.add("plan", {"jobs": []})
    first.add("a", {"x.jsonl": "é\n"})
    first.add("a", {"x.jsonl": "again\n"})  # a later one of a name counts
    assert gpu_studies.opened(path) == {"plan": {"jobs": []}, "a": {"x.jsonl": "again\n"}}
    shutil.rmtree(path.parent)  # a machine that empties the folder of outputs between two calls
    second = gpu_studies.Archive(store, path)
    assert second.has("a") and not second.has("b")
    second.add("b", 1.5)
    assert gpu_studies.opened(path) == {"plan": {"jobs": []}, "a": {"x.jsonl": "again\n"}, "b": 1.5}


def test_another_file_is_refused(tmp_path):
    (tmp_path / "no.tar").write_bytes(b"no tar")
    with pytest.raises(UserError, match=r"no.tar: not an archive"):
        gpu_studies.opened(tmp_path / "no.tar")
    archive = gpu_studies.Archive(tmp_path / "store", tmp_path / "empty.tar")
    archive.add("a", 1)
    with pytest.raises(UserError, match="has no plan"):
        gpu_studies.opened(tmp_path / "empty.tar")


def test_what_a_kill_cut_off_costs_no_other_result(tmp_path, capsys):
    archive = gpu_studies.Archive(tmp_path / "store", tmp_path / "cut.tar")
    archive.add("plan", {"jobs": []})
    archive.add("a", list(range(10_000)))
    whole = (tmp_path / "cut.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: 512 * 5])
    assert gpu_studies.opened(tmp_path / "cut.tar") == {"plan": {"jobs": []}}
    assert "damaged after 1 results" in capsys.readouterr().out


def test_the_versions_of_the_gpu_machine_are_recorded():
    pins = ["numpy==2.5.2", "peft==0.20.0", "torch==2.13.0"]
    there = {"torch": "2.11.0+cu130", "numpy": "2.5.2"}
    assert gpu_studies.packages(pins, there) == ["numpy==2.5.2", "peft==0.20.0", "torch==2.11.0+cu130"]


STUDIES = """
scales:
  tiny: {model: models/tiny, settings: {evaluate.split: test}, quick: {}}
studies:
  ranks:
    question: Which rank?
    variants:
      as-set: {}
      rank-4: {lora.rank: 4}
      slow: {train.learning_rate: 0.00025}
      written-greedily: {generate.num_beams: 1}
    baseline: as-set
    seeds: [0]
"""


@pytest.mark.slow
@pytest.mark.long  # the stages that it runs are tested by themselves
def test_a_run_elsewhere_scores_as_the_pipeline_does_here(ran, tmp_path, monkeypatch):
    project = copy_project(ran, tmp_path)
    (project / "studies.yaml").write_text(STUDIES)
    run(project, "git", "commit", "--quiet", "--all", "--message=studies")
    monkeypatch.chdir(project)
    monkeypatch.setattr(gpu_studies, "PIPELINE", Path())
    work, archive = tmp_path / "work", tmp_path / "results.tar"
    gpu_studies.pack(work / "bundle")
    plan = read_json(work / "bundle/studies" / gpu_studies.PLAN)
    assert plan["runs"]["slow-seed0"]["params"]["train"]["learning_rate"] == 0.00025  # not rounded
    stopped = gpu_studies.run(work, archive, ends=0, rows=None)  # no time left
    assert stopped == {"done": 0, "missing": 5, "failed": 0}
    done = gpu_studies.run(work, archive, ends=math.inf, rows=None)
    assert done == {"done": 5, "missing": 0, "failed": 0}  # two untuned, three trainings
    gpu_studies.collect(archive, ["ranks"], tmp_path / "scoring")
    runs = read_runs(Path("metrics/studies/scores/ranks.parquet"))
    assert list(runs) == ["as-set-seed0", "rank-4-seed0", "slow-seed0", "written-greedily-seed0"]
    for system in ("base", "tuned"):  # the project's own run has the same settings
        group = "tuned" if system == "tuned" else "baselines"
        own = pq.read_table(f"data/scores/{group}/{system}.parquet")
        there = getattr(runs["as-set-seed0"], system)
        assert there.ids == own["id"].to_pylist()
        assert there.columns["rouge1"] == pytest.approx(own["rouge1"].to_pylist(), rel=1e-6)
    out = command(project, "compare", "ranks", "--from-scores").stdout
    assert "written-greedily" in out
    costs = yaml.safe_load((project / "benchmarks/results/studies/tiny-ranks.json").read_text())
    assert costs["rank-4-seed0"]["training_seconds"] > 0
    jobs = gpu_studies.opened(archive)
    del jobs["plan"]
    total = sum(seconds for job in jobs.values() for seconds in job["seconds.json"].values())
    assert sum(cost["seconds"] for cost in costs.values()) == pytest.approx(total, abs=0.01)
    assert runs["slow-seed0"].tuned.columns["rouge1"].tolist() != there.columns["rouge1"].tolist()
    # Articles that are not those of data/local.dvc are refused.
    with Path("data/local/train.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"differs from data/local\.dvc"):
        gpu_studies.collect(archive, ["ranks"], tmp_path / "scoring")
    run(project, "dvc", "checkout", "--force", "--quiet", "data/local")
    # With other code than the runs had, nothing is collected.
    (project / "onesentence/core/text.py").write_text(
        (ROOT / "onesentence/core/text.py").read_text() + "X = 1\n"
    )
    run(project, "git", "commit", "--quiet", "--all", "--message=other code")
    with pytest.raises(UserError, match="other code"):
        gpu_studies.collect(archive, ["ranks"], tmp_path / "scoring")
