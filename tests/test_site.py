"""The documentation: generated pages hold all of the program, written ones its numbers."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from docs import figures, generated, model_card
from onesentence.cli import COMMANDS
from onesentence.core.params import SCHEMA
from onesentence.core.rules import Key
from onesentence.data.docstrings import DISTRIBUTIONS
from onesentence.evaluation.metrics import METRICS

DOCS = ROOT / "docs"
BUILD_NEEDS = ("sphinx", "myst_parser", "furo", "sphinx_click")
KEYS = [
    (section, rules) if isinstance(rules, Key) else (f"{section}.{key}", rule)
    for section, rules in SCHEMA.items()
    for key, rule in (((section, rules),) if isinstance(rules, Key) else rules.items())
]


@pytest.fixture(scope="module")
def parameters():
    return generated.parameters()


@pytest.fixture(scope="module")
def evaluation():
    return json.loads((ROOT / "metrics/evaluation.json").read_text())


@pytest.mark.parametrize(("name", "rule"), KEYS, ids=[name for name, _ in KEYS])
def test_every_parameter_is_in_the_reference_with_what_it_may_be(parameters, name, rule):
    (row,) = [line for line in parameters.splitlines() if line.startswith(f"| `{name}` |")]
    assert f"| {generated.escape(rule.expected)} |" in row


def test_a_parameter_has_its_default_its_readers_and_its_comment(parameters):
    expected = "a number from 0 to below 1"
    row = f"| `lora.dropout` | `0.05` | {expected} | [train](#stage-train) | on the adapter's input |"
    assert row in parameters
    assert "| `lora.target_modules` | `[q_proj, k_proj, v_proj]` |" in parameters
    assert "| `data.revision` | `null` |" in parameters
    assert "Never the choice of rows: that is data.seed. |" in parameters  # above its key


def test_comments_are_those_above_and_behind_a_key(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(
        "# Not about a.\n\n# About a,\n# on two lines.\na:\n  b: 'x # y' # behind b\n  # above c\n"
        "  c: [1,\n    2] # behind a list of two lines\n  d: |\n    text # of d\ne: 1\n"
    )
    assert generated.comments(path) == {
        "a": "About a, on two lines.",
        "a.b": "behind b",
        "a.c": "above c",
        "a.d": "",
        "e": "",
    }


def test_every_metric_command_and_stage_is_in_the_reference():
    metrics = generated.metrics()
    assert re.findall(r"^\| `(\w+)` \|", metrics, re.MULTILINE) == sorted(
        METRICS, key=lambda name: generated.KINDS.index(METRICS[name].kind)
    )
    assert "ROUGE-Lsum (Lin 2004)" in metrics
    assert metrics.index("SummaC-ZS (Laban et al. 2022)") < metrics.index("| `entailment` |")
    assert "| `chrf_plus` | chrF2++ (optional) |" in metrics
    assert re.findall(r":prog: onesentence (\w+)", generated.commands()) == COMMANDS
    stages = generated.stage_pages()
    assert re.findall(r"^## (\w+)", stages, re.MULTILINE) == [path.stem for path in sorted_stages()]
    assert "It runs as `generate@base`, `generate@tuned`." in stages
    assert "- `plots/report.html` (DVC caches it)" in stages
    assert "- `metrics/summary.json` (in git)" in stages


def sorted_stages():
    """The scripts in stages/ in the order of dvc.yaml and the export's pipeline."""
    text = (ROOT / "dvc.yaml").read_text() + (ROOT / "onesentence/export/pipeline.yaml").read_text()
    scripts = [path for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__"]
    return sorted(scripts, key=lambda path: text.index(f"\n  {path.stem}:"))


@pytest.mark.parametrize("name", ["parameters", "metrics", "stages", "commands"])
def test_a_page_shows_each_generated_reference(name):
    assert f"```{{{name}}}\n```" in (DOCS / f"reference/{name}.md").read_text()


def test_a_cell_holds_no_markup_of_its_own():
    assert generated.escape("a | b <c> *d* `e | f` g_h") == r"a \| b \<c\> \*d\* `e | f` g\_h"
    assert generated.code("a | b") == r"`a \| b`"


def test_the_tutorial_shows_the_committed_results(evaluation):
    tutorial = (DOCS / "tutorial.md").read_text()
    for system in ("lead", "oracle", "base", "tuned"):
        scores = evaluation["systems"][system]
        cells = [
            "{value:.2f} [{low:.2f}, {high:.2f}]".format(**scores[name])
            for name in ("rouge1", "rouge2", "rougeL", "bertscore")
        ]
        cells.append(f"{scores['success_rate']['value']:.1%}")
        assert f"| {system} | {' | '.join(cells)} |" in tutorial
    text = " ".join(tutorial.split())
    for pair in ("tuned-lead", "tuned-oracle"):
        found = evaluation["comparisons"][pair]["rouge1"]
        assert "[{low:.2f}, {high:.2f}]".format(**found) in text
        assert f"{found['value']:.2f} points" in text
    rank = study_difference()
    assert (
        f"{-rank['value']:.2f} points of ROUGE-1 below rank 16 [{rank['low']:.2f}, {rank['high']:.2f}]"
        in text
    )


def study_difference():
    """Rank 8 against rank 16 in the committed study."""
    study = json.loads((ROOT / "metrics/studies/rank.json").read_text())
    return study["variants"]["rank-8"]["difference"]["rouge1"]


def test_the_explanation_has_the_numbers_of_the_committed_default(evaluation):
    text = " ".join((DOCS / "explanation/comparisons.md").read_text().split())
    tuned, oracle = (evaluation["systems"][name]["rouge1"] for name in ("tuned", "oracle"))
    halves = [(each["high"] - each["low"]) / 2 for each in (tuned, oracle)]
    paired = evaluation["comparisons"]["tuned-oracle"]["rouge1"]
    separate = sum(half**2 for half in halves) ** 0.5
    assert f"from ±{separate:.2f} to ±{(paired['high'] - paired['low']) / 2:.2f} points" in text
    effect = round(tuned["design_effect"], 2)
    assert f"500 / {effect} = {500 / effect:.0f} independent ones" in text
    assert f"√{effect} = {effect**0.5:.2f} times" in text
    lead = evaluation["comparisons"]["tuned-lead"]["rouge1"]
    assert f"it is {lead['mde']:.2f} points of ROUGE-1 with 500 articles" in text
    rank = study_difference()
    assert f"{-rank['value']:.2f} points below rank 16 [{rank['low']:.2f}, {rank['high']:.2f}]" in text
    assert f"{evaluation['n']} test articles from {evaluation['resampling']['clusters']} source files" in text


def test_the_example_of_the_api_runs():
    page = (DOCS / "reference/api.md").read_text()
    lines = [line[4:] for line in page.splitlines() if line.startswith("    ")]
    names: dict = {}
    exec("\n".join(lines), names)
    scores = names["scores"]["ours"].columns["rouge1"]
    assert scores[2] == 0 < scores[0]
    assert 0 <= names["result"]["comparisons"]["lead-ours"]["rouge1"]["p_holm"] <= 1


def test_the_figures_are_those_of_the_committed_metrics(tmp_path):
    figures.draw(tmp_path)
    committed = ROOT / "docs/explanation"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mde.svg", "paired.svg"]
    assert all(path.read_bytes() == (committed / path.name).read_bytes() for path in tmp_path.iterdir())


def test_the_model_card_is_what_its_command_writes():
    text = model_card.CARD.read_text()
    assert model_card.card(text) == text


def test_the_model_card_names_every_package_that_was_read_with_its_licence():
    rows = model_card.licence_rows()
    assert [row[0] for row in rows] == list(DISTRIBUTIONS)
    assert all(licence and licence != "not declared" for *_, licence in rows)
    files = json.loads((ROOT / "metrics/pretrain.json").read_text())["corpus_files"]
    assert sum(int(row[2].replace(",", "")) for row in rows) == files


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    missing = [name for name in BUILD_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"docs/requirements.txt is not installed ({', '.join(missing)}): make docs")
    options = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet"]
    command = [sys.executable, "-m", "sphinx", *options, "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "onesentence study" in (tmp_path / "reference/commands.html").read_text()
    assert "lora.rank" in (tmp_path / "reference/parameters.html").read_text()
