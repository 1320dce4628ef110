"""The whole stage on a folder of data: its outputs, its errors, its workers and its memory."""

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml

from onesentence.core.errors import UserError
from onesentence.core.files import read_parquet
from onesentence.core.params import SPLITS
from onesentence.core.pool import Pool
from onesentence.data.rows import Example
from stages import prepare
from stages.prepare import check_unseen

REPO = Path(__file__).parents[2]


def test_a_held_out_row_from_a_file_that_pretraining_read_is_refused(tmp_path):
    seen = tmp_path / "files.txt"
    seen.write_text("d/a.py\nd/b.py\n")
    rows = {
        "validation": [Example("2", "d", "s", "d/c.py")],
        "test": [Example("3", "d", "s", "d/aa.py")],
    }
    for split in ("validation", "test"):
        check_unseen(split, rows[split], seen)
        leak = [*rows[split], Example("leak", "d", "s", "d/b.py")]
        with pytest.raises(UserError, match=rf"{split} row 'leak': its file d/b\.py was read in pretraining"):
            check_unseen(split, leak, seen)


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


# The loader of hub datasets reads a folder of data files as one; `prepare` itself refuses the folder.
HUB_PROGRAM = """
from onesentence.data import sources
from stages import prepare
prepare.open_source = sources._hub
prepare.main()
"""


def run_prepare(folder: Path, hash_seed: str = "0", hub: bool = False) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", HUB_PROGRAM] if hub else [sys.executable, "-m", "stages.prepare"],
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
    monkeypatch.setenv("HF_HOME", str(workspace / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    set_data(workspace, source="articles", watch="requirements.txt", revision="main", group_column="x")
    for split, x in zip(SPLITS, "abc", strict=True):
        file = workspace / f"articles/{split}.jsonl"
        file.write_text(file.read_text().replace('"x": 1', f'"x": "{x}"'))
    first = run_prepare(workspace, hub=True)
    assert first.returncode == 0, first.stderr
    expected = hash_of(workspace, "x")
    last = first.stdout.splitlines()[-1]
    assert (
        last == f"prepare: to refuse changed rows from now on, set in params.yaml: data.sha256: '{expected}'"
    )
    assert json.loads((workspace / "metrics/data.json").read_text())["sha256"] == expected

    set_data(workspace, sha256=expected)
    second = run_prepare(workspace, hub=True)
    assert second.returncode == 0 and "to refuse changed rows" not in second.stdout, second.stderr
    # The dataset changes under the same name: one word, in a row that is not used.
    before = outputs(workspace)
    file = workspace / "articles/validation.jsonl"
    file.write_text(file.read_text().replace("Start validation 3.", "Start validation 4."))
    third = run_prepare(workspace, hub=True)
    assert third.returncode and outputs(workspace) == before
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


@pytest.mark.parametrize(("workers", "rows"), [(1, 7), (2, 256), (3, 5)])
def test_neither_workers_nor_chunks_change_a_byte(workspace, pairs, monkeypatch, workers, rows):
    """Real pairs, with repeats of each kind, in worker processes and in this one."""
    lines = {split: [] for split in SPLITS}
    for number, pair in enumerate(pairs[:400]):
        record = {**pair, "x": number % 150}
        lines[SPLITS[number % 3]].append(record)
        if number % 11 == 0:  # a near-duplicate, in another split
            near = {**record, "id": f"near {number}", "document": pair["document"] + " And so on."}
            lines[SPLITS[(number + 1) % 3]].append(near)
        if number % 13 == 0:
            lines[SPLITS[(number + 2) % 3]].append({**record, "id": f"again {number}"})
    for split, records in lines.items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        (workspace / f"articles/{split}.jsonl").write_text(text)
    set_data(workspace, train_size=None, test_size=None, selection="novel_half")
    first = run_prepare(workspace)  # one process: the rows are few
    assert first.returncode == 0, first.stderr
    expected = outputs(workspace)
    metrics = json.loads(expected["metrics/data.json"])["splits"]
    assert metrics["test"]["near_duplicate_in_train_percent"] > 2
    assert metrics["train"]["dropped"]["document is in another split"] > 5

    monkeypatch.chdir(workspace)
    monkeypatch.setenv("ONESENTENCE_WORKERS", str(workers))
    monkeypatch.setattr("onesentence.core.pool.CHUNK_ROWS", rows)
    monkeypatch.setattr("stages.prepare.Pool", partial(Pool, few=0))
    prepare.main()
    assert outputs(workspace) == expected
    # An error in a worker is the one that one process gives.
    with (workspace / "articles/validation.jsonl").open("a") as file:
        file.write('{"id": "bad", "document": "d", "summary": " "}\n{"id": "worse"')
    with pytest.raises(UserError, match=r"validation.jsonl, line \d+: 'summary' is empty"):
        prepare.main()
    assert outputs(workspace) == expected


def test_rows_that_a_killed_run_left_are_removed(workspace):
    left = workspace / "data/.prepared.rows.tmp"
    (left / "index").mkdir(parents=True)
    (left / "rows").write_text("half")
    assert run_prepare(workspace).returncode == 0
    assert [path.name for path in (workspace / "data").iterdir()] == ["prepared"]


def test_a_second_run_in_the_same_folder_is_refused(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    with prepare.work_folder() as folder:
        (folder / "rows").write_text("of the first run")
        refused = run_prepare(workspace)
        assert refused.returncode == 1 and (folder / "rows").exists()
        last = refused.stderr.splitlines()[-1]
        assert last.startswith("error: data/.prepared.rows.tmp: another `prepare` is running here")
    assert list((workspace / "data").iterdir()) == []


def test_a_file_system_without_locks_is_no_second_run(workspace, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.chdir(workspace)
    monkeypatch.setattr(prepare.fcntl, "flock", unknown)
    with prepare.work_folder() as folder:
        assert folder.is_dir()


def test_prepare_and_its_workers_import_no_model_library():
    program = "import sys; from stages import prepare; print({'torch', 'transformers'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
