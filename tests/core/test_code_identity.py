"""Code with the same definitions has the same identity, whatever its files are called."""

import textwrap

import pytest
from conftest import ROOT, run

from onesentence.core.code_identity import CommitTree, WorkingTree, digest, identity
from onesentence.core.errors import UserError

STAGE = '''
"""A stage."""

import json

from lib.tools import scale, widest


def main() -> None:
    print("done", json.dumps(scale(widest())))


if __name__ == "__main__":
    main()
'''
TOOLS = '''
"""Tools."""

from pathlib import Path

FACTOR = 2


def scale(x: float, by: int = FACTOR) -> float:
    """x times by."""
    if x < 0:
        raise ValueError(f"{x}: expected 0 or more")
    return x * by  # exact


def widest() -> int:
    from math import ceil

    return ceil(len(str(Path("a"))))
'''


def project(folder, files: dict[str, str]):
    """Write files, by path, to a folder."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(textwrap.dedent(text))
    return WorkingTree(folder)


def of(folder, files: dict[str, str] | None = None):
    """The identity of the stage `run`, some of its files replaced by `files`."""
    default = {"run.py": STAGE, "lib/__init__.py": "", "lib/tools.py": TOOLS}
    return identity(project(folder, default | (files or {})), ["run"])


@pytest.fixture
def before(tmp_path):
    return of(tmp_path / "before")


def test_renaming_a_file_or_moving_a_function_keeps_the_identity(tmp_path, before):
    scale, widest = TOOLS.split("\n\ndef widest")
    moved = project(
        tmp_path / "after",
        {
            "run.py": STAGE.replace(
                "from lib.tools import scale, widest",
                "from house.a import scale\nfrom house.b.c import widest",
            ),
            "house/__init__.py": "",
            "house/a.py": scale,
            "house/b/__init__.py": '"""A package."""\n',
            "house/b/c.py": f"from pathlib import Path\n\n\ndef widest{widest}",
        },
    )
    assert identity(moved, ["run"]) == before


def test_the_name_of_an_own_module_before_an_attribute_does_not_count(tmp_path, before):
    """`tools.scale` equals `scale`. The name of a package counts: `math.floor` differs from `np.floor`."""
    imported, called = "from lib.tools import scale, widest", "scale("
    assert imported in STAGE and called in STAGE
    through = STAGE.replace(imported, "from lib import tools\nfrom lib.tools import widest")
    assert of(tmp_path / "module", {"run.py": through.replace(called, "tools.scale(")}) == before
    one, other = (
        of(tmp_path / name, {"run.py": f"import math\nimport numpy as np\nX = {name}.floor(1)\n"})
        for name in ("math", "np")
    )
    assert one != other


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # exact", "  # to the last bit"),
        ("x times by.", "Another text."),
        ('"""Tools."""', '"""Other words."""'),
        ("expected 0 or more", "must not be negative"),
        ("x: float, by: int = FACTOR) -> float", "x: int, by=FACTOR) -> int"),
        ("    return x * by", "\n    return (\n        x * by\n    )"),
    ],
)
def test_words_annotations_and_layout_keep_the_identity(tmp_path, before, old, new):
    assert old in TOOLS
    assert of(tmp_path / "after", {"lib/tools.py": TOOLS.replace(old, new)}) == before


def test_printed_text_does_not_count_but_printed_values_do(tmp_path, before):
    assert of(tmp_path / "after", {"run.py": STAGE.replace('"done"', '"ready"')}) == before
    assert of(tmp_path / "other", {"run.py": STAGE.replace("scale(widest())", "scale(1)")}) != before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FACTOR = 2", "FACTOR = 3"),
        ("x * by", "x + by"),
        ("by: int = FACTOR", "by: int = 4"),
        ("x < 0", "x <= 0"),
        ("raise ValueError", "raise TypeError"),
        ("from math import ceil", "from numpy import ceil"),
        ("def widest", "@staticmethod\ndef widest"),
        ("from pathlib import Path", "from pathlib import PurePath as Path"),
        ("FACTOR = 2\n", "FACTOR = 2\nOTHER = 1\n"),
    ],
)
def test_whatever_may_change_a_number_changes_the_identity(tmp_path, before, old, new):
    assert old in TOOLS
    assert of(tmp_path / "after", {"lib/tools.py": TOOLS.replace(old, new)}) != before


def test_packages_and_imports_inside_functions_count(tmp_path, before):
    assert of(tmp_path / "package", {"lib/__init__.py": "SETTING = 1\n"}) != before
    inside = TOOLS.replace("from math import ceil", "from lib.more import ceil")
    files = {"lib/tools.py": inside, "lib/more.py": "def ceil(x):\n    return x\n"}
    one = of(tmp_path / "one", files)
    other = of(tmp_path / "other", files | {"lib/more.py": "def ceil(x):\n    return -x\n"})
    assert one != other != before


def test_a_relative_import_is_followed(tmp_path):
    files = {"run.py": "from lib.a import f\n", "lib/__init__.py": "", "lib/a.py": "from .b import g as f\n"}
    one = identity(project(tmp_path / "one", files | {"lib/b.py": "g = 1\n"}), ["run"])
    other = identity(project(tmp_path / "other", files | {"lib/b.py": "g = 2\n"}), ["run"])
    assert one != other


def test_a_missing_module_has_no_identity_and_invalid_python_is_an_error(tmp_path):
    tree = project(tmp_path, {"run.py": "def f(:\n"})
    assert identity(tree, ["nothing"]) is None
    with pytest.raises(UserError, match=r"run\.py:1: not valid Python"):
        identity(tree, ["run"])


def test_a_commit_has_the_identity_of_its_files(tmp_path, monkeypatch, before):
    of(tmp_path)
    monkeypatch.chdir(tmp_path)
    run(tmp_path, "git", "init", "--quiet")
    run(tmp_path, "git", "add", "--all")
    run(tmp_path, "git", "commit", "--quiet", "--message=start")
    (tmp_path / "lib/tools.py").write_text("")
    assert identity(CommitTree("HEAD"), ["run"]) == before != identity(WorkingTree(), ["run"])
    with pytest.raises(UserError, match="git ls-tree"):
        CommitTree("nowhere")


def test_every_stage_has_its_own_identity(monkeypatch):
    monkeypatch.chdir(ROOT)
    stages = ["prepare", "tokenize", "smoke", "train", "generate", "score", "evaluate"]
    identities = {name: identity(WorkingTree(), [f"stages.{name}"]) for name in stages}
    assert len({digest(hashes) for hashes in identities.values()}) == len(stages)
    assert all(len(hashes) > 100 for hashes in identities.values())
    assert identity(WorkingTree(), [f"stages.{name}" for name in stages]) == frozenset().union(
        *identities.values()
    )
