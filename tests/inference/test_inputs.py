"""Articles from files, folders, tables and standard input; what is no article is named by file and line."""

import gzip
import io
import json
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onesentence.core.errors import UserError
from onesentence.inference.inputs import check, open_inputs, read_all


def items(*names, kind=None, column=None, keep_going=False) -> list[tuple[str, str, str, str | None]]:
    """(place, id, text, problem) of every article."""
    inputs = open_inputs(list(map(str, names)), kind, column, "document")
    return [(i.place, i.name, i.text, i.problem) for i in read_all(inputs, keep_going)]


def texts(*names, **options) -> list[str]:
    return [text for _, _, text, _ in items(*names, **options)]


@pytest.fixture
def stdin(monkeypatch):
    """A function that sets what standard input holds."""

    def give(raw: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(raw)))

    return give


def write(path, content: str | bytes):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_text_is_one_article_without_the_white_space_around_it(tmp_path):
    path = write(tmp_path / "a.txt", "\ufeff\nTitle\r\n\r\nTwo,\r\nlines.\n\n")
    assert items(path) == [(str(path), str(path), "Title\n\nTwo,\nlines.", None)]
    assert texts(write(tmp_path / "no_suffix", "Text.")) == ["Text."]
    prose = write(tmp_path / "b.md", "Summary\n\n{braces} and [1] stay.\na\tb\nc\td\n")
    assert texts(prose) == ["Summary\n\n{braces} and [1] stay.\na\tb\nc\td"]


def test_a_folder_is_its_texts_by_name(tmp_path):
    for name in ("b.md", "a.TXT", "c.txt", ".hidden.txt", "table.csv"):
        write(tmp_path / name, f"Text of {name}")
    (tmp_path / "d.txt").mkdir()
    assert texts(tmp_path) == ["Text of a.TXT", "Text of b.md", "Text of c.txt"]
    (tmp_path / "d.txt/e").mkdir()
    with pytest.raises(UserError, match=r"d.txt: no .txt or .md file in this folder; name its files"):
        items(tmp_path / "d.txt")


def test_every_line_of_a_text_is_an_article(tmp_path):
    path = write(tmp_path / "a.txt", "One.\r\nTwo.\nThree.")
    assert items(path, kind="lines") == [
        (f"{path}, line {k}", f"{path}, line {k}", text, None)
        for k, text in enumerate(("One.", "Two.", "Three."), 1)
    ]
    many = write(tmp_path / "many.txt", "".join(f"Line {k}.\n" for k in range(1_000)))
    assert texts(many, kind="lines") == [f"Line {k}." for k in range(1_000)]


ROWS = [{"id": 7, "document": 'One,\n"two".', "text": "A"}, {"id": "x", "document": " Three. ", "text": "B"}]
TABLES = {
    "a.jsonl": "\n".join(map(json.dumps, ROWS)),
    "a.json": json.dumps(ROWS),
    "a.csv": 'id,document,text\n7,"One,\n""two"".",A\nx, Three. ,B\n',
    "a.tsv": 'id\tdocument\ttext\n7\t"One,\n""two""."\tA\nx\t Three. \tB\n',
}


@pytest.mark.parametrize("name", [*TABLES, "a.parquet", "a.jsonl.gz"])
def test_a_table_is_read_by_its_column(tmp_path, name):
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({key: [str(row[key]) for row in ROWS] for key in ROWS[0]}), path)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(TABLES["a.jsonl"].encode()))
    else:
        write(path, TABLES[name])
    found = items(path)
    # As it is: the pipeline reads a table's texts without a change.
    assert [(name, text) for _, name, text, _ in found] == [("7", 'One,\n"two".'), ("x", " Three. ")]
    assert [
        place.startswith(f"{path}, {'line' if 'l' in name[-3:] or 'sv' in name else 'row'} ")
        for place, *_ in found
    ]
    assert texts(path, column="text") == ["A", "B"]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv"])
def test_standard_input_may_hold_a_table(stdin, kind):
    stdin(TABLES[f"a.{kind}"].encode())
    found = items("-", kind=kind)
    assert [text for _, _, text, _ in found] == ['One,\n"two".', " Three. "]
    assert [name for _, name, _, _ in found] == ["7", "x"]
    assert all(place.startswith("standard input, ") for place, *_ in found)


def test_standard_input_is_an_article_or_an_article_a_line(stdin):
    stdin(b"One.\nTwo.\n")
    assert items("-") == [("standard input", "standard input", "One.\nTwo.", None)]
    stdin(b"One.\nTwo.\n")
    assert texts("-", kind="lines") == ["One.", "Two."]


def test_a_line_of_standard_input_is_yielded_before_the_next_is_read(stdin, monkeypatch):
    read_end = []

    def readline(limit):
        read_end.append(len(read_end))
        return json.dumps({"document": f"Text {read_end[-1]}."}).encode() + b"\n"

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=SimpleNamespace(readline=readline)))
    (known,) = open_inputs(["-"], "jsonl", None, "document")
    first = next(known.read())
    assert first.text == "Text 0." and read_end == [0]


@pytest.mark.parametrize("kind", ["text", "lines", "jsonl"])
def test_an_endless_line_is_refused_before_it_fills_the_memory(stdin, monkeypatch, tmp_path, kind):
    monkeypatch.setattr("onesentence.inference.inputs.LONGEST", 1_000)
    place = "standard input" if kind == "text" else "standard input, line 2"
    row = b'{"document": "One."}\n' if kind == "jsonl" else b"One.\n"
    stdin(row + b"a" * 1_001)
    said = f"{place}: longer than 1,000 bytes; no article has as many: cut or remove it"
    assert refused("-", kind=kind) == said
    stdin(b"a" * 997)
    if kind != "jsonl":
        assert len(items("-", kind=kind)) == 1
    (tmp_path / "long.txt").write_bytes(b"a" * 1_001)
    assert "longer than 1,000 bytes" in str(items(str(tmp_path / "long.txt"), keep_going=True)[0])


def test_an_article_in_place_of_its_file_s_name_is_refused_in_a_sentence():
    said = refused("The bridge was closed. " * 20)
    assert said.startswith("The bridge was closed.") and "too long for the name of a file" in said
    assert len(said) < 200 and said.endswith("onesentence summarize -")


def refused(*names, **options) -> str:
    with pytest.raises(UserError) as error:
        items(*names, **options)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pdf", b"%PDF-1.4", "is named .pdf; expected a text file, a folder"),
        ("a.txt", b"%PDF-1.4 ...", "is a PDF file; expected text in UTF-8"),
        ("a.txt", b"PK\x03\x04...", "is a zip file (.zip, .xlsx, .docx, .npz)"),
        ("a.txt", "<!DOCTYPE html><p>x", "is HTML or XML, by its first line"),
        ("a.txt", '{"document": "x"}\n{"document": "y"}', "is JSON, one object per line: name it .jsonl"),
        ("a.txt", "id,document\n1,Text.\n", "is a table (commas)"),
        ("a.txt", b"\xff\xfet\0e\0", "is text in UTF-16"),
        ("a.txt", b"Fine.\nCaf\xe9.", "line 2: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        ("a.txt", b"a\0b", "contains NUL characters"),
        (
            "a.txt",
            " \n",
            "the article is empty; correct or remove it, or count it as failed with --keep-going",
        ),
        ("a.csv", "id,text\n1,x\n", "no column 'document'; has id, text; name the right one with --column"),
        ("a.csv", 'document\n"x\n', "not valid CSV"),
        ("a.jsonl", '{"document": "x"}\n{"document": 3}', "line 2: 'document' must be text, found int"),
        (
            "a.jsonl",
            '{"document": "x"}\n{"document": null}',
            "line 2: 'document' must be text, found nothing",
        ),
        ("a.jsonl", '{"document": "x"}\n\n{"document": "  "}', "line 3: 'document' is empty"),
        ("a.jsonl", '{"document": "x"}\n{"document"', "line 2: not valid JSON"),
        ("a.parquet", b"PAR1", "not a valid parquet file"),
    ],
)
def test_what_is_no_article_is_refused_by_file_and_line(tmp_path, name, content, said):
    path = write(tmp_path / name, content)
    message = refused(path)
    assert message.startswith(str(path)) and said in message


def test_files_that_are_missing_or_lines_that_are_empty_are_refused(tmp_path):
    for name in ("a.txt", "a.csv", "a.parquet"):
        assert f"{name}: not found; expected a text file" in refused(tmp_path / name)
    path = write(tmp_path / "a.txt", "One.\n\nThree.\n")
    assert refused(path, kind="lines").startswith(f"{path}, line 2: the line is empty; correct or remove it")
    html = write(tmp_path / "b.txt", "<html>\nOne.\n")
    assert "is HTML or XML" in refused(html, kind="lines")


@pytest.mark.parametrize(
    ("kind", "raw", "said"),
    [
        (
            None,
            b'{"document": "x"}\n{"document": "y"}',
            "is JSON, one object per line; name its format with --from jsonl",
        ),
        (None, b"<html>", "standard input: is HTML or XML, by its first line; pass its text"),
        (None, b"", "standard input: the article is empty"),
        (
            "jsonl",
            b'{"document": "x"}\n{"text": "y"}',
            "line 2: no column 'document'; has text; name the right",
        ),
        ("jsonl", b'{"document": "x"}\n[1]', "line 2: expected an object, found list"),
        ("jsonl", b'{"document": "x"}\nnonsense', "line 2: not valid JSON"),
        ("jsonl", b'{"document": "x"}\n{"document": "\xe9"}', "line 2: byte 0xe9 is not UTF-8"),
        ("csv", b"text\nx\n", "standard input: no column 'document'"),
        ("parquet", b"x", "standard input: not a valid parquet file"),
    ],
)
def test_what_is_no_article_on_standard_input_is_refused(stdin, kind, raw, said):
    stdin(raw)
    message = refused("-", kind=kind)
    assert message.startswith("standard input") and said in message


def test_with_keep_going_what_is_no_article_keeps_its_place(tmp_path, stdin):
    path = write(tmp_path / "a.jsonl", '{"document": "x"}\n{"document": ""}\n{"document": "z"}')
    empty = write(tmp_path / "b.txt", "")
    found = items(path, empty, keep_going=True)
    assert [(text, problem) for _, _, text, problem in found] == [
        ("x", None),
        ("", "'document' is empty"),
        ("z", None),
        ("", "the article is empty"),
    ]
    broken = tmp_path / "c.txt"
    broken.write_bytes(b"Fine.\nCaf\xe9.")
    found = items(path, broken, keep_going=True)
    assert found[-1] == (
        str(broken),
        str(broken),
        "",
        "line 2: byte 0xe9 is not UTF-8; save the file as UTF-8",
    )
    rows = b'{"document": "x"}\nnonsense\n{"text": "y"}\nCaf\xe9\n[1]\n{"document": "z"}'
    stdin(rows)
    file = tmp_path / "d.jsonl"
    file.write_bytes(rows)
    for found in (items("-", kind="jsonl", keep_going=True), items(str(file), keep_going=True)):
        assert [problem is None for *_, problem in found] == [True, False, False, False, False, True]
        assert found[2][3] == "no column 'document'; has text; name the right one with --column"
        assert found[3][3] == "byte 0xe9 is not UTF-8; save the file as UTF-8"
    lines = tmp_path / "lines.txt"
    lines.write_bytes(b"One.\nCaf\xe9.\nT\0o.\nThree.\n")
    found = items(str(lines), kind="lines", keep_going=True)
    assert [(text, problem is None) for _, _, text, problem in found] == [
        ("One.", True),
        ("", False),
        ("", False),
        ("Three.", True),
    ]
    assert refused(str(lines), kind="lines").startswith(f"{lines}, line 2: byte 0xe9 is not UTF-8; save")


def test_options_that_fit_no_input_are_refused(tmp_path):
    path = write(tmp_path / "a.txt", "Text.")
    assert refused(path, column="text") == "--column text: no input is a table; remove the option"
    assert refused(path, kind="csv").startswith("--from csv: is for standard input, which is not read")
    assert refused("-", "-").startswith("-: named twice")


def test_the_count_is_known_before_work_begins_unless_lines_stream(tmp_path, stdin):
    path = write(tmp_path / "a.txt", "One.\nTwo.\n")
    stdin(b"x")

    def count(*names, kind=None):
        return check(open_inputs(list(map(str, names)), kind, None, "document"), keep_going=False)

    assert (count(path), count(path, kind="lines"), count(path, "-")) == (1, 2, 2)
    assert count("-", kind="lines") is None
    with pytest.raises(UserError, match=r"a.jsonl: no article in it"):
        count(write(tmp_path / "a.jsonl", "\n\n"))
    with pytest.raises(UserError, match=r"b.jsonl, line 3: 'document' is empty"):
        count(path, write(tmp_path / "b.jsonl", '{"document": "x"}\n\n{"document": ""}'))
