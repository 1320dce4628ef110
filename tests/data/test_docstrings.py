"""Documented objects of source files written here; installed packages give the same on every Python."""

import inspect
import os
import random
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

from onesentence.core.errors import UserError
from onesentence.data import docstrings
from onesentence.data.docstrings import (
    BODY_WORDS,
    DISTRIBUTIONS,
    DocumentedObject,
    check_versions,
    clean_docstring,
    entries_hash,
    entries_of,
    pair_of,
    pinned_versions,
    source_files,
)

REPO = Path(__file__).parents[2]


@pytest.fixture
def parse(tmp_path):
    """Entries of a source text or bytes, as of the file dist/package/module.py."""

    def parsed(source: str | bytes) -> list[DocumentedObject]:
        path = tmp_path / "module.py"
        path.write_bytes(source if isinstance(source, bytes) else source.encode("utf-8"))
        return entries_of("dist/package/module.py", path)

    return parsed


def test_entries_of_a_module_in_order_with_qualified_names(parse):
    entries = parse(
        '"""A module docstring is no entry."""\n'
        "import functools\n"
        "\n"
        "@functools.cache\n"
        "@decorator('(')\n"
        "def decorated(a, b=2):\n"
        "    '''Single quotes.'''\n"
        "\n"
        "class Outer(Base, metaclass=Meta):\n"
        '    """The outer class."""\n'
        "    class Inner:\n"
        '        "The inner class."\n'
        "        async def method(self, x: int = 1) -> dict[str, int]:\n"
        '            """An async method."""\n'
        "            def local():\n"
        '                """A local function."""\n'
        "    def undocumented(self):\n"
        "        return 1\n"
        "\n"
        'def one_line(x): "On one line."\n'
    )
    assert [(entry.qualname, entry.heading, entry.docstring) for entry in entries] == [
        ("package.module.decorated", "def package.module.decorated(a, b=2)", "Single quotes."),
        ("package.module.Outer", "class package.module.Outer(Base, metaclass=Meta)", "The outer class."),
        ("package.module.Outer.Inner", "class package.module.Outer.Inner", "The inner class."),
        (
            "package.module.Outer.Inner.method",
            "async def package.module.Outer.Inner.method(self, x: int = 1) -> dict[str, int]",
            "An async method.",
        ),
        (
            "package.module.Outer.Inner.method.local",
            "def package.module.Outer.Inner.method.local()",
            "A local function.",
        ),
        ("package.module.one_line", "def package.module.one_line(x)", "On one line."),
    ]
    assert {entry.file for entry in entries} == {"dist/package/module.py"}


def test_a_signature_over_several_lines_loses_comments_and_line_breaks_and_keeps_defaults(parse):
    (entry,) = parse(
        "def function(  # the first\n"
        "    # a line of its own\n"
        "    first: int,\n"
        "    second='# no comment',  # a comment\n"
        '    third=" # none either",\n'
        "    *,\n"
        "    fourth=(1, 2),\n"
        ") -> None:\n"
        "    # between the two\n"
        '    """Docstring."""\n'
    )
    assert entry.heading == (
        "def package.module.function(first: int, second='# no comment', third=\" # none either\", *, "
        "fourth=(1, 2)) -> None"
    )


def test_a_comment_with_an_apostrophe_is_dropped_from_a_signature(parse):
    (entry,) = parse('def function(x=1, # it\'s one\n    y=2):  # don\'t\n    """Docstring."""\n')
    assert entry.heading == "def package.module.function(x=1, y=2)"


@pytest.mark.parametrize(
    ("source", "heading"),
    [
        ("def f(x):", "def package.module.f(x)"),
        ("def e(self):", "def package.module.e(self)"),
        ("async def n():", "async def package.module.n()"),
        ("class a(b):", "class package.module.a(b)"),
    ],
)
def test_a_name_that_is_part_of_the_keyword_changes_only_the_name(parse, source, heading):
    (entry,) = parse(f'{source}\n    "Docstring."\n')
    assert entry.heading == heading


def test_definitions_inside_if_try_and_with_are_entries_but_not_those_in_loops(parse):
    entries = parse(
        "if CONDITION:\n"
        '    def in_if(): "1"\n'
        "elif OTHER:\n"
        '    def in_elif(): "2"\n'
        "else:\n"
        '    def in_else(): "3"\n'
        "try:\n"
        '    def in_try(): "4"\n'
        "finally:\n"
        '    def in_finally(): "5"\n'
        "with context:\n"
        '    def in_with(): "6"\n'
        "for i in range(3):\n"
        '    def in_loop(): "7"\n'
    )
    names = [entry.qualname.rsplit(".", 1)[-1] for entry in entries]
    assert names == ["in_if", "in_elif", "in_else", "in_try", "in_finally", "in_with"]


@pytest.mark.parametrize(
    "body",
    ['f"a {1}"', 'b"bytes"', "1", "...", "pass", "x = 'text'", '""', '"   "', "'a' + 'b'"],
)
def test_an_expression_that_is_not_a_docstring_gives_no_entry(parse, body):
    assert parse(f"def function():\n    {body}\n") == []


SOURCE = 'class A:\n\tdef method(self,\n\t\tx=1):\n\t\t"""First line.\n\n\t\tMore\n\t\t\tindented.\n\t\t"""\n'


def test_line_ends_and_a_byte_order_mark_make_no_difference(parse):
    plain = parse(SOURCE)
    assert plain[0].heading == "def package.module.A.method(self, x=1)"
    assert plain[0].docstring == "First line.\n\nMore\n        indented."  # a tab is 8 columns
    assert parse(SOURCE.replace("\n", "\r\n")) == plain
    assert parse(SOURCE.replace("\n", "\r")) == plain
    assert parse(b"\xef\xbb\xbf" + SOURCE.encode()) == plain
    assert parse(b"\xef\xbb\xbf" + SOURCE.replace("\n", "\r\n").encode()) == plain


def test_a_coding_cookie_is_obeyed(parse):
    source = '# -*- coding: latin-1 -*-\ndef function(x="\u00e9"): """Caf\u00e9 \u00fc."""\n'
    (entry,) = parse(source.encode("latin-1"))
    assert (entry.heading, entry.docstring) == (
        'def package.module.function(x="\u00e9")',
        "Caf\u00e9 \u00fc.",
    )


def test_columns_are_counted_in_bytes(parse):
    (entry,) = parse('def function(x="\u05e9\u05dc\u05d5\u05dd \U0001f600"): "Docstring."\n')
    assert entry.heading == 'def package.module.function(x="\u05e9\u05dc\u05d5\u05dd \U0001f600")'


def test_an_invalid_escape_is_kept_without_a_warning(parse, recwarn):
    (entry,) = parse('def function():\n    "A \\q and a \\d."\n')
    assert entry.docstring == "A \\q and a \\d."
    assert len(recwarn) == 0


def test_a_lone_surrogate_in_a_docstring_is_replaced(parse):
    (entry,) = parse('def function():\n    "A \\ud800 b."\n')
    assert entry.docstring == "A ? b."
    assert len(entries_hash([entry])) == 64


def test_a_package_file_is_named_after_its_package(tmp_path):
    path = tmp_path / "__init__.py"
    path.write_text('def function(): "Docstring."\n')
    assert entries_of("dist/package/sub/__init__.py", path)[0].qualname == "package.sub.function"


@pytest.mark.parametrize(
    "source",
    [
        b"def (:\n",
        b"x = '\n",
        b'x = "\xff"\n',
        b"# coding: no-such-codec\n",
        b"x = 1\x00\n",
        b"\tif 1:\n  x\n",
    ],
)
def test_a_file_that_does_not_parse_is_named(parse, source):
    with pytest.raises(UserError, match=r"dist/package/module\.py: this Python cannot parse it"):
        parse(source)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("One line.", "One line."),
        ("  One line.  ", "One line."),
        ("First.\n\n    Body.\n      More.\n    ", "First.\n\nBody.\n  More."),
        ("\n    First.\n\n    Body.\n", "First.\n\nBody."),
        ("First.   \n    Body.   \n\n\n", "First.\nBody."),
        ("First.\r\n    Body.\rLast", "First.\n    Body.\nLast"),
        ("First.\n\tBody.\n        Same.", "First.\nBody.\nSame."),
        ("A\x00B", "AB"),
        ("", ""),
        (" \n \n", ""),
    ],
)
def test_clean_docstring_by_hand(text, cleaned):
    assert clean_docstring(text) == cleaned


def test_clean_docstring_dedents_as_inspect_cleandoc_does():
    rng = random.Random(0)
    for _ in range(300):
        lines = ["First."]
        for _ in range(rng.randint(0, 8)):
            lines.append(rng.choice(["", "    ", "\t", " " * rng.randint(0, 12) + "text", "\t  tab"]))
        text = "\n".join(lines)
        # cleandoc leaves blanks at the end of lines, which clean_docstring drops.
        expected = "\n".join(line.rstrip(" ") for line in inspect.cleandoc(text).split("\n")).rstrip("\n")
        assert clean_docstring(text) == expected


def entry_of(docstring: str) -> DocumentedObject:
    return DocumentedObject("dist/m.py", "m.function", "def m.function(x)", docstring)


BODY = " ".join(f"word{i}" for i in range(BODY_WORDS[0]))


def test_pair_of_is_heading_and_body_against_the_first_line():
    entry = entry_of(f"Return the   sum of x.\n\n{BODY}\n\n    Indented.\n")
    assert pair_of(entry) == ("def m.function(x)", f"{BODY}\n\n    Indented.", "Return the sum of x.")


@pytest.mark.parametrize(
    ("docstring", "reason"),
    [
        ("Return the sum of x.", "docstring of one line"),
        ("Return the sum of x.\n\n  \n", "docstring of one line"),
        (f"Return the sum\nof x.\n\n{BODY}", "first line runs on"),
        (f"Return the sum of x.\n{BODY}", "first line runs on"),
        (f"42 is the answer here.\n\n{BODY}", "first line is no sentence"),
        (f"The parameters of it:\n\n{BODY}", "first line is no sentence"),
        (f"Example >>> f(x) of use.\n\n{BODY}", "first line is no sentence"),
        (f"Two words.\n\n{BODY}", "first line is no sentence"),
        (f"{'Word ' * 41}.\n\n{BODY}", "first line is no sentence"),
        (f"Return the sum. Then the rest.\n\n{BODY}", "first line is no sentence"),
        ("Return the sum of x.\n\nToo short a body.", "body outside 12 to 5000 words"),
        (f"Return the sum of x.\n\n{BODY.rsplit(' ', 1)[0]}", "body outside 12 to 5000 words"),
        ("Return the sum of x.\n\n" + "word " * 5_001, "body outside 12 to 5000 words"),
    ],
)
def test_pair_of_gives_the_reason_why_an_entry_has_no_pair(docstring, reason):
    assert pair_of(entry_of(docstring)) == reason


def test_pair_of_accepts_both_ends_of_its_limits():
    for words_of_summary in (3, 40):
        assert isinstance(pair_of(entry_of(f"{'Word ' * words_of_summary}\n\n{BODY}")), tuple)
    assert isinstance(pair_of(entry_of("Return the sum of x.\n\n" + "word " * 5_000)), tuple)


def test_pinned_versions_of_a_requirements_file(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text(
        "# comment\nSciKit_Learn==1.2.3 ; python_version>'3'\nnumpy>=2\ntorch==2.0.0+cpu  # x\n--flag\n"
    )
    assert pinned_versions(path) == {"scikit-learn": "1.2.3", "torch": "2.0.0+cpu"}


def test_check_versions_names_the_packages_that_differ(tmp_path):
    path = tmp_path / "requirements.txt"
    pins = {name: metadata.version(name).split("+")[0] for name in DISTRIBUTIONS}
    path.write_text("".join(f"{name.replace('_', '-')}=={pin}\n" for name, pin in pins.items()))
    check_versions(path)

    wrong = {**pins, "narwhals": "0.0.1"}
    del wrong["kombu"]
    path.write_text("".join(f"{name}=={pin}\n" for name, pin in wrong.items()))
    with pytest.raises(UserError) as raised:
        check_versions(path)
    message = str(raised.value)
    assert f"narwhals: {pins['narwhals']}, pinned 0.0.1" in message
    assert f"kombu: {pins['kombu']}, pinned nowhere" in message
    assert "dulwich" not in message and f"pip install -r {path}" in message


def test_check_versions_names_a_package_that_is_not_installed(tmp_path, monkeypatch):
    path = tmp_path / "requirements.txt"
    path.write_text("no-such-distribution-here==1.0\n")
    monkeypatch.setattr(docstrings, "DISTRIBUTIONS", ("no_such_distribution_here",))
    with pytest.raises(UserError, match=r"no_such_distribution_here: not installed, pinned 1\.0"):
        check_versions(path)


def test_the_committed_requirements_pin_every_distribution_that_is_read():
    pins = pinned_versions(REPO / "requirements.txt")
    assert {name.replace("_", "-").lower() for name in DISTRIBUTIONS} <= set(pins)


def test_source_files_are_sorted_without_tests_and_vendored_packages(monkeypatch):
    monkeypatch.setattr(docstrings, "DISTRIBUTIONS", ("networkx",))
    files = list(source_files())
    names = [name for name, _ in files]
    assert names == sorted(names) and len(set(names)) == len(names) > 100
    assert all(name.startswith("networkx/networkx/") and path.is_file() for name, path in files)
    assert not any("/tests/" in name or name.endswith("/conftest.py") for name in names)
    assert any("/tests/" in str(file) for file in metadata.files("networkx"))


def test_entries_hash_changes_with_every_field_and_with_the_order():
    one, two = DocumentedObject("a", "b", "c", "d"), DocumentedObject("e", "f", "g", "h")
    variants = [
        [one, two],
        [two, one],
        [one],
        [],
        [DocumentedObject("ab", "", "c", "d")],
        [DocumentedObject("a", "bc", "", "d")],
        [DocumentedObject("a", "b", "c", "")],
    ]
    assert len({entries_hash(entries) for entries in variants}) == len(variants)


HASH_PROGRAM = """
from onesentence.data import docstrings
docstrings.DISTRIBUTIONS = ("dulwich", "narwhals")
entries = [entry for item in docstrings.source_files() for entry in docstrings.entries_of(*item)]
print(len(entries), docstrings.entries_hash(entries))
"""


def interpreter(version: str) -> str | None:
    """A Python of this version, such as "3.13", on PATH or under ~/.pyenv."""
    candidates = [shutil.which(f"python{version}")]
    candidates += sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    for candidate in filter(None, candidates):
        # A pyenv shim on PATH may start nothing.
        probe = subprocess.run(
            [str(candidate), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if probe.stdout.strip() == version:
            return str(candidate)
    return None


def hash_on(python: str) -> str:
    result = subprocess.run(
        [python, "-c", HASH_PROGRAM],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPO), sysconfig.get_paths()["purelib"]]),
            "PYTHONDONTWRITEBYTECODE": "1",  # the packages belong to another Python
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def hash_here() -> str:
    return hash_on(sys.executable)


@pytest.mark.parametrize("version", ["3.12", "3.13", "3.14"])
def test_the_same_packages_give_the_same_entries_on_another_python(version, hash_here):
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip("this is the Python that runs the tests")
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    assert int(hash_here.split()[0]) > 1_000
    assert hash_on(python) == hash_here


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Return the sum of x.", True),
        ("Return the sum, e.g. Of x, by J. Smith.", True),
        ("Return x. Then stop.", False),
        ("Return x. \u00c9lan.", True),  # the ASCII rule sees no sentence end here
        ("Say \u201cno.\u201d Then stop.", True),
    ],
)
def test_docstrings_have_their_own_rules_for_sentences_and_words(line, expected):
    assert docstrings.is_one_sentence(line) is expected
    assert docstrings.words("caf\u00e9 \u2013 Snake_case \u732b\u304c") == [
        "caf", "\u00e9", "\u2013", "snake_case", "\u732b\u304c",
    ]  # fmt: skip
