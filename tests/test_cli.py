"""The command line: help is fast, since no heavy library is imported before it is needed."""

import ast
import itertools
import sys
import tomllib
from importlib import metadata

import pytest
from conftest import ROOT, run
from packaging.utils import canonicalize_name

from onesentence import cli

HEAVY = {"torch", "transformers", "peft", "datasets", "matplotlib", "scipy.stats", "nltk"}
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
        f"print('loaded:', sorted({HEAVY} & set(sys.modules)))\n"
    )
    shown = run(ROOT, sys.executable, "-c", code).stdout
    assert "usage:" in shown and "loaded: []" in shown


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command_has_examples_and_loads_no_model_library(name):
    code = (
        "import sys, time\n"
        f"sys.argv = ['onesentence', '{name}', '--help']\n"
        "from onesentence.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        f"print('loaded:', sorted({HEAVY} & set(sys.modules)), f'{{time.process_time():.2f}}')\n"
    )
    shown, _, loaded = run(ROOT, sys.executable, "-c", code).stdout.partition("loaded: ")
    assert shown.startswith("Usage: ") and "Options:\n" in shown
    examples = shown.partition("\n  Run     ")[2]
    assert f"onesentence {name}" in examples and cli.summary_of(name) in shown
    modules, seconds = loaded.rsplit(" ", 1)
    assert modules == "[]" and float(seconds) < 2  # alone 0.4 s at most; the cores are shared


def test_every_module_of_the_folder_is_a_command():
    files = {path.stem for path in (ROOT / "onesentence/commands").glob("*.py")} - {"__init__", "edit"}
    assert files == set(cli.COMMANDS)


def test_a_shell_completes_names_and_options(monkeypatch):
    def completed(words: str) -> list[str]:
        given = {"_ONESENTENCE_COMPLETE": "bash_complete", "COMP_WORDS": words}
        for name, value in (given | {"COMP_CWORD": str(len(words.split()) - 1)}).items():
            monkeypatch.setenv(name, value)
        shown = run(
            ROOT, "python", "-c", "from onesentence.cli import cli; cli(prog_name='onesentence')"
        ).stdout
        return [line.partition(",")[2] for line in shown.splitlines()]

    assert completed("onesentence s") == ["summarize", "serve", "show", "study", "sizes", "score"]
    assert "--no-bertscore" in completed("onesentence score --no")
    for shell in ("bash", "zsh", "fish"):
        shown = run(ROOT, "python", "-m", "onesentence", "completion", shell).stdout
        assert f"_ONESENTENCE_COMPLETE={shell}_complete" in shown


def test_a_wrong_command_or_option_exits_2(tmp_path):
    for words, said in (("scor",), "No such command 'scor'"), (("score", "--no-bert", "x"), "No such option"):
        failed = run(ROOT, "python", "-m", "onesentence", *words, check=False)
        assert failed.returncode == 2 and said in failed.stderr and "Traceback" not in failed.stderr


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("summarize", ""), "an argument: is empty"),
        (("summarize", "--model", "", "a.txt"), "--model: is empty; give a value, or leave it out"),
        (("summarize", "--preset=", "a.txt"), "--preset: is empty"),
        (("score", "--references", " ", "a.txt"), "--references: is empty"),
        (("remote", ""), "an argument: is empty"),
        (("compare", ""), "an argument: is empty"),
    ],
)
def test_an_empty_argument_is_refused(words, named):
    """A shell puts it in the place of a variable that is not set."""
    failed = run(ROOT, "python", "-m", "onesentence", *words, check=False)
    assert failed.returncode == 2 and named in failed.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("study", "--jobs", "2"), "--jobs: expected the name of a study; `onesentence study` lists them"),
        (("study", "--quick"), "--quick: expected the name of a study"),
        (("estimate", "--mde", "0.5", "--processes", "4"), "--mde: counts articles, not memory; remove"),
        (("score", "--scores", "--no-bertscore", "a", "b"), "remove --references, --documents, --groups"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(words, said, tmp_path):
    files = [str(tmp_path / word) if word in ("a", "b") else word for word in words]
    for word in ("a", "b"):
        (tmp_path / word).write_text("{}")
    failed = run(ROOT, "python", "-m", "onesentence", *files, check=False)
    assert failed.returncode == 1 and said in failed.stderr


@pytest.mark.parametrize("name", ["prepare", "tokenize", "smoke", "train", "report"])
def test_an_option_that_a_stage_does_not_have_is_refused(name):
    failed = run(ROOT, "python", "-m", f"stages.{name}", "--rank", "8", check=False)
    assert failed.returncode == 2 and "unrecognized arguments: --rank 8" in failed.stderr


def test_the_package_declares_what_it_imports_and_requirements_pin_it():
    """By the names of distributions: `import yaml` is PyYAML."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    pinned = {
        canonicalize_name(line.partition("==")[0])
        for file in (
            "requirements.txt",
            "models/requirements.txt",
            "onesentence/export/requirements.txt",
            "onesentence/serving/requirements.txt",
            "onesentence/study/requirements.txt",
            "tests/requirements.txt",
        )
        for line in (ROOT / file).read_text().splitlines()
        if "==" in line
    }
    assert {canonicalize_name(name) for name in declared} <= pinned
    distributions = metadata.packages_distributions()
    imported = {
        name
        for path in (ROOT / "onesentence").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in top_names(node)
        if name not in {*sys.stdlib_module_names, "onesentence", "stages"}
    } - {"gguf", "httpx2", "llama_cpp"}  # for `onesentence base` alone, or compiled when it is installed
    assert len(imported) > 20
    known = {canonicalize_name(name) for name in declared}
    missing = [name for name in imported if not known & set(map(canonicalize_name, distributions[name]))]
    assert missing == []


def top_names(node: ast.AST) -> list[str]:
    """The top-level packages that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    return [node.module.partition(".")[0]] if isinstance(node, ast.ImportFrom) else []
