"""The committed pages against the committed studies."""

import shutil
from pathlib import Path

import pytest
from conftest import ROOT, run

from onesentence.core import params
from onesentence.study.declaration import NoScaleError, Studies


def test_a_preset_s_page_is_written_though_the_default_s_model_has_no_studies(tmp_path, monkeypatch):
    """A base of one's own at the top must not cost a preset's study its comparison."""
    from onesentence.study.pages import write_pages

    folder = tmp_path / "presets/smollm2-docstrings"
    shutil.copytree(ROOT / "presets/smollm2-docstrings/metrics/studies", folder / "metrics/studies")
    shutil.copytree(ROOT / "presets/smollm2-docstrings/plots/studies", folder / "plots/studies")
    for file in ("params.yaml", "studies.yaml", "docs/decisions.md"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    for file in ("params.yaml", "studies.yaml"):
        shutil.copy(ROOT / "presets/smollm2-docstrings" / file, folder / file)
    top = tmp_path / "params.yaml"
    top.write_text(top.read_text().replace(": models/phi-tiny", ": models/my-own"))
    run(tmp_path, "git", "init", "--quiet")
    monkeypatch.chdir(folder)
    before = (tmp_path / "docs/decisions.md").read_bytes()
    write_pages()
    page = (tmp_path / "docs/studies-smollm2-docstrings.md").read_text()
    assert "## base" in page and "Declared and not compared yet: rank, learning_rate, " in page
    assert page.index("rounded to 4 bits (Q4_1)") < page.index("## base")
    assert (tmp_path / "docs/decisions.md").read_bytes() == before
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoScaleError, match=r"no scale for model\.name 'models/my-own'"):
        write_pages()


def test_the_readme_shows_every_committed_study(monkeypatch):
    from onesentence.study.pages import END, START, section

    monkeypatch.chdir(ROOT)
    text = Path("docs/studies.md").read_text()
    shown = text.partition(START)[2].partition(END)[0]
    values = params.read_yaml(params.PARAMS_FILE)
    assert shown == section(Path("metrics/studies"), Studies(values["model"]["name"]), values)
