"""The committed plots against the committed numbers."""

from pathlib import Path

from conftest import ROOT

from onesentence.study.declaration import Studies


def test_the_committed_plots_are_drawn_from_the_committed_numbers(tmp_path, monkeypatch):
    from onesentence.study import figures, pages

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(figures, "PLOTS", tmp_path)
    pages.write_again(Studies("models/phi-tiny"))
    drawn, committed = (
        {file.name: file.read_bytes() for file in folder.iterdir()}
        for folder in (tmp_path, Path("plots/studies"))
    )
    assert drawn.keys() == committed.keys()
    assert [name for name in drawn if drawn[name] != committed[name]] == []
