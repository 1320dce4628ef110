"""Row by row or at once: a parquet file has the same bytes."""

import numpy as np
import pyarrow as pa
import pytest

from onesentence.core.errors import UserError
from onesentence.core.files import write_parquet
from onesentence.core.parquet import ROW_GROUP, parquet_reader, parquet_writer, read_rows


def columns_of(count: int) -> dict[str, pa.Array]:
    generator = np.random.default_rng(count)
    lists = [generator.integers(0, 9_000, generator.integers(0, 60)).astype(np.int32) for _ in range(count)]
    return {
        "id": pa.array([f"row {i} \u00e9" for i in range(count)], pa.string()),
        "text": pa.array(["word " * int(n) for n in generator.integers(0, 100, count)], pa.string()),
        "ids": pa.array(lists, pa.list_(pa.int32())),
        "tokens": pa.array([len(ids) for ids in lists], pa.int32()),
    }


@pytest.mark.parametrize("count", [0, 1, ROW_GROUP - 1, ROW_GROUP, ROW_GROUP + 1, 20_000])
def test_pieces_give_the_bytes_of_the_whole(tmp_path, count):
    columns = columns_of(count)
    write_parquet(tmp_path / "whole.parquet", columns)
    table = pa.table(columns)
    for step in (97, 5_000, 3 * ROW_GROUP):
        with parquet_writer(tmp_path / "pieces.parquet", table.schema) as writer:
            for start in range(0, count, step):
                writer.add(table.slice(start, step))
        assert (tmp_path / "pieces.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    with parquet_reader(tmp_path / "pieces.parquet") as file:
        assert file.metadata.num_rows == count
        rows = list(read_rows(file, ["tokens", "id"]))
    expected = zip(columns["tokens"].to_pylist(), columns["id"].to_pylist(), strict=True)
    assert rows == list(expected)


def test_a_long_file_takes_no_more_memory_than_a_short_one(tmp_path):
    """Arrow fetched every row group ahead, and held its bytes until the end of the file."""
    peaks, sizes = [], []
    for groups in (3, 30):
        table = pa.table({"id": [f"row {i} {i * 7_919 % 1_000_003}" for i in range(groups * ROW_GROUP)]})
        path = tmp_path / f"{groups}.parquet"
        with parquet_writer(path, table.schema) as writer:
            writer.add(table)
        del table
        with parquet_reader(path) as file:
            before = pa.total_allocated_bytes()
            held = [
                pa.total_allocated_bytes() - before
                for number, _ in enumerate(read_rows(file, ["id"]))
                if number % ROW_GROUP == ROW_GROUP // 2
            ]
        peaks.append(max(held))
        sizes.append(path.stat().st_size)
    assert peaks[1] - peaks[0] < (sizes[1] - sizes[0]) / 4


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    table = pa.table(columns_of(10))
    with pytest.raises(ZeroDivisionError), parquet_writer(tmp_path / "a.parquet", table.schema) as writer:
        writer.add(table)
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_named(tmp_path):
    with (
        pytest.raises(UserError, match="not found; run `dvc repro`"),
        parquet_reader(tmp_path / "a.parquet"),
    ):
        pass
