"""Warnings about lengths, quantiles and the plot of lengths, by hand; the same bytes from any workers."""

import csv
import json
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from onesentence.core.files import write_parquet
from onesentence.core.params import SPLITS
from onesentence.core.pool import Pool
from stages import tokenize

REPO = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("max_new_tokens", "warning"),
    [
        (9, "is under the 95th percentile of the training summaries (10 tokens)"),
        (10, None),
        (20, None),
        (21, "is over twice the mean length of the training summaries (10.0 tokens)"),
    ],
)
def test_a_limit_that_does_not_suit_the_summaries_gives_a_warning(max_new_tokens, warning):
    message = tokenize.length_warning([10] * 100, max_new_tokens)
    if warning is None:
        assert message is None
    else:
        assert message.startswith(f"generate.max_new_tokens: {max_new_tokens} {warning}: ")


def test_quantiles_are_lengths_that_occur():
    assert tokenize.quantiles([1, 100]) == {
        "p0": 1, "p5": 1, "p25": 1, "p50": 1, "p75": 100, "p95": 100, "p100": 100,
    }  # fmt: skip


def test_the_plot_of_lengths_has_its_numbers_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenize, "PLOT", tmp_path / "tokens.svg")
    monkeypatch.setattr(tokenize, "PLOT_DATA", tmp_path / "tokens.csv")
    tokenize.draw([10, 20, 30, 40], [1, 2, 3, 4], limit=25, max_new_tokens=4)
    with (tmp_path / "tokens.csv").open(newline="") as file:
        rows = {int(row["percent_of_rows"]): row for row in csv.DictReader(file)}
    assert sorted(rows) == list(range(101))
    lengths = {p: (int(row["document_tokens"]), int(row["summary_tokens"])) for p, row in rows.items()}
    # Of four rows, one has at most 10 tokens, two have at most 20.
    assert (lengths[0], lengths[25], lengths[26], lengths[100]) == ((10, 1), (10, 1), (20, 2), (40, 4))
    first = (tmp_path / "tokens.svg").read_bytes()
    tokenize.draw([10, 20, 30, 40], [1, 2, 3, 4], limit=25, max_new_tokens=4)
    assert (tmp_path / "tokens.svg").read_bytes() == first


@pytest.fixture
def project(tmp_path, monkeypatch, pairs, tiny) -> Path:
    """A folder with what `tokenize` reads; the working directory."""
    for number, split in enumerate(SPLITS):
        rows = pairs[60 * number : 60 * (number + 1)]
        columns = {name: [row[name] for row in rows] for name in ("id", "document", "summary")}
        columns["heading"] = ["" if k % 3 else f"def f{k}()" for k in range(len(rows))]
        path = tmp_path / f"data/prepared/{split}.parquet"
        write_parquet(path, {name: pa.array(texts, pa.string()) for name, texts in columns.items()})
    values = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))
    values["model"] |= {"name": str(tiny), "watch": str(tiny)}
    values["prompt"]["max_input_tokens"] = 150
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path) -> dict[str, bytes]:
    """What the stage wrote."""
    files = [path for top in ("data/tokenized", "metrics", "plots") for path in (folder / top).rglob("*")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.is_file()}


def modules_of_worker(_: int) -> set[str]:
    return {name for name in ("torch", "transformers", "tokenizers") if sys.modules.get(name)}


def test_neither_workers_nor_chunks_change_a_byte(project, monkeypatch, capsys):
    monkeypatch.setenv("ONESENTENCE_WORKERS", "1")
    tokenize.main()
    expected, printed = written(project), capsys.readouterr().out
    assert len(expected) == 6
    cut = json.loads(expected["metrics/prompt.json"])["splits"]["train"]["documents_cut_percent"]
    assert 0 < cut < 100
    with Pool(2, few=0) as pool:
        monkeypatch.setattr(tokenize, "Pool", lambda few: pool)
        for rows in (256, 7):
            monkeypatch.setattr("onesentence.core.pool.CHUNK_ROWS", rows)
            # The `with` of the stage ends the pool; these workers serve both runs.
            with monkeypatch.context() as kept:
                kept.setattr(Pool, "__exit__", lambda *_: None)
                tokenize.main()
            assert written(project) == expected and capsys.readouterr().out == printed
        # A worker loads the tokenizer and no torch, which takes three times as long and as much memory.
        assert set().union(*pool.map(modules_of_worker, range(6))) == {"transformers", "tokenizers"}
