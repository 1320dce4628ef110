"""Subsets and descriptions by hand; the whole stage on a folder of data."""

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from onesentence.core.errors import UserError
from onesentence.core.files import read_parquet
from onesentence.core.params import SPLITS
from onesentence.data.sources import Example
from stages.prepare import (
    check_unseen,
    describe,
    group_sizes,
    most_novel_half,
    near_duplicate_percent,
    quantiles,
    subset,
)

REPO = Path(__file__).parents[2]


def test_the_most_novel_half_by_hand():
    document = "The bridge over the river was closed."
    summaries = {
        "copy": "The bridge over the river",  # every 2-gram is the document's
        "half": "bridge over a river",  # 1 of 3 is
        "new": "Crossing shut",
        "word": "Shut",  # has no 2-gram: counts as new
        "most": "The bridge is shut",  # 1 of 3 is
    }
    rows = [Example(name, document, summary) for name, summary in summaries.items()]
    assert [row.id for row in most_novel_half(rows)] == ["half", "new", "word"]  # order kept
    assert [row.id for row in most_novel_half(rows[:2])] == ["half"]
    assert most_novel_half([]) == []


def test_a_row_without_a_group_is_its_own_group():
    assert Example("7", "d", "s").group == "7" and Example("7", "d", "s", "Herald").group == "Herald"


def test_group_sizes_by_hand():
    rows = [Example(str(i), "d", "s", group) for i, group in enumerate("AABACB")]
    assert group_sizes(rows) == {"groups": 3, "largest_group": 3}
    assert group_sizes([Example(str(i), "d", "s") for i in range(4)]) == {"groups": 4, "largest_group": 1}


def test_very_long_and_very_short_documents_are_described():
    long = Example("long", "word " * 100_000, "A summary of it")
    short = Example("short", "word", "Another one")
    description = describe([long, short])
    lengths = description["document_words"]
    assert (lengths["p0"], lengths["p100"]) == (1, 100_000)
    assert description["novel_ngrams_percent"]["1"] == 100


def rows_of(count: int) -> list[Example]:
    return [Example(str(i), f"d {i}", f"s {i}") for i in range(count)]


@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize("split", SPLITS)
def test_subsets_nest_and_all_is_a_permutation(seed, split):
    rows = rows_of(200)
    everything = subset(rows, None, seed, split)
    assert sorted(everything, key=rows.index) == rows and everything != rows
    for size in (1, 7, 100, 199, 200):
        assert subset(rows, size, seed, split) == everything[:size]


def test_subsets_differ_by_seed_and_by_split_and_repeat():
    rows = rows_of(100)
    orders = [[row.id for row in subset(rows, None, seed, split)] for seed in (0, 1, 2) for split in SPLITS]
    assert len({tuple(order) for order in orders}) == 9
    assert orders[0] == [row.id for row in subset(rows, None, 0, SPLITS[0])]


def test_every_row_is_as_likely_to_be_chosen():
    rows = rows_of(10)
    counts = {row.id: 0 for row in rows}
    for seed in range(1_000):
        for row in subset(rows, 3, seed, "train"):
            counts[row.id] += 1
    # 300 each; the standard error is (1,000 * 0.3 * 0.7)^0.5 = 14.5.
    assert all(abs(count - 300) < 5 * 14.5 for count in counts.values())


def test_the_error_for_too_large_a_subset_gives_the_number_of_rows():
    with pytest.raises(
        UserError, match=r"data\.test_size: asks for 1,201 rows, but test has 1,200 after cleaning"
    ):
        subset(rows_of(1_200), 1_201, 0, "test")


def test_a_held_out_row_from_a_file_that_pretraining_read_is_refused(tmp_path):
    seen = tmp_path / "files.txt"
    seen.write_text("d/a.py\nd/b.py\n")
    rows = {
        "train": [Example("1", "d", "s", "d/a.py")],
        "validation": [Example("2", "d", "s", "d/c.py")],
        "test": [Example("3", "d", "s", "d/aa.py")],
    }
    check_unseen(rows, seen)
    for split in ("validation", "test"):
        leak = {**rows, split: [*rows[split], Example("leak", "d", "s", "d/b.py")]}
        with pytest.raises(UserError, match=rf"{split} row 'leak': its file d/b\.py was read in pretraining"):
            check_unseen(leak, seen)


def test_quantiles_are_lengths_that_occur():
    # Of 20 lengths, the least length that 5 % (25 %, ...) of them do not exceed.
    assert quantiles([10 * i for i in range(20, 0, -1)]) == {
        "p0": 10,
        "p5": 10,
        "p25": 50,
        "p50": 100,
        "p75": 150,
        "p95": 190,
        "p100": 200,
    }
    assert set(quantiles([7]).values()) == {7}


def test_describe_by_hand():
    rows = [
        # 1-grams: x of {a, b, x}; 2-grams: b-x of {a-b, b-x}; 3-grams: a-b-x alone; no 4-gram.
        Example("1", "a b c d", "A b x."),
        # 1-grams: none of {c, d, e, f}; 2-grams: d-e of three does not occur; 3-grams: both; the 4-gram.
        Example("2", "c d. f! e f", "c d e f"),
    ]
    description = describe(rows)
    assert description["novel_ngrams_percent"] == pytest.approx(
        {
            "1": 100 * (1 / 3 + 0) / 2,
            "2": 100 * (1 / 2 + 1 / 3) / 2,
            "3": 100 * (1 + 1) / 2,
            "4": 100,  # of the one summary that has a 4-gram
        }
    )
    assert description["document_words"] == {
        "p0": 4,
        "p5": 4,
        "p25": 4,
        "p50": 4,
        "p75": 5,
        "p95": 5,
        "p100": 5,
    }
    assert description["summary_words"]["p0"] == 3 and description["summary_words"]["p100"] == 4


def test_describe_counts_novelty_without_the_heading_and_null_without_ngrams():
    row = Example("1", "other text", "name", heading="def name(x)")
    assert describe([row])["document_words"]["p50"] == 5  # of the whole article
    assert describe([row])["novel_ngrams_percent"] == {
        "1": 100,
        "2": None,
        "3": None,
        "4": None,
    }
    assert describe([Example("1", "name", "name")])["novel_ngrams_percent"]["1"] == 0


def test_near_duplicate_percent_counts_held_out_rows_once():
    def numbered(start: int, stop: int) -> str:
        return " ".join(f"w{i}" for i in range(start, stop))

    train = [
        Example("1", numbered(0, 60), "one of a kind"),
        Example("2", numbered(3, 63), "two of a pair"),
        Example("3", numbered(500, 560), "a summary that occurs in both splits"),
    ]
    held_out = [
        Example("a", numbered(5, 65), "body like rows 1 and 2"),
        Example("b", numbered(700, 760), "a summary that occurs in both splits"),
        Example("c", numbered(800, 860), "nothing like it anywhere"),
        Example("d", numbered(40, 100), "too little in common"),
    ]
    assert near_duplicate_percent(train, held_out) == 50
    assert near_duplicate_percent([], held_out) == 0
    assert near_duplicate_percent(held_out, held_out[:1]) == 100


@pytest.fixture
def workspace(tmp_path) -> Path:
    """A folder with a params.yaml for local data and a file for each split."""
    rng = random.Random(0)
    vocabulary = [f"word{i}" for i in range(500)]
    for split, count in (("train", 40), ("validation", 8), ("test", 9)):
        lines = []
        for i in range(count):
            document = f"Start {split} {i}. {' '.join(rng.choices(vocabulary, k=60))} \U0001f600 \x00"
            summary = " ".join(rng.choices(vocabulary, k=8))
            lines.append(
                json.dumps({"id": f"{split} {i}", "document": document, "summary": summary, "x": 1}) + "\n"
            )
        lines.append(lines[0])  # a repeat, which is dropped and counted
        (tmp_path / "articles").mkdir(exist_ok=True)
        (tmp_path / "articles" / f"{split}.jsonl").write_text("".join(lines))
    values = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))
    values["data"].update(
        source="local",
        watch="articles",
        revision=None,
        document_column="document",
        summary_column="summary",
        train_size=25,
        validation_size=None,
        test_size=9,
    )
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def run_prepare(folder: Path, hash_seed: str = "0") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "stages.prepare"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPO), "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )


def outputs(folder: Path) -> dict[str, bytes]:
    """Every file in the output folders, hidden temporary ones included."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for top in ("data", "metrics")
        for file in sorted((folder / top).rglob("*"))
        if file.is_file()
    }


def hash_of(folder: Path, group: str = "id") -> str:
    """The hash of the rows in folder/articles, computed from the text of the files."""
    lines = ""
    for split in SPLITS:
        text = (folder / f"articles/{split}.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
        values = [[row["id"], row["document"], row["summary"], str(row[group])] for row in rows]
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in values)
        lines += f"{split} {hashlib.sha256(content.encode()).hexdigest()}\n"
    return hashlib.sha256(lines.encode()).hexdigest()


def set_data(folder: Path, **changes) -> None:
    path = folder / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values["data"].update(changes)
    path.write_text(yaml.safe_dump(values))


def test_groups_are_stored_described_and_pinned(workspace):
    # Every row has x = 1: one group in three splits, so only test keeps its rows.
    set_data(workspace, group_column="x", train_size=None)
    failed = run_prepare(workspace)
    assert failed.returncode == 1
    assert "no row left in train, validation after cleaning" in failed.stderr.splitlines()[-1]
    for split in SPLITS:
        file = workspace / f"articles/{split}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        # Six groups in train, three in each of the others; group 5 is in train and in test.
        first = {"train": 0, "validation": 6, "test": 5}[split]
        for i, row in enumerate(rows):
            row["x"] = first + i % (6 if split == "train" else 3)
        rows[-1]["x"] = rows[0]["x"]  # the repeat of the first row
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    set_data(workspace, sha256=hash_of(workspace, "x"))
    done = run_prepare(workspace)
    assert done.returncode == 0, done.stderr
    tables = {s: read_parquet(workspace / f"data/prepared/{s}.parquet").to_pylist() for s in SPLITS}
    groups = {split: {row["group"] for row in rows} for split, rows in tables.items()}
    assert groups["test"] == {"5", "6", "7"} and groups["validation"] == {"8"}
    assert groups["train"] == {"0", "1", "2", "3", "4"}
    metrics = json.loads((workspace / "metrics/data.json").read_text())["splits"]
    # 40 rows in train: groups 0 to 3 have 7 each, 4 and 5 have 6.
    assert metrics["train"]["dropped"] == {"duplicate document": 1, "group is in another split": 6}
    assert (metrics["train"]["groups"], metrics["train"]["largest_group"]) == (5, 7)
    assert (metrics["test"]["groups"], metrics["test"]["largest_group"]) == (3, 3)

    # Changed content is refused with both hashes, before anything is written.
    before, pinned = outputs(workspace), hash_of(workspace, "x")
    file = workspace / "articles/train.jsonl"
    file.write_text(file.read_text().replace("Start train 7.", "Start train 7!"))
    changed = run_prepare(workspace)
    assert changed.returncode == 1 and outputs(workspace) == before
    last = changed.stderr.splitlines()[-1]
    assert last.startswith("error: data.sha256: expected rows with the SHA-256 ")
    assert pinned in last and hash_of(workspace, "x") in last and pinned != hash_of(workspace, "x")


def test_the_stage_writes_its_outputs_whole_and_the_same_every_time(workspace):
    first = run_prepare(workspace)
    assert first.returncode == 0, first.stderr
    before = outputs(workspace)
    assert set(before) == {*(f"data/prepared/{split}.parquet" for split in SPLITS), "metrics/data.json"}

    for split, size in (("train", 25), ("validation", 8), ("test", 9)):
        table = read_parquet(workspace / f"data/prepared/{split}.parquet")
        assert table.column_names == ["id", "heading", "document", "summary", "group"]
        assert table.num_rows == size
        source = {
            record["id"]: record
            for line in (workspace / f"articles/{split}.jsonl").read_text().splitlines()
            for record in [json.loads(line)]
        }
        rows = table.to_pylist()
        assert len({row["id"] for row in rows}) == size
        added = [{"heading": "", "group": row["id"]} for row in rows]
        assert [{**source[row["id"]], **more} for row, more in zip(rows, added, strict=True)] == [
            {**row, "x": 1} for row in rows
        ]

    metrics = json.loads(before["metrics/data.json"])
    assert metrics["source"] == "local"
    train = metrics["splits"]["train"]
    assert (train["read"], train["kept"], train["used"]) == (41, 40, 25)
    assert train["dropped"] == {"duplicate document": 1}
    assert (train["groups"], train["largest_group"]) == (25, 1)
    assert metrics["sha256"] == hash_of(workspace)
    assert "prepare: train: 41 rows read, dropped: 1 duplicate document; 25 used" in first.stdout

    second = run_prepare(workspace, hash_seed="1")
    assert second.returncode == 0, second.stderr
    assert outputs(workspace) == before

    # A bad row in the split that is read last leaves all old outputs untouched.
    with (workspace / "articles/train.jsonl").open("a") as file:
        file.write('{"id": "bad", "document": null, "summary": "s"}\n')
    third = run_prepare(workspace)
    assert third.returncode == 1
    errors = [line for line in third.stderr.splitlines() if "error" in line.lower()]
    assert errors == [
        "error: articles/train.jsonl, line 42: 'document' must be text, found NoneType; "
        "correct or remove the row"
    ]
    assert "Traceback" not in third.stderr
    assert outputs(workspace) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_size": 41}, "data.train_size: asks for 41 rows, but train has 40 after cleaning"),
        ({"watch": "elsewhere"}, "data.watch: elsewhere not found"),
    ],
)
def test_a_stage_that_fails_writes_nothing(workspace, change, message):
    path = workspace / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values["data"].update(change)
    path.write_text(yaml.safe_dump(values))
    result = run_prepare(workspace)
    assert result.returncode == 1 and f"error: {message}" in result.stderr.splitlines()[-1]
    assert outputs(workspace) == {}


@pytest.mark.slow
def test_hub_data_is_pinned_by_its_content(workspace, monkeypatch):
    """The loader treats a folder of data files like a dataset of the hub."""
    monkeypatch.setenv("HF_HOME", str(workspace / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    set_data(workspace, source="articles", watch="requirements.txt", revision="main", group_column="x")
    for split, x in zip(SPLITS, "abc", strict=True):
        file = workspace / f"articles/{split}.jsonl"
        file.write_text(file.read_text().replace('"x": 1', f'"x": "{x}"'))
    first = run_prepare(workspace)
    assert first.returncode == 0, first.stderr
    expected = hash_of(workspace, "x")
    last = first.stdout.splitlines()[-1]
    assert (
        last == f"prepare: to refuse changed rows from now on, set in params.yaml: data.sha256: '{expected}'"
    )
    assert json.loads((workspace / "metrics/data.json").read_text())["sha256"] == expected

    set_data(workspace, sha256=expected)
    second = run_prepare(workspace)
    assert second.returncode == 0 and "to refuse changed rows" not in second.stdout, second.stderr
    # The dataset changes under the same name: one word, in a row that is not used.
    before = outputs(workspace)
    file = workspace / "articles/validation.jsonl"
    file.write_text(file.read_text().replace("Start validation 3.", "Start validation 4."))
    third = run_prepare(workspace)
    assert third.returncode == 1 and outputs(workspace) == before
    assert expected in third.stderr and hash_of(workspace, "x") in third.stderr


@pytest.mark.slow
def test_summaries_in_another_language_are_refused_before_training(workspace):
    path = workspace / "articles" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "summary": "猫坐在垫子上"}) + "\n" for row in rows))
    result = run_prepare(workspace)
    assert result.returncode == 1 and outputs(workspace) == {}
    error = result.stderr.splitlines()[-1]
    assert "error: evaluate.language: 'en' does not fit the references" in error and "such as 'zh'" in error
    values = yaml.safe_load((workspace / "params.yaml").read_text())
    values["evaluate"]["language"] = "zh"
    (workspace / "params.yaml").write_text(yaml.safe_dump(values))
    assert run_prepare(workspace).returncode == 0
