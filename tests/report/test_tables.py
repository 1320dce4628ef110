"""Tables of plots/results.md."""

import json

from conftest import ROOT

from onesentence.core.language import rouge_signature
from onesentence.evaluation.metrics import METRICS
from onesentence.report.tables import FAULTS, complement, faults_table, rouge_words


def evaluation() -> dict:
    return json.loads((ROOT / "metrics/evaluation.json").read_text())


def test_a_fault_is_the_complement_of_a_metric_that_counts_faultless_outputs():
    assert complement({"value": 99.2, "low": 98.0, "high": 100.0}) == {
        "value": 100 - 99.2,
        "low": 0.0,
        "high": 2.0,
    }
    assert complement({"value": None, "low": None, "high": None})["value"] is None
    for metric, _, counts_faultless in FAULTS:
        assert METRICS[metric].direction == ("higher" if counts_faultless else "lower")


def test_faults_are_shown_for_both_models():
    edited = evaluation()
    for system in edited["systems"].values():
        system["name_precision"] = {"value": None, "low": None, "high": None}
    edited["systems"]["tuned"]["stopped"] = {"value": 90.0, "low": 85.0, "high": 97.0}
    del edited["systems"]["base"]["echo"]
    lines = faults_table(edited)
    assert len(lines) == 2 + len(FAULTS)
    (cut,) = (line for line in lines if "cut off" in line)
    assert cut.endswith("| 10.00 [3.00, 15.00] |")
    assert next(line for line in lines if "names" in line).endswith("| n/a | n/a |")
    assert "| n/a |" in next(line for line in lines if "begin with" in line)


def test_the_words_of_rouge_are_those_that_were_counted():
    evaluation = json.loads((ROOT / "metrics/evaluation.json").read_text())
    assert rouge_words(evaluation) == "rouge_score with stemmer"
    assert f"ROUGE: {rouge_words(evaluation)}, F1 x 100" in (ROOT / "plots/results.md").read_text()
    german = f"rouge1|F1|{rouge_signature('de')}|n:5"
    told = rouge_words({"metrics": {"quality": {"rouge1": {"signature": german}}}})
    assert told.startswith("Unicode words") and "(language de; stemmer: " in told
