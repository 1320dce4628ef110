"""docs/decisions.md: numbers from the studies, each decision under the value that it was made for."""

import json
from pathlib import Path

import pytest
from conftest import ROOT
from samples import study_result

from onesentence.core import params
from onesentence.core.files import write_json
from onesentence.study.decisions import (
    CONFIRMATIONS,
    DECISIONS,
    DECISIONS_FILE,
    compared_values,
    confirmed,
    current_decisions,
    decisions_text,
)
from onesentence.study.declaration import Studies
from onesentence.study.experiments import (
    with_values,
)


def test_a_decision_shows_variants_that_change_its_key_alone_else_names_the_other_keys():
    made = study_result(2.0, 0.01)
    made["variants"] |= {"c": study_result(0.3, 0.6)["variants"]["b"]}
    for (rank, rate), variant in zip(
        ((8, 1.0), (16, 1.0), (16, 2.0)), made["variants"].values(), strict=True
    ):
        variant["values"] = {"lora.rank": rank, "train.learning_rate": rate}
    assert compared_values(made, "lora.rank") == ["- `b`: +2.00 [+1.00, +3.00], significant"]
    assert compared_values(made, "train.learning_rate") == [
        "- `c`, which also changes lora.rank: +0.30 [-0.70, +1.30], not significant (MDE 1.40)"
    ]
    for model, variant in zip(("small", "large", "small"), made["variants"].values(), strict=True):
        variant["values"] = {"model.name": model, "model.watch": model}  # one choice under two keys
    assert compared_values(made, "model.name") == ["- `b`: +2.00 [+1.00, +3.00], significant"]


def test_a_decision_shows_the_results_of_the_test_split(tmp_path):
    assert confirmed(tmp_path, "lora.rank", "tiny", {}) == []
    made = study_result(2.0, 0.01) | {"scale": "tiny", "split": "test", "settings": {}}
    for rank, variant in zip((8, 16), made["variants"].values(), strict=True):
        variant |= {"sets": {"lora.rank": rank}, "values": {"lora.rank": rank}}
    for study in CONFIRMATIONS:
        write_json(tmp_path / f"{study}.json", made)
    only = {**made, "variants": {"a": made["variants"]["a"]}}  # what varies it was left out
    write_json(tmp_path / "only/confirmation.json", only)
    assert confirmed(tmp_path / "only", "lora.rank", "tiny", {}) == []
    assert confirmed(tmp_path, "lora.dropout", "tiny", {}) == []
    assert confirmed(tmp_path, "lora.rank", "large", {}) == []  # what phi-tiny showed says nothing of Phi-2
    assert confirmed(tmp_path, "lora.rank", "tiny", {}) == [
        f"On the test split, evaluated once, in the study `{study}` (tiny, 2,000 test articles, 3 seeds):\n\n"
        "- `b`: +2.00 [+1.00, +3.00], significant\n"
        for study in CONFIRMATIONS
    ]


def test_the_decisions_hold_the_studies_numbers(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert DECISIONS_FILE.read_text() == current_decisions(Path("metrics/studies"))
    # A decision appears under the value that it was made for, and under no other.
    text, whole = DECISIONS_FILE.read_text(), params.read_yaml(params.PARAMS_FILE)
    assert "No decision yet" not in text
    changed = decisions_text(Path("metrics/studies"), "phi-tiny", with_values(whole, {"lora.rank": 64}))
    assert "## `lora.rank: 64`" in changed and "No decision yet: `16` was decided." in changed
    studies = Studies("models/phi-tiny")
    for decision in DECISIONS:
        varied = {key for variant in studies.study(decision.study).variants for key in variant.changes}
        assert decision.key in varied, decision
        run = Path("metrics/studies", f"{decision.study}.json").is_file()
        assert bool(decision.choice) == run, (
            f"{decision.key}: say in `choice` what was decided once the study is run"
        )


def test_a_decision_of_one_scale_appears_under_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    whole = params.read_yaml(params.PARAMS_FILE)
    for path in Path("metrics/studies").glob("*.json"):
        write_json(tmp_path / path.name, json.loads(path.read_text()) | {"scale": "phi-2"})
    text = decisions_text(tmp_path, "phi-2", whole)
    assert "**Kept" not in text and "**Open" not in text and "**Changed" not in text
    assert text.count("**No decision yet: the decisions here were made on phi-tiny.**") == len(DECISIONS)


@pytest.mark.parametrize("name", sorted({decision.study for decision in DECISIONS}))
def test_decisions_are_written_with_any_variant_left_out(tmp_path, monkeypatch, name):
    """As on a scale that does not vary a key, or where a variant failed."""
    monkeypatch.chdir(ROOT)
    whole, result = (
        params.read_yaml(params.PARAMS_FILE),
        json.loads(Path(f"metrics/studies/{name}.json").read_text()),
    )
    keys = {key for each in result["variants"].values() for key in each["sets"]}
    for key in keys:
        variants = {
            label: {**each, "values": {k: v for k, v in each["values"].items() if k != key}}
            for label, each in result["variants"].items()
            if key not in each["sets"] or label == result["baseline"]
        }
        if len(variants) > 1:
            write_json(tmp_path / f"{name}.json", {**result, "variants": variants, "analysis": {}})
            text = decisions_text(tmp_path, "phi-tiny", whole)
            if key in [decision.key for decision in DECISIONS if decision.study == name]:
                assert f"Study `{name}` compares no other value on phi-tiny." in text
