"""Declarations and results of studies, for the tests beside it."""

import yaml
from conftest import ROOT

from onesentence.study.declaration import STUDIES_FILE, Studies

STUDY_FILE = yaml.safe_load((ROOT / STUDIES_FILE).read_text())


MODELS = [scale["model"] for scale in STUDY_FILE["scales"].values()]


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
    entry["se"] = 0.5
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
            "a": {"sets": {}, "scores": {"rouge1": score}, "difference": {}},
            "b": {"sets": {}, "scores": {"rouge1": score}, "difference": {"rouge1": entry}},
        },
        "analysis": more,
    }
