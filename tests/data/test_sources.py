"""Local files and hub datasets give the same rows from every format; errors name the place."""

import csv
import datetime
import decimal
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onesentence.core.errors import UserError
from onesentence.core.files import read_parquet, write_parquet
from onesentence.core.params import SPLITS
from onesentence.core.pool import Pool
from onesentence.data.checking import name_of
from onesentence.data.records import EXPECTED, FORMATS, format_of
from onesentence.data.rows import Example
from onesentence.data.sources import Source, open_source, require_pinned

REPO = Path(__file__).parents[2]


def settings(path: Path, **changes) -> SimpleNamespace:
    """The `data` section for local data."""
    section = {
        "source": "local",
        "watch": str(path),
        "revision": None,
        "document_column": "document",
        "summary_column": "summary",
        "group_column": None,
    }
    return SimpleNamespace(**{**section, **changes})


def rows_of(source: Source, order: tuple[str, ...] = SPLITS) -> dict[str, list[Example]]:
    """The rows by split, read by this process alone."""
    rows: dict[str, list[Example]] = {split: [] for split in SPLITS}
    for batch, _ in source.batches(Pool(1), "en", order):
        for side, row in zip(batch.sides, batch.examples(), strict=True):
            rows[SPLITS[side]].append(row)
    return rows


def read(path: Path, **changes) -> dict[str, list[Example]]:
    return rows_of(open_source(settings(path, **changes)))


def write(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        plain = write(path.with_suffix(""), records)
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif path.suffix == ".json":
        path.write_text(json.dumps(records, indent=1))
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            delimiter = "," if path.suffix == ".csv" else "\t"
            writer = csv.DictWriter(file, list(records[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(records)
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    return path


TEXTS = [
    'with "quotes", commas,\nand lines',
    "emoji \U0001f600\U0001f469\u200d\U0001f467",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd, \u0645\u0631\u062d\u0628\u0627",
    "a NUL \x00 inside",
    "  blanks around  ",
    "caf\u00e9 na\u00efve",
]
RECORDS = [
    {"id": f"row {i}", "document": f"{TEXTS[i % 6]} {i}", "summary": TEXTS[(i + 1) % 6]} for i in range(60)
]
ROWS = {Example(**record) for record in RECORDS}


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_single_file_gives_all_of_its_rows_once(tmp_path, suffix):
    splits = read(write(tmp_path / f"data{suffix}", RECORDS))
    assert tuple(splits) == SPLITS
    rows = [row for split in SPLITS for row in splits[split]]
    assert len(rows) == 60 and set(rows) == ROWS


def test_a_single_file_is_split_in_the_same_way_whatever_its_format(tmp_path):
    suffixes = [*FORMATS, ".jsonl.gz", ".csv.gz"]
    splits = [read(write(tmp_path / f"data{suffix}", RECORDS)) for suffix in suffixes]
    assert all(other == splits[0] for other in splits)
    # The split depends on the document alone, not on its place, id, summary or the other rows.
    other = [{**record, "id": "x" + record["id"], "summary": "other"} for record in RECORDS[::-2]]
    for split, rows in read(write(tmp_path / "other.jsonl", other)).items():
        assert {row.document for row in rows} <= {row.document for row in splits[0][split]}


def test_a_document_in_another_spelling_has_the_same_split(tmp_path):
    """Line ends of another system, other blanks, decomposed letters: as after another export."""
    records = [{"document": f"caf\u00e9 {i}\nclosed", "summary": "s"} for i in range(60)]
    others = [{**record, "document": f" cafe\u0301 {i}\r\n closed"} for i, record in enumerate(records)]
    first = read(write(tmp_path / "data.jsonl", records))
    second = read(write(tmp_path / "other.jsonl", others))
    assert all(len(rows) > 1 for rows in first.values())
    assert {split: [row.id for row in rows] for split, rows in first.items()} == {
        split: [row.id for row in rows] for split, rows in second.items()
    }


def test_a_single_file_holds_out_about_a_tenth_each_for_validation_and_test(tmp_path):
    records = [{"document": f"text {i}", "summary": "s"} for i in range(4_000)]
    splits = read(write(tmp_path / "data.jsonl", records))
    # 4 standard errors of a share of 0.1 of 4,000 rows are 76.
    assert abs(len(splits["test"]) - 400) < 76 and abs(len(splits["validation"]) - 400) < 76


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_folder_gives_the_rows_of_each_split_in_order(tmp_path, suffix):
    parts = {"train": RECORDS[:40], "validation": RECORDS[40:50], "test": RECORDS[50:]}
    for split, records in parts.items():
        write(tmp_path / f"{split}{suffix}", records)
    (tmp_path / "README.txt").write_text("not data")
    assert read(tmp_path) == {split: [Example(**record) for record in part] for split, part in parts.items()}


def test_splits_in_a_folder_can_have_different_formats(tmp_path):
    for split, suffix in zip(SPLITS, (".json.gz", ".tsv", ".parquet"), strict=True):
        write(tmp_path / f"{split}{suffix}", RECORDS[:3])
    assert read(tmp_path) == {split: [Example(**record) for record in RECORDS[:3]] for split in SPLITS}


def ids(path: Path, **changes) -> list[str]:
    return sorted(row.id for rows in read(path, **changes).values() for row in rows)


def test_ids_come_from_the_data_or_are_line_numbers(tmp_path):
    file = tmp_path / "data.jsonl"
    for values, expected in (
        ([7, 0, 2.0, 1.5, "x"], ["0", "1.5", "2", "7", "x"]),
        ([None, "", " ", float("nan")], ["2", "3", "4", "5"]),
    ):
        lines = [json.dumps({"id": value, "document": f"d {value}", "summary": "s"}) for value in values]
        file.write_text("\n" + "\n".join(lines))  # an empty line counts as a line but gives no row
        assert ids(file) == expected
    file.write_text('{"document": "d", "summary": "s"}\n')
    assert ids(file) == ["1"]

    for split in SPLITS:
        write(tmp_path / "folder" / f"{split}.jsonl", [{"document": "d", "summary": "s"}] * 2)
    splits = read(tmp_path / "folder")
    assert {split: [row.id for row in rows] for split, rows in splits.items()} == {
        split: [f"{split}-1", f"{split}-2"] for split in SPLITS
    }


def test_columns_can_have_other_names(tmp_path):
    file = write(tmp_path / "data.csv", [{"article": "the text", "highlights": "short", "extra": "x"}])
    splits = read(file, document_column="article", summary_column="highlights")
    assert [(row.document, row.summary) for rows in splits.values() for row in rows] == [
        ("the text", "short")
    ]


def test_a_byte_order_mark_is_removed(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfdocument,summary\r\nd,s\r\n")
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"document": "d", "summary": "s"}\r\n')
    for name in ("a.csv", "a.jsonl"):
        assert [(r.document, r.summary) for rows in read(tmp_path / name).values() for r in rows] == [
            ("d", "s")
        ]


def store(rows: list[Example], path: Path) -> list[Example]:
    """Write rows to parquet and read them back, as `prepare` and later stages do."""
    fields = ("id", "document", "summary")
    write_parquet(
        path, {name: pa.array([getattr(row, name) for row in rows], pa.string()) for name in fields}
    )
    return [Example(**record) for record in read_parquet(path).to_pylist()]


@pytest.mark.parametrize("suffix", FORMATS)
def test_unusual_text_survives_to_parquet(tmp_path, suffix):
    splits = read(write(tmp_path / f"data{suffix}", RECORDS))
    rows = [row for split in SPLITS for row in splits[split]]
    assert store(rows, tmp_path / "out.parquet") == rows


def test_a_lone_surrogate_is_replaced_and_a_pair_kept(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text('{"document": "a \\ud83d b \\ud83d\\ude00", "summary": "\\udc00"}\n')
    (row,) = (row for rows in read(file).values() for row in rows)
    assert (row.document, row.summary) == ("a ? b \U0001f600", "?")
    assert store([row], tmp_path / "out.parquet") == [row]


def test_a_lone_surrogate_in_an_id_can_be_stored(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text('{"id": "\\ud83d 1", "document": "d", "summary": "s"}\n')
    rows = [row for rows in read(file).values() for row in rows]
    assert store(rows, tmp_path / "out.parquet") == rows


def error_of(path: Path, **changes) -> str:
    with pytest.raises(UserError) as raised:
        read(path, **changes)
    message = str(raised.value)
    assert "\n" not in message
    return message


GOOD = {"document": "d", "summary": "s"}


@pytest.mark.parametrize(
    "line",
    [
        b'{"document": "d", "summary": "s"',
        b"document,summary",
        b"{'document': 'd'}",
        b'{"document": "\xff"}',  # the error adds "in UTF-8"
        b'{"document": "a\nb"}',
        b"[" * 100_000,  # deeper than the parser can go
        b'{"document": "d", "summary": "s", "n": ' + b"9" * 5_000 + b"}",  # longer than int() accepts
    ],
    ids=["cut off", "CSV", "single quotes", "not UTF-8", "line break", "too deep", "too long a number"],
)
def test_a_line_of_invalid_json_is_named(tmp_path, line):
    file = tmp_path / "data.jsonl"
    good = json.dumps(GOOD).encode()
    file.write_bytes(b"\n".join([good, good, line, good]))
    assert error_of(file).startswith(f"{file}, line 3: not valid JSON")


@pytest.mark.parametrize(
    ("line", "kind"), [("[1]", "list"), ('"text"', "str"), ("null", "NoneType"), ("3", "int")]
)
def test_a_line_that_is_not_an_object_is_named(tmp_path, line, kind):
    file = tmp_path / "data.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n{line}\n")
    assert error_of(file) == f"{file}, line 2: expected an object, found {kind}"


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_error_for_a_missing_column_lists_the_columns(tmp_path, suffix):
    file = write(tmp_path / f"data{suffix}", [{"id": "1", "text": "d", "summary": "s"}])
    message = error_of(file)
    assert str(file) in message
    assert "no column 'document' (data.document_column); has id, text, summary" in message
    assert "no column 'gist' (data.summary_column)" in error_of(
        file, document_column="text", summary_column="gist"
    )


def test_a_column_that_is_missing_from_one_json_line_is_named_with_the_line(tmp_path):
    file = write(tmp_path / "data.jsonl", [GOOD, GOOD, {"document": "d"}])
    assert error_of(file).startswith(f"{file}, line 3: no column 'summary'")


@pytest.mark.parametrize("column", ["document", "summary"])
@pytest.mark.parametrize(
    ("suffix", "value", "problem"),
    [
        (".jsonl", None, "must be text, found NoneType"),
        (".jsonl", 3, "must be text, found int"),
        (".jsonl", ["a"], "must be text, found list"),
        (".jsonl", "", "is empty"),
        (".jsonl", " \n\t", "is empty"),
        (".csv", "", "is empty"),
        (".csv", "  ", "is empty"),
        (".parquet", None, "must be text, found NoneType"),
        (".parquet", "", "is empty"),
    ],
)
@pytest.mark.parametrize("folder", [False, True])
def test_a_value_that_is_not_text_is_named_by_file_line_and_column(
    tmp_path, suffix, column, value, problem, folder
):
    for split in SPLITS:
        write(tmp_path / f"{split}{suffix}", [GOOD, GOOD])
    file = write(tmp_path / f"test{suffix}", [GOOD, GOOD, {**GOOD, column: value}, GOOD])
    # The header of a CSV file is its first line.
    number = 4 if suffix == ".csv" else 3
    unit = "row" if suffix == ".parquet" else "line"
    message = error_of(tmp_path if folder else file)
    assert message == f"{file}, {unit} {number}: {column!r} {problem}; correct or remove the row"


def test_a_parquet_column_of_another_type_is_named(tmp_path):
    file = write(tmp_path / "data.parquet", [{"document": 3, "summary": "s"}])
    assert error_of(file).startswith(f"{file}, row 1: 'document' must be text, found int")


def test_a_csv_row_with_too_few_fields_is_named(tmp_path):
    file = tmp_path / "data.csv"
    file.write_text("document,summary\nd,s\nd\n")
    assert error_of(file).startswith(f"{file}, line 3: 'summary' must be text, found NoneType")


@pytest.mark.parametrize("line", ['d,"s', 'd,"s"x'])
def test_broken_csv_is_named(tmp_path, line):
    file = tmp_path / "data.csv"
    file.write_text(f"document,summary\nd,s\n{line}\n")
    assert error_of(file).startswith(f"{file}, line 3: not valid CSV: ")


@pytest.mark.parametrize("rows_before", [1, 5_000])
def test_csv_that_is_not_utf8_is_named_with_its_line(tmp_path, rows_before):
    file = tmp_path / "data.csv"
    file.write_bytes(b"document,summary\n" + b"d,s\n" * rows_before + b"d\xff,s\n")
    assert error_of(file).startswith(f"{file}, line {rows_before + 2}: not valid CSV in UTF-8")


def test_an_empty_csv_file_has_no_columns(tmp_path):
    (tmp_path / "data.csv").write_bytes(b"")
    assert "no column 'document' (data.document_column); has none" in error_of(tmp_path / "data.csv")


@pytest.mark.parametrize("name", ["data.txt", "data", "data.xlsx", "data.parquet.gz", "data.csv.zip"])
def test_another_suffix_is_refused(tmp_path, name):
    (tmp_path / name).write_text("{}")
    suffix = Path(name).suffix or "no suffix"
    assert error_of(tmp_path / name) == f"{tmp_path / name}: expected one of {EXPECTED}, found {suffix}"


def test_a_missing_path_is_named(tmp_path):
    message = error_of(tmp_path / "nowhere")
    assert message.startswith(f"data.watch: {tmp_path / 'nowhere'} not found")


def test_a_folder_must_have_exactly_one_file_for_each_split(tmp_path):
    write(tmp_path / "train.jsonl", [GOOD])
    write(tmp_path / "test.jsonl", [GOOD])
    assert f"expected exactly one validation file ({EXPECTED}), found none" in error_of(tmp_path)
    write(tmp_path / "validation.csv", [GOOD])
    assert set(read(tmp_path)) == set(SPLITS)
    write(tmp_path / "train.parquet", [GOOD])
    assert f"expected exactly one train file ({EXPECTED}), found train.jsonl, train.parquet" in error_of(
        tmp_path
    )


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    file = tmp_path / "data.parquet"
    for content in (b"", b"PAR1", b"text, not parquet" * 10):
        file.write_bytes(content)
        assert error_of(file).startswith(f"{file}: not a valid parquet file")


def test_a_parquet_file_with_damaged_data_is_named(tmp_path):
    file = write(tmp_path / "data.parquet", [{"document": f"text {i}", "summary": "s"} for i in range(2_000)])
    content = bytearray(file.read_bytes())
    content[50:2_000] = b"\x99" * 1_950  # the data come first, the schema last
    file.write_bytes(content)
    assert str(file) in error_of(file)


def test_a_parquet_text_that_is_not_utf8_is_named(tmp_path):
    file = tmp_path / "data.parquet"
    offsets, data = pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff")
    broken = pa.StringArray.from_buffers(1, offsets, data)
    pq.write_table(pa.table({"document": broken, "summary": pa.array(["s"])}), file)
    assert str(file) in error_of(file)


@pytest.mark.parametrize(
    "name",
    ["data.CSV", "data.JSONL", "data.Parquet", "data.Json", "data.TSV", "data.CSV.GZ", "my.data.v2.csv"],
)
def test_a_suffix_can_be_in_capitals(tmp_path, name):
    lower = name.lower()
    suffix = ".csv.gz" if lower.endswith(".csv.gz") else Path(lower).suffix
    file = write(tmp_path / f"plain{suffix}", RECORDS).rename(tmp_path / name)
    assert set(row for rows in read(file).values() for row in rows) == ROWS


def test_file_names_in_a_folder_can_be_in_capitals(tmp_path):
    for split, name in zip(SPLITS, ("Train.CSV", "validation.JSONL.gz", "TEST.parquet"), strict=True):
        plain = write(tmp_path / f"{split}{name[name.index('.') :].lower()}", RECORDS[:2])
        plain.rename(tmp_path / name)
    assert {split: len(rows) for split, rows in read(tmp_path).items()} == dict.fromkeys(SPLITS, 2)


EXPORTED = [
    {"id": "1", "document": "Grüße; aus, Köln\tund\nBonn", "summary": "“Grüße”"},
    {"id": "2", "document": "Plain", "summary": "text"},
]


def exported(delimiter: str, ends: str = "\r\n", quote_all: bool = False) -> str:
    """EXPORTED as a spreadsheet exports it."""
    import io

    buffer = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    writer = csv.DictWriter(
        buffer, list(EXPORTED[0]), delimiter=delimiter, lineterminator=ends, quoting=quoting
    )
    writer.writeheader()
    writer.writerows(EXPORTED)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_spreadsheet_exports_are_read_unchanged(tmp_path, suffix, delimiter, encoding):
    file = tmp_path / f"data{suffix}"
    for text in (exported(delimiter), exported(delimiter, "\n"), exported(delimiter, quote_all=True)):
        for prefix in ("", f"sep={delimiter}\r\n"):
            file.write_bytes((prefix + text).encode(encoding))
            rows = sorted((r for rows in read(file).values() for r in rows), key=lambda row: row.id)
            assert rows == [Example(**record) for record in EXPORTED]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_json_in_every_unicode_encoding(tmp_path, encoding, suffix):
    if suffix == ".json":
        text = json.dumps(EXPORTED, ensure_ascii=False)
    else:
        text = "\r\n".join(json.dumps(record, ensure_ascii=False) for record in EXPORTED)
    (tmp_path / f"data{suffix}").write_bytes(text.encode(encoding))
    assert ids(tmp_path / f"data{suffix}") == ["1", "2"]


def test_json_lines_under_the_name_json_are_read(tmp_path):
    file = tmp_path / "data.json"
    file.write_text("".join(json.dumps(record) + "\n" for record in EXPORTED))
    assert ids(file) == ["1", "2"]
    file.write_text('{"train": [1]}')
    assert error_of(file).startswith(f"{file}, line 1: no column 'document'")
    file.write_text('[{"document": "d", "summary": "s"}, 3]')
    assert error_of(file) == f"{file}, row 2: expected an object, found int"
    file.write_text('[{"document": "d", "summary": "s"}, {"document": "d", "summary": 1}]')
    assert error_of(file).startswith(f"{file}, row 2: 'summary' must be text, found int")
    file.write_text('[{"document": "d"')
    assert error_of(file).startswith(f"{file}: not valid JSON: ")


@pytest.mark.parametrize("row", [0, 1, 2_000])
def test_windows_text_is_refused_with_its_line_and_advice(tmp_path, row):
    """cp1252 and similar encodings differ in letters, and nothing in a file tells which one it uses."""
    lines = [f"d {i},s\n" for i in range(2_001)]
    lines[row] = "d,“quoted”\n"
    file = tmp_path / "data.csv"
    file.write_bytes(("document,summary\n" + "".join(lines)).encode("cp1252"))
    message = error_of(file)
    assert message.startswith(f"{file}, line {row + 2}: not valid CSV in UTF-8: byte 0x93 ")
    assert "save the file as UTF-8" in message


def test_the_error_for_an_unknown_delimiter_lists_the_known_ones(tmp_path):
    file = tmp_path / "data.csv"
    file.write_text("document~summary\nd~s\n")
    message = error_of(file)
    assert "has document~summary, and none of the delimiters ',', ';', '\\t', '|'" in message
    file.write_text("text;summary\nd;s\n")
    assert "no column 'document' (data.document_column); has text, summary (separated by ';')" in error_of(
        file
    )


def test_line_numbers_count_a_delimiter_line_and_quoted_line_breaks(tmp_path):
    file = tmp_path / "data.csv"
    file.write_text('sep=;\ndocument;summary\n"two\nlines";s\nd;\n')
    assert error_of(file).startswith(f"{file}, line 5: 'summary' is empty")


@pytest.mark.parametrize("delimiter", ["\t", "|"])
def test_lines_that_quotes_of_text_have_joined_are_refused(tmp_path, delimiter):
    """A text that begins with a quote would swallow the rows up to the next quote, without a word."""
    file = tmp_path / "data.tsv"

    def table(*lines: str) -> str:
        return "".join(f"{line}\n" for line in ("document\tsummary", *lines)).replace("\t", delimiter)

    file.write_text(table("d\ts", '"To be\tor', "not\tto", 'be"\tthat'))
    assert error_of(file).startswith(
        f"{file}, lines 3 to 5: a quote at the start of a field joins these lines"
    )
    # As the error says to write it.
    file.write_text(table("d\ts", '"""To be"\tor', "not\tto", '"be"""\tthat'))
    texts = {row.document for rows in read(file).values() for row in rows}
    assert texts == {"d", '"To be', "not", 'be"'}
    # A text of several lines, which are no rows, stays one text.
    file.write_text(table("d\ts", '"To be\tor\tnot', 'to be"\tthat', "e\tu", "f\tv"))
    texts = {row.document for rows in read(file).values() for row in rows}
    assert "To be\tor\tnot\nto be".replace("\t", delimiter) in texts


def test_line_ends_of_old_macs_are_named(tmp_path):
    file = tmp_path / "data.csv"
    file.write_bytes(b"document,summary\rd,s\r")
    assert "line ends are CR alone, expected LF or CRLF" in error_of(file)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".csv.gz"])
def test_a_damaged_gzip_file_is_named(tmp_path, suffix):
    file = write(tmp_path / f"data{suffix}", RECORDS)
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-12] + b"0" * 12, b"not gzip"):
        file.write_bytes(content)
        assert str(file) in error_of(file)


def test_a_folder_named_like_a_file_is_read_as_a_folder(tmp_path):
    (tmp_path / "data.csv").mkdir()
    for split in SPLITS:
        write(tmp_path / "data.csv" / f"{split}.csv", [GOOD])
    assert set(read(tmp_path / "data.csv")) == set(SPLITS)


@pytest.mark.parametrize("column", ["document", "summary", "id", "other"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_column_that_occurs_twice_is_named(tmp_path, suffix, column):
    names = ["id", "document", "summary", "other"]
    file = tmp_path / f"data{suffix}"
    if suffix == ".parquet":
        arrays = [pa.array([f"{name} text"]) for name in [*names, column]]
        pq.write_table(pa.Table.from_arrays(arrays, names=[*names, column]), file)
    elif suffix in (".csv", ".tsv"):
        delimiter = "," if suffix == ".csv" else "\t"
        file.write_text(delimiter.join([*names, column]) + "\n" + delimiter.join("abcde") + "\n")
    else:
        pairs = ", ".join(f'"{name}": "{i}"' for i, name in enumerate([*names, column]))
        file.write_text(f"[{{{pairs}}}]" if suffix == ".json" else f"{{{pairs}}}\n")
    message = error_of(file)
    assert f"column {column!r} occurs twice" in message and str(file) in message


def test_a_repeated_key_inside_an_unused_value_is_accepted(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text('{"document": "d", "summary": "s", "other": {"a": 1, "a": 2}}\n')
    assert ids(file) == ["1"]


def test_empty_columns_at_the_end_of_a_spreadsheet_are_accepted(tmp_path):
    file = tmp_path / "data.csv"
    file.write_text("document,summary,,\nd,s,,\n")
    assert ids(file) == ["2"]


def test_an_unused_parquet_column_is_not_read(tmp_path):
    """Python can represent neither a date in the year 300,000 nor a time zone that does not exist."""
    file = tmp_path / "data.parquet"
    day = pa.array([110_000_000], pa.int32()).cast(pa.date32())
    zoned = pa.array([0], pa.timestamp("us", tz="Nowhere/Atall"))
    columns = {"document": pa.array(["d"]), "summary": pa.array(["s"]), "day": day, "zoned": zoned}
    pq.write_table(pa.table(columns), file)
    assert ids(file) == ["1"]
    # As the group column it is read, and the error names it.
    assert error_of(file, group_column="day").startswith(f"{file}: not a valid parquet file after row 0")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        ([3, 4], ["3", "4"]),
        ([3.0, 4.0], ["3", "4"]),  # pandas writes whole numbers this way
        ([1.5, 4.0], ["1.5", "4"]),
        ([float("nan"), float("nan")], ["1", "2"]),
        ([None, None], ["1", "2"]),
        ([datetime.date(2026, 1, 2), datetime.date(2026, 1, 3)], ["2026-01-02", "2026-01-03"]),
        ([decimal.Decimal("7"), decimal.Decimal("7.50")], ["7", "7.50"]),
    ],
)
def test_parquet_ids_of_every_type(tmp_path, values, expected):
    table = pa.table({"id": values, "document": ["d", "e"], "summary": ["s", "t"]})
    pq.write_table(table, tmp_path / "data.parquet")
    assert ids(tmp_path / "data.parquet") == expected


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("first", [True, False])
def test_if_only_some_rows_have_ids_a_row_without_one_is_named(tmp_path, suffix, first):
    named, without = {"id": "a", **GOOD}, {"id": None, "document": "e", "summary": "s"}
    file = write(tmp_path / f"data{suffix}", [named, without] if first else [without, named])
    offset = 1 if suffix in (".csv", ".tsv") else 0
    unit = "row" if suffix in (".json", ".parquet") else "line"
    lacking, having = (2 + offset, 1 + offset) if first else (1 + offset, 2 + offset)
    assert error_of(file) == (
        f"{file}, {unit} {lacking}: no 'id', but {file}, {unit} {having} has one; give every row its own "
        "id, or none"
    )


def test_one_id_for_two_texts_is_refused_within_a_file_and_across_files(tmp_path):
    one = {"id": "same", "document": "One text.", "summary": "s"}
    for other in ({**one, "document": "Another."}, {**one, "summary": "Another."}):
        file = write(tmp_path / "data.csv", [one, GOOD | {"id": "x"}, other])
        assert error_of(file) == (
            f"{file}, line 4: id 'same' occurs twice, with a different text in {file}, line 2; make ids "
            "unique"
        )
        folder = tmp_path / "folder"
        for split, record in zip(SPLITS, (one, GOOD | {"id": "x"}, other), strict=True):
            write(folder / f"{split}.jsonl", [record])
        message = error_of(folder)
        assert message.startswith(
            f"{folder}/test.jsonl, line 1: id 'same' occurs twice, with a different text in "
        )
        assert "train.jsonl, line 1" in message
    # The same row twice is no error: `prepare` drops and counts it.
    assert ids(write(tmp_path / "data.csv", [one, one])) == ["same", "same"]


@pytest.mark.parametrize("value", [["a"], {"a": 1}, b"a"])
def test_an_id_of_an_unusable_type_is_refused(tmp_path, value):
    pq.write_table(pa.Table.from_pylist([{**GOOD, "id": value}]), tmp_path / "data.parquet")
    message = error_of(tmp_path / "data.parquet")
    assert f"'id' must be text, a number or a date, found {type(value).__name__}" in message


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (True, "true"),
        (7, "7"),
        (7.0, "7"),
        (2.0**60, str(2**60)),
        (-0.0, "0"),
        (0.1, "0.1"),
        (" A\n B ", "A B"),
        ("e\u0301", "\u00e9"),  # composed and decomposed letters are one name
        ("7.0", "7"),  # as pandas writes whole numbers to a CSV where one of them is missing
        ("-0.0", "0"),  # as the number -0.0
        ("07.0", "07.0"),
        ("1.10", "1.10"),
        ("NaN", None),
        ("nan", None),
        ("\t", None),
        (datetime.datetime(2026, 1, 2, 3, 4), "2026-01-02T03:04:00"),
        (decimal.Decimal("NaN"), None),
    ],
)
def test_names_by_hand(value, name):
    assert name_of(value) == name


GROUPED = [
    {"document": f"text {i}", "summary": "s", "paper": group}
    for i, group in enumerate([1, 2.5, "Herald", True])
]


def groups(path: Path, **changes) -> list[str]:
    changes = {"group_column": "paper", **changes}
    return sorted(row.group for rows in read(path, **changes).values() for row in rows)


def test_a_group_is_the_text_of_its_column(tmp_path):
    assert groups(write(tmp_path / "data.jsonl", GROUPED)) == ["1", "2.5", "Herald", "true"]
    assert groups(write(tmp_path / "data.json", GROUPED)) == ["1", "2.5", "Herald", "true"]
    # Without a column, each row is its own group.
    assert groups(tmp_path / "data.jsonl", group_column=None) == ["1", "2", "3", "4"]
    # The id may be the group, and the same number in a parquet or a CSV file is the same group.
    for suffix in (".csv", ".parquet"):
        file = write(tmp_path / f"numbers{suffix}", [{**GOOD, "paper": 7}])
        assert groups(file) == ["7"]
    assert groups(write(tmp_path / "ids.csv", [{**GOOD, "id": "x"}]), group_column="id") == ["x"]


@pytest.mark.parametrize("value", [None, "", "  ", float("nan")])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_missing_group_is_named_with_its_row(tmp_path, suffix, value):
    if suffix == ".parquet" and isinstance(value, float):
        rows = [{**GOOD, "paper": 1.0}, {**GOOD, "paper": value}]
    else:
        rows = [{**GOOD, "paper": "Herald"}, {**GOOD, "paper": value}]
    file = write(tmp_path / f"data{suffix}", rows)
    number = 3 if suffix == ".csv" else 2
    unit = "row" if suffix == ".parquet" else "line"
    assert error_of(file, group_column="paper") == (
        f"{file}, {unit} {number}: 'paper' (data.group_column) is missing or empty; give every row a group, "
        "or set data.group_column to null"
    )


def test_a_group_column_that_does_not_exist_is_named(tmp_path):
    file = write(tmp_path / "data.csv", [GOOD])
    assert "no column 'paper' (data.group_column); has document, summary" in error_of(
        file, group_column="paper"
    )


def test_a_single_file_is_split_by_group_and_no_group_is_in_two_splits(tmp_path):
    records = [{"document": f"text {i}", "summary": "s", "paper": f"paper {i % 400}"} for i in range(4_000)]
    splits = read(write(tmp_path / "data.jsonl", records), group_column="paper")
    papers = {split: {row.group for row in rows} for split, rows in splits.items()}
    assert sum(map(len, papers.values())) == len(set().union(*papers.values())) == 400
    # 4 standard errors of a share of 0.1 of 400 groups are 24.
    assert abs(len(papers["test"]) - 40) < 24 and abs(len(papers["validation"]) - 40) < 24
    # The split depends on the group alone.
    other = [{**record, "document": f"other {i}"} for i, record in enumerate(records[::7])]
    again = read(write(tmp_path / "other.jsonl", other), group_column="paper")
    assert all({row.group for row in rows} <= papers[split] for split, rows in again.items())


def test_the_hash_of_the_rows_by_hand(tmp_path):
    for split in SPLITS:
        write(tmp_path / f"{split}.jsonl", [{"id": f"{split} ü", "document": "d", "summary": 's "x"'}])
    source = open_source(settings(tmp_path))
    with pytest.raises(ValueError, match="not read to the end: test, train, validation"):
        source.sha256()
    rows_of(source, SPLITS[::-1])  # the order in which `prepare` reads; the hash does not depend on it
    lines = "".join(
        f"{split} {hashlib.sha256(line.encode()).hexdigest()}\n"
        for split in SPLITS
        for line in [f'["{split} ü", "d", "s \\"x\\"", "{split} ü"]\n']
    )
    sha256 = source.sha256()
    assert sha256 == hashlib.sha256(lines.encode()).hexdigest()
    require_pinned(sha256, SimpleNamespace(sha256=None))
    require_pinned(sha256, SimpleNamespace(sha256=sha256))
    with pytest.raises(UserError) as raised:
        require_pinned(sha256, SimpleNamespace(sha256="0" * 64))
    assert sha256 in str(raised.value) and "0" * 64 in str(raised.value)


def test_formats_by_name():
    assert format_of(Path("a.CSV.gz")) == ".csv" and format_of(Path("x/b.Parquet")) == ".parquet"
    assert format_of(Path("a.gz")) is None and format_of(Path("csv")) is None


HUB_PROGRAM = """
import json, sys
from types import SimpleNamespace
from onesentence.core.errors import UserError
from onesentence.core.pool import Pool
from onesentence.data.sources import _hub
try:
    source = _hub(SimpleNamespace(**json.loads(sys.argv[1])))
    rows = {}
    for batch, _ in source.batches(Pool(1), "en"):
        rows.setdefault(batch.chunk.split, []).extend([r.id, r.document, r.summary] for r in batch.examples())
    print(json.dumps(rows))
except UserError as error:
    print(json.dumps(str(error)))
"""


def read_hub(cache: Path, source: str, **changes) -> dict | str:
    """The rows of the hub source, or its error; offline, in a process with an empty cache."""
    given = {"source": source, "revision": "main", "sha256": None, **changes}
    data = settings(Path("requirements.txt"), **given)
    result = subprocess.run(
        [sys.executable, "-c", HUB_PROGRAM, json.dumps(vars(data))],
        env={**os.environ, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_path_is_no_hub_dataset(tmp_path):
    """The hub's loader would read a folder of data files; DVC would not notice when they change."""
    with pytest.raises(UserError, match=r"is a path on this machine, .*make data FROM="):
        open_source(settings(Path("requirements.txt"), source=str(tmp_path), revision="main"))


def test_a_hub_dataset_that_cannot_be_reached_is_one_line_without_an_address(tmp_path):
    message = read_hub(tmp_path, "nobody-here/no-such-dataset", revision="0123abc")
    assert isinstance(message, str) and "\n" not in message and "http" not in message
    assert "data.source: 'nobody-here/no-such-dataset' at revision '0123abc'" in message


def test_another_revision_of_the_local_cache_is_refused(tmp_path):
    """Without a network the loader takes the newest copy in its cache, of whatever revision."""
    folder, cache, known = tmp_path / "set", tmp_path / "cache", "a" * 40
    for split in SPLITS:
        write(folder / f"{split}.jsonl", [{"id": split, "document": "d", "summary": "s"}])
    read_hub(cache, str(folder))
    (made,) = (cache / "datasets").glob("*/default/*/*/")  # as a dataset of the hub is cached
    place = cache / "datasets/owner___set/default" / made.parent.name / known
    place.parent.mkdir(parents=True)
    shutil.move(made, place)
    for file in place.glob("*.arrow"):
        file.rename(place / f"set-{file.name.rpartition('-')[2]}")
    text = (place / "dataset_info.json").read_text()
    info = json.loads(text)
    (place / "dataset_info.json").write_text(json.dumps(info | {"dataset_name": "set"}))
    rows = {split: [[split, "d", "s"]] for split in SPLITS}
    assert read_hub(cache, "owner/set", revision=known) == rows
    message = read_hub(cache, "owner/set", revision="b" * 40)
    assert f"the local cache holds the revision {known} instead of {'b' * 40}" in message
    assert (
        read_hub(cache, "owner/set", revision="b" * 40, sha256="0" * 64) == rows
    )  # `prepare` checks the rows


def test_a_hub_dataset_gives_its_splits_and_names_a_missing_column_or_split(tmp_path):
    # The loader treats a folder of data files like a dataset of the hub.
    folder = tmp_path / "set"
    for split in SPLITS:
        row = {"id": f"{split} 1", "text": "d \U0001f600", "summary": ""}
        write(folder / f"{split}.jsonl", [row, {**row, "id": f"{split} 2", "summary": None}])
    cache, source = tmp_path / "cache", str(folder)
    assert read_hub(cache, source, document_column="text") == {
        split: [[f"{split} {number}", "d \U0001f600", ""] for number in (1, 2)]
        for split in SPLITS  # `prepare` drops and counts rows with an empty text, or none
    }
    assert "(train): no column 'document' (data.document_column); has id, text, summary" in read_hub(
        cache, source
    )
    (folder / "validation.jsonl").unlink()
    assert "has no split validation, only train, test" in read_hub(cache, source)


def test_a_hub_dataset_whose_files_cannot_be_read_is_one_line(tmp_path):
    folder = tmp_path / "set"
    for split in SPLITS:
        write(folder / f"{split}.jsonl", [GOOD])
    (folder / "test.jsonl").write_text('{"document": "d", "summ')
    message = read_hub(tmp_path / "cache", str(folder))
    assert isinstance(message, str) and "\n" not in message
    assert message.startswith(f"data.source: {str(folder)!r}")
