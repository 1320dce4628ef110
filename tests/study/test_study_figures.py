"""The committed plots against the committed numbers."""

import dataclasses
import json
from pathlib import Path

import matplotlib.pyplot as plt
from conftest import ROOT
from samples import RANKS, declared

from onesentence.study import figures
from onesentence.study.declaration import Studies


def test_the_committed_plots_are_drawn_from_the_committed_numbers(tmp_path, monkeypatch):
    from onesentence.study import pages

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(figures, "PLOTS", tmp_path)
    pages.write_again(Studies("models/phi-tiny"))
    drawn, committed = (
        {file.name: file.read_bytes() for file in folder.iterdir()}
        for folder in (tmp_path, Path("plots/studies"))
    )
    assert drawn.keys() == committed.keys()
    assert [name for name in drawn if drawn[name] != committed[name]] == []


def test_a_result_that_is_older_than_the_analysis_is_drawn_without_its_panel(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(figures, "PLOTS", tmp_path)
    study = Studies("models/phi-tiny").study("novelty")
    result = json.loads(Path("metrics/studies/novelty.json").read_text())
    figures.write_plots(dataclasses.replace(study, analysis="pareto"), result)
    assert (tmp_path / "novelty.svg").is_file()


def test_a_study_whose_curves_all_lack_a_run_is_drawn_without_them(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "PLOTS", tmp_path)
    monkeypatch.chdir(ROOT / "presets/smollm2-xsum")
    study = Studies.of_workspace().study("data_size")
    result = json.loads(Path("metrics/studies/data_size.json").read_text())
    missing = {variant.name for variant in study.variants} - set(result["variants"]) or {"pairs-125"}
    result["variants"] = {name: entry for name, entry in result["variants"].items() if name not in missing}
    figures.write_plots(study.without(missing), result)
    assert "pairs-2051" in (tmp_path / "data_size.csv").read_text()
    assert "data.train_size" not in (tmp_path / "data_size.svg").read_text()


def test_a_key_that_may_be_0_has_a_plain_axis(tmp_path):
    change = {"axes": {"lora.dropout": [0.0, 0.1]}, "along": "lora.dropout", "baseline": "dropout-0"}
    study = declared(tmp_path, rank={**RANKS, **change, "analysis": "none"}).study("rank")
    score = {"value": 20.0, "low": 19.0, "high": 21.0}
    result = {
        "analysis": {},
        "variants": {variant.name: {"scores": {"rouge1": score}} for variant in study.variants},
    }
    figure, axis = plt.subplots()
    figures.draw_series(axis, study, result)
    assert axis.get_xscale() == "linear" and axis.get_xlabel() == "lora.dropout"
    plt.close(figure)
