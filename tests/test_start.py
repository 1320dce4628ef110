"""Nothing heavy is loaded before it is needed: --help and imports come at once."""

import sys

import pytest
from conftest import ROOT, run

STAGES = "pretrain prepare tokenize smoke train generate evaluate report".split()


@pytest.mark.parametrize("name", STAGES)
def test_help_says_what_a_stage_does_without_loading_a_model_library(name):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['stages.{name}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('stages.{name}', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'matplotlib', 'scipy.stats', 'nltk'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))\n"
    )
    shown = run(ROOT, sys.executable, "-c", code).stdout
    assert "usage:" in shown and "loaded: []" in shown


COMMANDS = [
    path.stem
    for path in sorted((ROOT / "onesentence/commands").glob("*.py"))
    if "__main__" in path.read_text()
]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_runs_nothing(name):
    shown = run(ROOT, "python", "-m", f"onesentence.commands.{name}", "--help").stdout
    assert shown.startswith("usage:") and len(COMMANDS) > 8


@pytest.mark.parametrize("name", ["prepare", "tokenize", "smoke", "train", "report"])
def test_an_option_that_a_stage_does_not_have_is_refused(name):
    failed = run(ROOT, "python", "-m", f"stages.{name}", "--rank", "8", check=False)
    assert failed.returncode == 2 and "unrecognized arguments: --rank 8" in failed.stderr
