"""The committed pages against the committed studies."""

from pathlib import Path

from conftest import ROOT

from onesentence.core import params
from onesentence.study.declaration import Studies


def test_the_readme_shows_every_committed_study(monkeypatch):
    from onesentence.study.pages import END, START, section

    monkeypatch.chdir(ROOT)
    text = Path("docs/studies.md").read_text()
    shown = text.partition(START)[2].partition(END)[0]
    values = params.read_yaml(params.PARAMS_FILE)
    assert shown == section(Path("metrics/studies"), Studies(values["model"]["name"]), values)
