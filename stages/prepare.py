"""Stage `prepare`: read the source, drop bad rows, choose as many rows as params.yaml asks for.

Reads   the source that `data.source` names, and the list of files that pretraining read.
Writes  data/prepared/{train,validation,test}.parquet (id, heading, document, summary, group),
        metrics/data.json.
Run     python -m stages.prepare
"""

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from onesentence.core import params, recorded, stage
from onesentence.core.checkpoints import NO_LOCKS
from onesentence.core.errors import UserError
from onesentence.core.files import atomic_write, write_json
from onesentence.core.language import require_language
from onesentence.core.params import SPLITS
from onesentence.core.parquet import parquet_writer
from onesentence.core.pool import Pool
from onesentence.data.cleaning import ReadRows, clean, read_rows
from onesentence.data.describing import Description, group_sizes, parts
from onesentence.data.near_duplicates import save_index
from onesentence.data.rows import Example, StoredRows
from onesentence.data.selection import most_novel_half, subset
from onesentence.data.sources import open_source, require_pinned

PARAMS = ("data", "evaluate.language")
PREPARED = Path("data/prepared")
METRICS_FILE = Path("metrics/data.json")
SEEN_FILES = Path("models/phi-tiny/pretraining_files.txt")
HELD_OUT = ("validation", "test")
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "heading", "document", "summary", "group")])


@contextmanager
def work_folder() -> Iterator[Path]:
    """An empty folder beside the output for rows that memory need not hold; removed at the end.

    It always has the same name, so that the next run removes what a killed one left. Raises UserError if
    another process uses it.
    """
    folder = PREPARED.with_name(f".{PREPARED.name}.rows.tmp")
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{folder}: another `prepare` is running here; wait until it has ended"
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def check_unseen(split: str, rows: Iterable[Example], seen_files: Path) -> None:
    """Refuse a held-out row that comes from a file that pretraining read."""
    recorded.note(seen_files)
    seen = set(seen_files.read_text(encoding="utf-8").splitlines())
    for row in rows:
        if row.group in seen:
            raise UserError(
                f"{split} row {row.id!r}: its file {row.group} was read in pretraining ({seen_files}); "
                "remake the base model: dvc unfreeze pretrain && dvc repro"
            )


def choose(
    data: params.Data, rows: ReadRows, cleaned: dict[str, NDArray[np.int64]], pool: Pool
) -> tuple[dict[str, NDArray[np.int64]], dict[str, NDArray[np.int64]]]:
    """(the rows that data.selection leaves, the rows that are used and their order), by split."""
    empty = [split for split in SPLITS if not len(cleaned[split])]
    if empty:
        hint = ""
        if data.group_column is not None:
            hint = f"; a group ({data.group_column!r}) in several splits stays only in the last one"
        raise UserError(f"data.source: {data.source}: no row left in {', '.join(empty)} after cleaning{hint}")
    selected, after = dict(cleaned), dict.fromkeys(SPLITS, "after cleaning")
    if data.selection == "novel_half":
        selected["train"] = most_novel_half(cleaned["train"], rows.stored, pool)
        after["train"] = "in the half that data.selection leaves"
    sizes = {split: getattr(data, f"{split}_size") for split in SPLITS}
    return selected, {
        split: subset(selected[split], sizes[split], data.seed, split, after[split]) for split in SPLITS
    }


def write_split(
    rows: StoredRows, pool: Pool, split: str, folder: Path, index: Path | None = None
) -> tuple[Description, list[NDArray[np.int64]], tuple[list[Any], list[Any]]]:
    """Write data/prepared/SPLIT.parquet.

    Returns the description of its rows, the indexed rows that have near-duplicates among them, and without an
    index the hashes of bodies and summaries to make one of.
    """
    description, matches = Description(), []
    hashes: tuple[list[Any], list[Any]] = [], []
    with parquet_writer(folder / f"{split}.parquet", SCHEMA) as writer:
        for chunk, part in parts(rows, pool, f"describe and write {split}", index):
            writer.add(pa.Table.from_pylist([vars(row) for row in chunk], SCHEMA))
            description.add(part)
            matches.append(part.matches)
            hashes[0].extend(part.bodies)
            hashes[1].extend(part.summaries)
    return description, matches, hashes


def write_splits(
    used: dict[str, StoredRows], pool: Pool, folder: Path, index: Path
) -> tuple[dict[str, Description], dict[str, float]]:
    """Write every split; returns descriptions, and the percent of held-out rows that train nearly repeats."""
    descriptions, bodies, summaries = {}, [], []
    for split in HELD_OUT:
        descriptions[split], _, hashes = write_split(used[split], pool, split, folder)
        bodies += hashes[0]
        summaries += hashes[1]
    # The held-out rows are indexed, because there are fewer of them.
    save_index(index, bodies, summaries)
    del bodies, summaries, hashes
    descriptions["train"], matches, _ = write_split(used["train"], pool, "train", folder, index)
    repeated = np.zeros(sum(len(used[split]) for split in HELD_OUT), dtype=bool)
    for rows in matches:
        repeated[rows] = True
    percents, start = {}, 0
    for split in HELD_OUT:
        end = start + len(used[split])
        percents[split] = 100 * int(repeated[start:end].sum()) / len(used[split])
        start = end
    return descriptions, percents


def main() -> None:
    p = params.load(PARAMS)
    data, language = p.data, p.evaluate.language
    source = open_source(data)
    with work_folder() as work, Pool() as pool:
        rows = read_rows(source, pool, language, work / "rows")
        sha256 = source.sha256()  # known only now, when every row has been read
        require_pinned(sha256, data)
        cleaned, counts = clean(rows, data.group_column is not None)
        selected, chosen = choose(data, rows, cleaned, pool)
        used = {split: rows.stored.take(indices) for split, indices in chosen.items()}
        for split in HELD_OUT:  # before a model is trained whose outputs cannot be scored
            require_language((row.summary for row in used[split]), language)
        if data.source == "docstrings":
            for split in HELD_OUT:
                check_unseen(split, used[split], SEEN_FILES)
        with atomic_write(PREPARED) as folder:
            descriptions, near_duplicates = write_splits(used, pool, folder, work / "index")
    described: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        count = counts[split]
        described[split] = {
            "read": count.pop("read"),
            "dropped": dict(sorted(count.items())),
            "kept": len(cleaned[split]),
            "selected": len(selected[split]),
            "used": len(used[split]),
            **group_sizes(rows.groups[chosen[split]]),
            **descriptions[split].values(),
        }
        if split in near_duplicates:
            described[split]["near_duplicate_in_train_percent"] = near_duplicates[split]
    write_json(METRICS_FILE, {"source": data.source, **source.notes, "sha256": sha256, "splits": described})
    for split in SPLITS:
        entry = described[split]
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in entry["dropped"].items()) or "none"
        print(f"prepare: {split}: {entry['read']:,} rows read, dropped: {dropped}; {entry['used']:,} used")
    if data.source not in ("docstrings", "local") and data.sha256 is None:
        print(f"prepare: to refuse changed rows from now on, set in params.yaml: data.sha256: '{sha256}'")


if __name__ == "__main__":
    stage.run(main, __doc__)
