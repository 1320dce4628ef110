"""Local files and hub datasets: the same rows from every format, and errors that name the place."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.common.errors import UserError
from stages.common.files import read_parquet, write_parquet
from stages.common.params import SPLITS
from stages.common.sources import Raw, open_source

REPO = Path(__file__).parents[1]
FORMATS = (".jsonl", ".csv", ".parquet")


def settings(path: Path, **changes) -> SimpleNamespace:
    """The `data` section for local data."""
    section = {
        "source": "local",
        "path": str(path),
        "revision": None,
        "document_column": "document",
        "summary_column": "summary",
        "group_column": None,
    }
    return SimpleNamespace(**{**section, **changes})


def read(path: Path, **changes) -> dict[str, list[Raw]]:
    return {split: list(rows) for split, rows in open_source(settings(path, **changes)).splits.items()}


def write(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]))
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
ROWS = {Raw(**record) for record in RECORDS}


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_single_file_gives_all_of_its_rows_once(tmp_path, suffix):
    splits = read(write(tmp_path / f"data{suffix}", RECORDS))
    assert tuple(splits) == SPLITS
    rows = [row for split in SPLITS for row in splits[split]]
    assert len(rows) == 60 and set(rows) == ROWS


def test_a_single_file_is_split_in_the_same_way_whatever_its_format(tmp_path):
    splits = [read(write(tmp_path / f"data{suffix}", RECORDS)) for suffix in FORMATS]
    assert splits[0] == splits[1] == splits[2]
    # The split hangs on the document: not on its place, its id, its summary or the other rows.
    other = [{**record, "id": "x" + record["id"], "summary": "other"} for record in RECORDS[::-2]]
    for split, rows in read(write(tmp_path / "other.jsonl", other)).items():
        assert {row.document for row in rows} <= {row.document for row in splits[0][split]}


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
    assert read(tmp_path) == {split: [Raw(**record) for record in part] for split, part in parts.items()}


def test_a_folder_can_hold_splits_of_several_formats(tmp_path):
    for split, suffix in zip(SPLITS, FORMATS, strict=True):
        write(tmp_path / f"{split}{suffix}", RECORDS[:3])
    assert read(tmp_path) == {split: [Raw(**record) for record in RECORDS[:3]] for split in SPLITS}


def test_ids_are_those_of_the_data_else_line_numbers(tmp_path):
    lines = [{"id": 7}, {"id": 0}, {"id": None}, {"id": ""}, {}, {"id": "x"}]
    text = "\n".join(json.dumps({**line, "document": "d", "summary": "s"}) for line in lines)
    file = tmp_path / "data.jsonl"
    file.write_text("\n" + text)  # an empty line counts and is no row
    rows = sorted((row for rows in read(file).values() for row in rows), key=lambda row: row.id)
    assert [row.id for row in rows] == ["0", "4", "5", "6", "7", "x"]

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


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfdocument,summary\r\nd,s\r\n")
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"document": "d", "summary": "s"}\r\n')
    for name in ("a.csv", "a.jsonl"):
        assert [(r.document, r.summary) for rows in read(tmp_path / name).values() for r in rows] == [
            ("d", "s")
        ]


def store(rows: list[Raw], path: Path) -> list[Raw]:
    """Through parquet and back, as `prepare` and later stages do."""
    fields = ("id", "document", "summary")
    write_parquet(
        path, {name: pa.array([getattr(row, name) for row in rows], pa.string()) for name in fields}
    )
    return [Raw(**record) for record in read_parquet(path).to_pylist()]


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
        b'{"document": "\xff"}',
        b'{"document": "a\nb"}',
        b"[" * 100_000,  # deeper than the parser goes
        b'{"document": "d", "summary": "s", "n": ' + b"9" * 5_000 + b"}",  # longer than int() takes
    ],
    ids=["cut off", "CSV", "single quotes", "not UTF-8", "line break", "too deep", "too long a number"],
)
def test_a_line_that_is_no_json_is_named(tmp_path, line):
    file = tmp_path / "data.jsonl"
    good = json.dumps(GOOD).encode()
    file.write_bytes(b"\n".join([good, good, line, good]))
    assert error_of(file).startswith(f"{file}, line 3: not valid JSON in UTF-8")


@pytest.mark.parametrize(
    ("line", "kind"), [("[1]", "list"), ('"text"', "str"), ("null", "NoneType"), ("3", "int")]
)
def test_a_line_that_is_no_object_is_named(tmp_path, line, kind):
    file = tmp_path / "data.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n{line}\n")
    assert error_of(file) == f"{file}, line 2: expected an object, found {kind}"


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_missing_column_is_named_with_those_there_are(tmp_path, suffix):
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
def test_a_value_that_is_no_text_is_named_by_file_line_and_column(
    tmp_path, suffix, column, value, problem, folder
):
    for split in SPLITS:
        write(tmp_path / f"{split}{suffix}", [GOOD, GOOD])
    file = write(tmp_path / f"test{suffix}", [GOOD, GOOD, {**GOOD, column: value}, GOOD])
    # The header of a CSV file is its first line.
    number = 4 if suffix == ".csv" else 3
    message = error_of(tmp_path if folder else file)
    assert message == f"{file}, line {number}: {column!r} {problem}; correct or remove the row"


def test_a_parquet_column_of_another_type_is_named(tmp_path):
    file = write(tmp_path / "data.parquet", [{"document": 3, "summary": "s"}])
    assert error_of(file).startswith(f"{file}, line 1: 'document' must be text, found int")


def test_a_csv_row_with_too_few_fields_is_named(tmp_path):
    file = tmp_path / "data.csv"
    file.write_text("document,summary\nd,s\nd\n")
    assert error_of(file).startswith(f"{file}, line 3: 'summary' must be text, found NoneType")


@pytest.mark.parametrize("line", ['d,"s', 'd,"s"x'])
def test_broken_csv_is_named(tmp_path, line):
    file = tmp_path / "data.csv"
    file.write_text(f"document,summary\nd,s\n{line}\n")
    assert error_of(file).startswith(f"{file}, line 3: not valid CSV in UTF-8")


@pytest.mark.parametrize("rows_before", [1, 5_000])
def test_csv_that_is_not_utf8_is_named_with_its_line(tmp_path, rows_before):
    file = tmp_path / "data.csv"
    file.write_bytes(b"document,summary\n" + b"d,s\n" * rows_before + b"d\xff,s\n")
    assert error_of(file).startswith(f"{file}, line {rows_before + 2}: not valid CSV in UTF-8")


def test_an_empty_csv_file_has_no_columns(tmp_path):
    (tmp_path / "data.csv").write_bytes(b"")
    assert "no column 'document' (data.document_column); has none" in error_of(tmp_path / "data.csv")


@pytest.mark.parametrize("name", ["data.txt", "data", "data.json"])
def test_another_suffix_is_refused(tmp_path, name):
    (tmp_path / name).write_text("{}")
    found = Path(name).suffix or "no suffix"
    assert (
        error_of(tmp_path / name)
        == f"{tmp_path / name}: expected one of .jsonl, .csv, .parquet, found {found}"
    )


def test_a_missing_path_is_named(tmp_path):
    message = error_of(tmp_path / "nowhere")
    assert message.startswith(f"data.path: {tmp_path / 'nowhere'} not found")


def test_a_folder_must_hold_exactly_one_file_of_each_split(tmp_path):
    write(tmp_path / "train.jsonl", [GOOD])
    write(tmp_path / "test.jsonl", [GOOD])
    assert "expected exactly one validation file (.jsonl, .csv, .parquet), found none" in error_of(tmp_path)
    write(tmp_path / "validation.csv", [GOOD])
    assert set(read(tmp_path)) == set(SPLITS)
    write(tmp_path / "train.parquet", [GOOD])
    assert (
        "expected exactly one train file (.jsonl, .csv, .parquet), found train.jsonl, train.parquet"
        in error_of(tmp_path)
    )


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    file = tmp_path / "data.parquet"
    for content in (b"", b"PAR1", b"text, not parquet" * 10):
        file.write_bytes(content)
        assert error_of(file).startswith(f"{file}: not a sound parquet file")


def test_a_parquet_file_with_damaged_data_is_named(tmp_path):
    file = write(tmp_path / "data.parquet", [{"document": f"text {i}", "summary": "s"} for i in range(2_000)])
    content = bytearray(file.read_bytes())
    content[50:2_000] = b"\x99" * 1_950  # the data stand first, the schema last
    file.write_bytes(content)
    assert str(file) in error_of(file)


def test_a_parquet_text_that_is_not_utf8_is_named(tmp_path):
    file = tmp_path / "data.parquet"
    offsets, data = pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff")
    broken = pa.StringArray.from_buffers(1, offsets, data)
    pq.write_table(pa.table({"document": broken, "summary": pa.array(["s"])}), file)
    assert str(file) in error_of(file)


HUB_PROGRAM = """
import json, sys
from types import SimpleNamespace
from stages.common.errors import UserError
from stages.common.sources import open_source
try:
    source = open_source(SimpleNamespace(**json.loads(sys.argv[1])))
    print(json.dumps({s: [[r.id, r.document, r.summary] for r in rows] for s, rows in source.splits.items()}))
except UserError as error:
    print(json.dumps(str(error)))
"""


def read_hub(cache: Path, source: str, **changes) -> dict | str:
    """What the hub source gives, or its error; offline, in a process whose cache is empty."""
    data = settings(Path("requirements.txt"), **{"source": source, "revision": "main", **changes})
    result = subprocess.run(
        [sys.executable, "-c", HUB_PROGRAM, json.dumps(vars(data))],
        env={**os.environ, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_hub_dataset_that_cannot_be_reached_is_one_line_without_an_address(tmp_path):
    message = read_hub(tmp_path, "nobody-here/no-such-dataset", revision="0123abc")
    assert isinstance(message, str) and "\n" not in message and "http" not in message
    assert "data.source: 'nobody-here/no-such-dataset' at revision '0123abc'" in message


def test_a_hub_dataset_gives_its_splits_and_names_what_is_wrong(tmp_path):
    # A folder of data files goes through the same loader as a dataset of the hub.
    folder = tmp_path / "set"
    for split in SPLITS:
        write(folder / f"{split}.jsonl", [{"id": f"{split} 1", "text": "d \U0001f600", "summary": ""}])
    cache, source = tmp_path / "cache", str(folder)
    assert read_hub(cache, source, document_column="text") == {
        split: [[f"{split} 1", "d \U0001f600", ""]]
        for split in SPLITS  # prepare drops and counts the empty ones
    }
    assert "(train): no column 'document' (data.document_column); has id, text, summary" in read_hub(
        cache, source
    )
    (folder / "validation.jsonl").unlink()
    assert "has no split validation; has train, test" in read_hub(cache, source)


def test_a_hub_dataset_whose_files_cannot_be_read_is_one_line(tmp_path):
    folder = tmp_path / "set"
    for split in SPLITS:
        write(folder / f"{split}.jsonl", [GOOD])
    (folder / "test.jsonl").write_text('{"document": "d", "summ')
    message = read_hub(tmp_path / "cache", str(folder))
    assert isinstance(message, str) and "\n" not in message
    assert message.startswith(f"data.source: {str(folder)!r}")
