"""Declarations and results of studies, for the tests beside it."""

import json
from pathlib import Path

import numpy as np
import yaml
from conftest import ROOT, run

from onesentence.evaluation.metrics import Scores
from onesentence.study.comparison import DESCRIBED, SUCCESS, TESTED_METRICS
from onesentence.study.declaration import STUDIES_FILE, Studies
from onesentence.study.experiments import COMPARED
from onesentence.study.scores import Run

STUDY_FILE = yaml.safe_load((ROOT / STUDIES_FILE).read_text())


# Each scale's model and pipeline.
SCALES = [(scale["model"], scale.get("pipeline", "")) for scale in STUDY_FILE["scales"].values()]


def declared(tmp_path, **studies) -> Studies:
    text = {
        "scales": {"tiny": {"model": "m", "settings": {"train.epochs": 1}, "quick": {"data.train_size": 5}}}
    }
    (tmp_path / "studies.yaml").write_text(yaml.safe_dump({**text, "studies": studies}, sort_keys=False))
    return Studies("m", tmp_path / "studies.yaml")


RANKS = {
    "question": "?",
    "baseline": "rank-8",
    "seeds": [0, 7],
    "axes": {"lora.rank": [8, 16]},
    "analysis": "trend",
    "along": "lora.rank",
}


def study_result(value: float, p: float, **more) -> dict:
    score = {"value": 30.0, "low": 29.0, "high": 31.0, "seed_sd": 0.2, "sampling_se": 0.4}
    entry = {"value": value, "low": value - 1, "high": value + 1, "p": p, "p_holm": p, "mde": 1.4}
    entry |= {"se": 0.5, "df": 12.0}
    return {
        "study": "s",
        "question": "?",
        "baseline": "a",
        "confidence": 0.95,
        "n": 2_000,
        "seeds": [0, 1, 2],
        "spread_from": None,
        "left_out": [],
        "resampling": {"unit": "row", "clusters": 2_000},
        "defaults": {},
        "variants": {
            name: {
                "sets": {},
                "values": {"lora.rank": rank, "train.epochs": 1},
                "scores": {"rouge1": score},
                "base": {"rouge1": {"value": 9.0, "low": 8.0, "high": 10.0}},
                "difference": difference,
            }
            for name, rank, difference in (("a", 16, {}), ("b", 8, {"rouge1": entry}))
        },
        "analysis": more,
    }


def hold(folder: Path) -> Path:
    """Make a folder a repository with a params.yaml and one file of code, committed."""
    (folder / "params.yaml").write_text("train: {learning_rate: 0.002}\nseed: 0\n")
    (folder / "code.py").write_text("1\n")
    run(folder, "git", "init", "--quiet", "--initial-branch=main")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message=start")
    return folder


def put_experiment(folder: Path, name: str, rate: str, baseline: str = "ab", train: str = "") -> str:
    """Make an experiment of the folder's files and a dvc.lock with this learning rate; returns its ref.

    train: the whole section in JSON, as a stage that reads all of it has it.
    """
    stage = {"cmd": "python -m code", "deps": [{"path": "code.py"}], "outs": []}
    lock = json.dumps({"stages": dict.fromkeys(COMPARED, stage)})
    used = f'"params": {{"params.yaml": {{"train.learning_rate": {rate}}}}}'
    used = used.replace(f'"train.learning_rate": {rate}', f'"train": {train}') if train else used
    (folder / "dvc.lock").write_text(lock.replace('"outs"', f'{used}, "outs"'))
    run(folder, "git", "add", "--all")
    tree = run(folder, "git", "write-tree").stdout.strip()
    commit = run(folder, "git", "commit-tree", tree, "-p", "HEAD", "-m", name).stdout.strip()
    run(folder, "git", "rm", "--quiet", "--force", "dvc.lock")
    ref = f"refs/exps/{baseline}/{'0' * 38}/{name}"
    run(folder, "git", "update-ref", ref, commit)
    return ref


N = 300  # articles of a `sample_run`
SCORED = (*TESTED_METRICS, *DESCRIBED, SUCCESS)


def sample_run(rank: int, seed: int, **changed) -> Run:
    """A run with random scores of N articles, of which two are undefined in one metric."""
    draws = np.random.default_rng([rank, seed])

    def system(level: float) -> Scores:
        columns = {name: np.round(draws.uniform(0, level, N), 6) for name in SCORED}
        columns["novel_2"][:2] = np.nan
        names = [f"article-{k}" for k in range(N)]
        groups = [f"file-{k // 2}" for k in range(N)]
        return Scores(names, columns, {}, {name: f"{name}|n:{N}" for name in SCORED}, groups)

    params = {
        "seed": seed,
        "lora": {"rank": rank, "alpha": None},
        "train": {"epochs": 1, "learning_rate": 6.25e-05, "report_to": "none"},
        "evaluate": {"split": "validation", "resamples": 200, "confidence": 0.95},
        "pretrain": {"tokens": 5},
    }
    fields = {
        "variant": f"rank-{rank}",
        "seed": seed,
        "tuned": system(100),
        "base": system(40),
        "evaluation": {"split": "validation", "n": N, "test": "a", "resampling": {"unit": "file"}},
        "cost": {"trainable_parameters": 1_000 * rank, "tokens_trained": 70},
        "params": params,
        "code": {
            "commit": "c",
            "identity": "i",
            "modules": ["m"],
            "packages": ["a==1"],
            "inputs": {"x": "y"},
        },
    }
    return Run(**{**fields, **changed})
