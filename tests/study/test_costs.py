"""What runs took: kept in the order of the study, and printed beside what is the same everywhere."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from samples import RANKS, declared

from onesentence.core.errors import UserError
from onesentence.study import costs
from onesentence.study.costs import add_cost, cost_lines, cost_of_run, costs_file_of, read_costs

TRAINED = {"seconds": 90.0, "peak_memory_bytes": 2_000_000_000, "device": "cpu", "resumed": False}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of two ranks and two seeds, in a folder without git."""
    monkeypatch.chdir(tmp_path)
    return declared(tmp_path, one={**RANKS, "seeds": [0, 1]}).study("one")


def test_a_run_is_timed_and_its_training_where_it_trained(tmp_path, monkeypatch):
    found = {"cpu": "A CPU", "cores": 4, "instructions": "avx512f", "gpu": None}
    monkeypatch.setattr(costs, "machine", lambda: found)
    cost = cost_of_run(tmp_path, 100.5, 2)
    assert cost == {"machine": "A CPU, 4 cores, avx512f", "jobs": 2, "seconds": 100.5}
    (tmp_path / "data/cost").mkdir(parents=True)
    (tmp_path / costs.TRAIN).write_text(json.dumps(TRAINED))
    cost = cost_of_run(tmp_path, 100.5, 2)
    assert (cost["training_seconds"], cost["training_peak_bytes"]) == (90.0, 2_000_000_000)
    assert (cost["device"], cost["resumed"]) == ("cpu", False)
    found |= {"instructions": None, "gpu": "A GPU"}
    assert costs.machine_name() == "A CPU, 4 cores, A GPU"
    monkeypatch.undo()
    assert re.search(r", \d+ cores, (avx2|avx512f|avx512_bf16|amx_bf16)", costs.machine_name())


def test_costs_stay_in_the_order_of_the_study_and_a_new_run_replaces_its_old_cost(study):
    path = costs_file_of(study)
    assert path == Path("benchmarks/results/studies/tiny-one.json")
    first, second = [variant.name for variant in study.variants[:2]]
    for variant, seed, seconds in ((second, 1, 4.0), (first, 0, 1.0), (first, 1, 3.0), (first, 0, 2.0)):
        add_cost(study, variant, seed, {"machine": "A CPU", "jobs": 1, "seconds": seconds})
    assert {name: cost["seconds"] for name, cost in json.loads(path.read_text()).items()} == {
        f"{first}-seed0": 2.0,
        f"{first}-seed1": 3.0,
        f"{second}-seed1": 4.0,
    }
    assert list(json.loads(path.read_text())) == [f"{first}-seed0", f"{first}-seed1", f"{second}-seed1"]
    assert len(path.read_text().splitlines()) == 5  # a run is a line of a diff


def test_the_table_has_means_over_seeds_and_says_what_was_not_timed(study):
    fixed = {"tokens_trained": 12_345, "tuned_bytes": 2_500_000, "base_bytes": 27_000_000}
    result = {"variants": {variant.name: {"cost": fixed} for variant in study.variants[:2]}}
    assert cost_lines(study, result) == []
    first, second = result["variants"]
    whole = {"machine": "A CPU, 4 cores, avx2", "jobs": 1, "seconds": 1800.0, "device": "cpu"}
    for seed, minutes, peak in ((0, 10, 3), (1, 20, 2)):
        trained = {"training_seconds": 60.0 * minutes, "training_peak_bytes": peak * 10**9}
        add_cost(study, first, seed, {**whole, **trained, "resumed": False})
    add_cost(study, second, 0, {**whole, "training_seconds": 1.0, "training_peak_bytes": 1, "resumed": True})
    lines = cost_lines(study, result)
    # Another model's study of this name has a file of its own.
    other = dataclasses.replace(study, scale="large")
    assert cost_lines(other, result) == []
    add_cost(other, first, 0, whole)
    assert cost_lines(other, result)[0].startswith("1 run was timed, 0.5 hours in all")
    assert lines == cost_lines(study, result)
    assert lines[0].startswith("3 runs were timed, 1.5 hours in all (A CPU, 4 cores, avx2, 1 run at a time).")
    assert lines[-2] == f"| `{first}` | 12,345 | 2.5 | 27.0 | 15.0 | 3.0 |"
    assert lines[-1] == f"| `{second}` | 12,345 | 2.5 | 27.0 | not timed | |"


@pytest.mark.parametrize("text", ["{", "[]", '{"rank-8-seed0": 3}', '{"rank-8-seed0": {"seconds": 1.0}}'])
def test_a_damaged_file_is_named_with_the_way_back(study, text):
    path = costs_file_of(study)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UserError, match=f"tiny-one.json.*restore it: `git checkout -- {path}`"):
        read_costs(study)
