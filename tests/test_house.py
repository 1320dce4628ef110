"""The house: which part may import which, and how long a function may be."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "onesentence"
# A part imports from parts of a lower floor alone, and from itself.
FLOORS = (
    ("core",),
    ("data", "model", "evaluation"),
    ("training", "generation", "report"),
    ("study", "export"),
    ("inference",),
    ("serving",),
    ("commands",),
)
FLOOR = {part: number for number, parts in enumerate(FLOORS) for part in parts}
FILES = [*sorted(PACKAGE.rglob("*.py")), *sorted((ROOT / "stages").glob("*.py"))]
BLOCKS = (ast.For, ast.While, ast.If, ast.With, ast.Try)
LONGEST, DEEPEST = 60, 4  # lines of a function, blocks in blocks


def test_every_folder_has_a_floor_and_says_what_it_is():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(FLOOR)
    for folder in folders:
        docstring = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text()))
        assert docstring and docstring.endswith(".")


def modules_imported(path: Path) -> list[str]:
    """The modules that a file imports, or imports names from, anywhere in it."""
    modules = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
    return modules


def parts_imported(path: Path) -> set[str]:
    """The parts of the library that a file imports from, anywhere in it."""
    parts = {name.split(".")[1] for name in modules_imported(path) if name.startswith("onesentence.")}
    return parts & set(FLOOR)


def test_no_part_imports_from_its_own_floor_or_a_higher_one():
    found = {
        (path.relative_to(ROOT).as_posix(), part)
        for part_of in FLOOR
        for path in (PACKAGE / part_of).rglob("*.py")
        for part in parts_imported(path) - {part_of}
        if FLOOR[part] >= FLOOR[part_of]
    }
    assert found == set()


def test_the_library_imports_no_stage():
    importers = [
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*.py")
        for name in modules_imported(path)
        if name.partition(".")[0] == "stages"
    ]
    assert importers == []


def depth(node: ast.AST, outer: int = 0) -> int:
    """How many blocks the innermost statement of a function lies in; an `elif` is no deeper than its `if`."""
    elifs = node.orelse if isinstance(node, ast.If) and len(node.orelse) == 1 else []
    inner = [
        depth(
            child, outer + (isinstance(child, BLOCKS) and not (child in elifs and isinstance(child, ast.If)))
        )
        for child in ast.iter_child_nodes(node)
    ]
    return max([outer, *inner])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_functions_are_short_and_flat(path):
    functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
    long = [n.name for n in functions if n.end_lineno - n.lineno + 1 > LONGEST]
    assert long == [] and [n.name for n in functions if depth(n) > DEEPEST] == []


def test_no_folder_holds_a_quarter_of_the_lines():
    lines = Counter()
    for path in FILES:
        lines[path.relative_to(ROOT).parts[:-1][:2]] += len(path.read_text().splitlines())
    assert max(lines.values()) < sum(lines.values()) / 4


# What no module alone does, by what its tests are about.
ACROSS = {
    "stages/test_resume",  # stages that are stopped and go on
    "stages/test_several",  # stages in several processes
    "model/test_chat",  # chat templates, from params.yaml to the ids
    "model/test_families",  # one architecture after the other, through every stage
    "evaluation/test_clusters",  # resampling of clusters, from a file to the report
    "serving/test_existing_servers",  # exported models in servers of other projects
    # What no input and no dependency may do, whichever module meets it.
    *(f"security/test_{name}" for name in ("code", "fuzzing", "hostile_files", "locks", "secrets", "shown")),
}


def test_a_file_of_tests_is_named_as_its_module_and_lies_as_it_does():
    found = {path.relative_to(ROOT / "tests") for path in (ROOT / "tests").glob("*/test_*.py")}
    assert len(found) > 40
    names = {path.with_suffix("").as_posix() for path in found} - ACROSS
    # Where two folders have a module of one name, a file of tests has its folder's name too.
    modules = ("comparison", "equivalence", "experiments", "figures", "pool", "results", "sentences")
    twins = {
        "commands/test_commands_checkpoints",
        "commands/test_commands_export",
        *(f"study/test_study_{module}" for module in modules),
    }
    names = {re.sub(r"test_(study|commands)_", "test_", name) if name in twins else name for name in names}
    homes = {"stages": ROOT, "benchmarks": ROOT}
    lost = [
        name
        for name in names
        if not (module := homes.get(name.partition("/")[0], PACKAGE) / name.replace("test_", "", 1)).is_dir()
        and not module.with_suffix(".py").is_file()
    ]
    assert lost == []
    assert len({path.name for path in found}) == len(found)  # pytest imports them by this name
