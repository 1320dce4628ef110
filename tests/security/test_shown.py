"""Hostile text through every place that shows it: terminal, errors, Markdown, report, service."""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import ROOT, run

from onesentence.commands.diff import code, markdown_table
from onesentence.core.errors import UserError, sentence
from onesentence.core.files import write_parquet
from onesentence.core.params import Model
from onesentence.export.card import licence_of
from onesentence.report.readme import example_block
from onesentence.report.render import data_block
from onesentence.report.terminal import print_table
from onesentence.serving.responses import json_response

STEER = "\x1b[31mred\x1b]0;title\x07 \x9b2J \u202eevil\u2066 \r\u2028x\ud800"
MARKUP = "</script><script>alert(1)</script><img src=x> [a](javascript:x) ![b](http://c) | ` @user"
HOSTILE = f"{STEER} {MARKUP}"
UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]")


def test_a_table_on_the_terminal(capsys):
    print_table(HOSTILE, ["name", HOSTILE], [[HOSTILE, HOSTILE]])
    out = capsys.readouterr().out
    assert "alert(1)" in out and not UNSAFE.search(out)


def test_an_error():
    said = sentence(UserError(f"{HOSTILE}\nerror: forged line"))
    assert not UNSAFE.search(said) and "\n" not in said and r"\u001b[31mred" in said


@pytest.mark.parametrize("length", [10, 10**6])
def test_an_error_of_any_length_ends(length):
    assert len(sentence(UserError("x" * length))) <= 20_004


def test_inspect_prints_a_hostile_row(pipeline, tmp_path):
    import shutil

    folder = shutil.copytree(pipeline, tmp_path / "pipeline")
    row = {name: HOSTILE.replace("\ud800", "") for name in ("id", "heading", "document", "summary", "group")}
    columns = {name: pa.array([text], pa.string()) for name, text in row.items()}
    write_parquet(folder / "data/prepared/train.parquet", columns)
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['onesentence', 'inspect']; "
    done = run(folder, sys.executable, "-c", f"{program}from onesentence.cli import main; main()")
    assert "alert(1)" in done.stdout and not UNSAFE.search(done.stdout.replace("\t", ""))


def test_markdown_of_a_pull_request():
    text = markdown_table("Parameters", ["key", "before"], [["a", HOSTILE]])
    (row,) = [line for line in text.splitlines() if "alert(1)" in line]
    cells = row.split(" | ")
    assert len(cells) == 2 and cells[1].startswith("`") and cells[1].endswith("` |")
    assert cells[1].count("`") == 2 and not UNSAFE.search(row)
    assert code("x" * 1_000) == f"`{'x' * 500} ...`"


def test_the_card_of_an_export_repeats_a_licence_as_code(tmp_path):
    licence = json.dumps(HOSTILE.replace("\ud800", ""))
    (tmp_path / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    other = Model("models/phi-tiny-medical", "models/phi-tiny-medical", None, "float32", "none")
    assert licence_of(other)[0] is None  # the repository's own licence is that of its own bases
    _, said = licence_of(Model(str(tmp_path), str(tmp_path), None, "float32", "none"))
    assert said.count("`") == 2 and "alert(1)" in said and not UNSAFE.search(said)


def test_the_example_of_the_readme_stays_in_its_block(tmp_path):
    for name in ("tuned/tuned", "baselines/base"):
        write_parquet(
            tmp_path / f"scores/{name}.parquet",
            {"id": pa.array(["a"], pa.string()), "rouge1": pa.array([10.0], pa.float64())},
        )
    text = f"```\n# heading\n{HOSTILE}".replace("\ud800", "")
    columns = {key: pa.array([value], pa.string()) for key, value in (
        ("id", "a"), ("heading", text), ("document", text), ("summary", text),
    )}  # fmt: skip
    write_parquet(tmp_path / "prepared/test.parquet", columns)
    for name in ("base", "tuned"):
        path = tmp_path / f"predictions/{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"id": "a", "prediction": text}) + "\n")
    block = example_block(tmp_path, {"split": "test", "systems": {"tuned": {"rouge1": {"value": 10.0}}}})
    assert block.count("```") == 2 and block.startswith("```text\n") and block.endswith("```\n")
    assert not UNSAFE.search(block)


class Tags(HTMLParser):
    """The tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)


def test_data_in_a_page_and_in_an_answer_is_no_markup():
    block = data_block({"text": HOSTILE})
    assert json.loads(block) == {"text": HOSTILE} and block.isascii()
    tags = Tags()
    tags.feed(f"<script>{block}</script><p>{block}</p>")
    assert tags.found == ["script", "p"]
    body = json_response({HOSTILE: HOSTILE}).body
    assert b"<" not in body and body.isascii()


def test_templates_escape_everything_that_they_insert():
    for path in (ROOT / "onesentence").rglob("*.html"):
        assert "|safe" not in path.read_text().replace(" ", "") and "autoescape" not in path.read_text()
    modules = [path for path in (ROOT / "onesentence").rglob("*.py") if "Environment(" in path.read_text()]
    assert modules
    for path in modules:
        assert path.read_text().count("Environment(") == path.read_text().count("autoescape=True"), path


def test_scripts_insert_text_as_text():
    for path in (ROOT / "onesentence").rglob("*.js"):
        for way in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
        ):
            assert way not in path.read_text(), (path, way)


def test_texts_of_others_are_isolated_in_their_direction():
    """dir=auto isolates: a mark of direction in an article cannot turn the words of the page around it."""
    for name in ("report/assets/report.html", "serving/assets/try.html"):
        page = (Path(ROOT) / "onesentence" / name).read_text()
        for element in re.findall(r'<p class="text[^>]*>', page):
            assert 'dir="auto"' in element, element
