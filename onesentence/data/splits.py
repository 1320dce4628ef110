"""Assigns docstring rows to splits by their source file, independent of any seed.

`pretrain` and `prepare` both call `split_docstrings`, so pretraining can never read a row of the test split.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass

from tqdm import tqdm

from onesentence.core.params import SPLITS
from onesentence.data.docstrings import DocumentedObject, pair_of, words
from onesentence.data.near_duplicates import NearDuplicates

# Shares of source files; the rest is train. Near-duplicates of training rows move to train, so the shares of
# rows in validation and test are smaller.
TEST_SHARE = 0.15
VALIDATION_SHARE = 0.15


def side_of_file(file: str) -> str:
    """The split of a source file, by a fixed hash of its name."""
    digest = hashlib.blake2b(file.encode("utf-8"), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < TEST_SHARE:
        return "test"
    return "validation" if place < TEST_SHARE + VALIDATION_SHARE else "train"


@dataclass(frozen=True)
class SplitExample:
    """A pair made from one docstring. file: its source file; split: after near-duplicates were grouped."""

    id: str
    heading: str
    document: str
    summary: str
    file: str
    split: str


def split_docstrings(entries: list[DocumentedObject]) -> tuple[list[SplitExample], Counter[str]]:
    """(rows of all splits in the order of the entries, counts of dropped entries by reason).

    A row with the body and summary of an earlier row is dropped. Near-duplicates, also those linked by a
    chain of near-duplicates, go to one split: train if one of them comes from a training file, else
    validation. Rows never leave train, because pretraining reads the training files.
    """
    dropped: Counter[str] = Counter()
    pairs, seen, ids = [], set(), set()
    for entry in entries:
        pair = pair_of(entry)
        if isinstance(pair, str):
            dropped[pair] += 1
            continue
        content = pair[1:]  # without the heading: the same text under another name is the same pair
        if content in seen:
            dropped["same body and summary as an earlier entry"] += 1
            continue
        name = f"{entry.file.split('/', 1)[0]}:{entry.qualname}"
        if name in ids:
            dropped["name defined again (overload, branch)"] += 1
            continue
        seen.add(content)
        ids.add(name)
        pairs.append((name, *pair, entry.file))

    bodies = [document for _, _, document, _, _ in pairs]
    summaries = [summary for _, _, _, summary, _ in pairs]
    index = NearDuplicates(bodies, summaries, words)
    parent = list(range(len(pairs)))

    def root(i: int) -> int:
        """The row that represents the group of row `i` (union-find with path halving)."""
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    rows = zip(bodies, summaries, strict=True)
    for i, row in enumerate(tqdm(rows, total=len(pairs), desc="near-duplicates", unit="row")):
        for j in index.matches(*row):
            parent[root(i)] = root(int(j))  # join the two groups

    sides = [side_of_file(file) for *_, file in pairs]
    # train is the first of SPLITS, so that the minimum over a group never moves a row out of train.
    rank = {name: order for order, name in enumerate(SPLITS)}
    side_of_root: dict[int, str] = {}
    for i, side in enumerate(sides):
        group = root(i)
        side_of_root[group] = min(side, side_of_root.get(group, side), key=rank.__getitem__)
    return [SplitExample(*pair, split=side_of_root[root(i)]) for i, pair in enumerate(pairs)], dropped
