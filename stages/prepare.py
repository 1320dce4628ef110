"""Stage `prepare`: read the source, drop bad rows, choose as many rows as params.yaml asks for.

Reads   the source that `data.source` names, and the list of files that pretraining read.
Writes  data/prepared/{train,validation,test}.parquet (id, heading, document, summary, group),
        metrics/data.json.
Run     python -m stages.prepare
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from onesentence.core import params, stage
from onesentence.core.errors import UserError
from onesentence.core.files import atomic_write, write_json, write_parquet
from onesentence.core.language import require_language
from onesentence.core.params import SPLITS
from onesentence.core.text import novel_ngram_share, words
from onesentence.data.cleaning import clean
from onesentence.data.near_duplicates import NearDuplicates
from onesentence.data.sources import Example, open_source, require_pinned

PARAMS = ("data", "evaluate.language")
PREPARED = Path("data/prepared")
METRICS_FILE = Path("metrics/data.json")
SEEN_FILES = Path("models/phi-tiny/pretraining_files.txt")
QUANTILES = (0, 5, 25, 50, 75, 95, 100)
NOVELTY_ROWS = 2_000  # the first rows of a split's random order: enough for a share with an error of 1 point


def subset(rows: list[Example], size: int | None, seed: int, split: str) -> list[Example]:
    """The first `size` rows (None: all) in an order that `seed` fixes. A larger size only adds rows."""
    if size is not None and size > len(rows):
        raise UserError(
            f"data.{split}_size: asks for {size:,} rows, but {split} has {len(rows):,} after cleaning; lower "
            "it, or set it to null for all rows"
        )
    # Each split has its own generator, so that the size of one split does not change the choice in another.
    order = np.random.default_rng([seed, SPLITS.index(split)]).permutation(len(rows))
    return [rows[i] for i in order[:size]]


def most_novel_half(rows: list[Example]) -> list[Example]:
    """The half of `rows` whose summaries have the largest share of new 2-grams, in the order of `rows`.

    An odd number is rounded up. A summary of one word, which has no 2-gram, counts as new.
    """
    shares = [novel_ngram_share(row.document, row.summary, 2) for row in rows]
    novelty = np.array([1.0 if share is None else share for share in shares])
    # A stable sort: of equally new rows, the earlier ones are chosen on every machine.
    chosen = np.sort(np.argsort(-novelty, kind="stable")[: -(-len(rows) // 2)])
    return [rows[i] for i in chosen]


def check_unseen(rows: dict[str, list[Example]], seen_files: Path) -> None:
    """Refuse a held-out row that comes from a file that pretraining read."""
    seen = set(seen_files.read_text(encoding="utf-8").splitlines())
    for split in ("validation", "test"):
        for row in rows[split]:
            if row.group in seen:
                raise UserError(
                    f"{split} row {row.id!r}: its file {row.group} was read in pretraining ({seen_files}); "
                    "remake the base model: dvc unfreeze pretrain && dvc repro"
                )


def group_sizes(rows: list[Example]) -> dict[str, int]:
    """The number of groups, and the number of rows in the largest one."""
    sizes = Counter(row.group for row in rows)
    return {"groups": len(sizes), "largest_group": max(sizes.values())}


def quantiles(lengths: list[int]) -> dict[str, int]:
    """Lengths at the percentiles of QUANTILES; each is a length that occurs."""
    values = np.percentile(lengths, QUANTILES, method="inverted_cdf")
    return {f"p{q}": int(value) for q, value in zip(QUANTILES, values, strict=True)}


def describe(rows: list[Example]) -> dict[str, Any]:
    """Length quantiles in words, and the mean percentage of new n-grams in the summaries."""
    novelty = {}
    for n in (1, 2, 3, 4):
        shares = [novel_ngram_share(row.document, row.summary, n) for row in rows[:NOVELTY_ROWS]]
        known = [share for share in shares if share is not None]
        novelty[str(n)] = 100 * float(np.mean(known)) if known else None
    return {
        "document_words": quantiles([len(words(row.article)) for row in rows]),
        "summary_words": quantiles([len(words(row.summary)) for row in rows]),
        "novel_ngrams_percent": novelty,
    }


def near_duplicate_percent(train: list[Example], held_out: list[Example]) -> float:
    """Percent of held-out rows that have a near-duplicate among the training rows."""
    # The held-out rows are indexed, because there are fewer of them.
    index = NearDuplicates([row.document for row in held_out], [row.summary for row in held_out])
    duplicates: set[int] = set()
    for row in tqdm(train, desc="near-duplicates left", unit="row"):
        duplicates.update(index.matches(row.document, row.summary).tolist())
    return 100 * len(duplicates) / len(held_out)


def main() -> None:
    p = params.load(PARAMS)
    data, language = p.data, p.evaluate.language
    source = open_source(data)
    cleaned, counts = clean(source.splits, language, data.group_column is not None)
    sha256 = source.sha256()  # known only now, when every row has been read
    require_pinned(sha256, data)
    sizes = {split: getattr(data, f"{split}_size") for split in SPLITS}
    empty = [split for split in SPLITS if not cleaned[split]]
    if empty:
        hint = ""
        if data.group_column is not None:
            hint = f"; a group ({data.group_column!r}) in several splits stays only in the last one"
        raise UserError(f"data.source: {data.source}: no row left in {', '.join(empty)} after cleaning{hint}")
    cleaned_counts = {split: len(rows) for split, rows in cleaned.items()}  # before data.selection
    if data.selection == "novel_half":
        cleaned["train"] = most_novel_half(cleaned["train"])
    used = {split: subset(cleaned[split], sizes[split], data.seed, split) for split in SPLITS}
    for split in ("validation", "test"):  # before a model is trained whose outputs cannot be scored
        require_language([row.summary for row in used[split]], language)
    if data.source == "docstrings":
        check_unseen(used, SEEN_FILES)

    described = {}
    for split in SPLITS:
        count = counts[split]
        described[split] = {
            "read": count.pop("read"),
            "dropped": dict(sorted(count.items())),
            "kept": cleaned_counts[split],
            "selected": len(cleaned[split]),
            "used": len(used[split]),
            **group_sizes(used[split]),
            **describe(used[split]),
        }
    for split in ("validation", "test"):
        described[split]["near_duplicate_in_train_percent"] = near_duplicate_percent(
            used["train"], used[split]
        )
    with atomic_write(PREPARED) as folder:
        for split, rows in used.items():
            write_parquet(
                folder / f"{split}.parquet",
                {
                    "id": pa.array([row.id for row in rows], pa.string()),
                    "heading": pa.array([row.heading for row in rows], pa.string()),
                    "document": pa.array([row.document for row in rows], pa.string()),
                    "summary": pa.array([row.summary for row in rows], pa.string()),
                    "group": pa.array([row.group for row in rows], pa.string()),
                },
            )
    write_json(METRICS_FILE, {"source": data.source, **source.notes, "sha256": sha256, "splits": described})
    for split in SPLITS:
        entry = described[split]
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in entry["dropped"].items()) or "none"
        print(f"prepare: {split}: {entry['read']:,} rows read, dropped: {dropped}; {entry['used']:,} used")
    if data.source not in ("docstrings", "local") and data.sha256 is None:
        print(f"prepare: to refuse changed rows from now on, set in params.yaml: data.sha256: '{sha256}'")


if __name__ == "__main__":
    stage.run(main, __doc__)
