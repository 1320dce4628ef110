"""Opens the source of the pairs: docstrings, a hub dataset or local files.

A source is read as a stream, in chunks that worker processes check. An invalid row is a UserError that names
the file, the line and the key.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onesentence.core import recorded
from onesentence.core.columns import Column
from onesentence.core.errors import UserError
from onesentence.core.files import is_there
from onesentence.core.params import SPLITS, Data
from onesentence.core.pool import Pool, chunked
from onesentence.core.runtime import quiet_libraries
from onesentence.data import docstrings
from onesentence.data.checking import Batch, Chunk, Rules, has_name, read_chunk
from onesentence.data.keys import KeyTable
from onesentence.data.records import EXPECTED, ID, Records, check_columns, format_of, records
from onesentence.data.rows import Example
from onesentence.data.splits import split_docstrings

REQUIREMENTS = Path("requirements.txt")
WHOLE = ""  # the name of a stream that holds the rows of all splits
LOCAL = Path("data/local")  # where `make data` puts the user's own articles


class UniqueIds:
    """Refuses an id that occurs with two texts, over all files. Needs 38 bytes a row."""

    def __init__(self) -> None:
        self._table = KeyTable()
        # Of each distinct id: digest of its texts, number of its line, and its file.
        self._texts, self._numbers, self._files = Column(np.uint64), Column(np.uint32), Column(np.uint8)
        self._places: list[tuple[str, str]] = []  # a file's name and the name of its unit

    def add(self, batch: Batch) -> np.ndarray:
        """The number of each row's id. Raises a UserError for the first that occurs with another text."""
        numbers, new = self._table.add(batch.ids)
        place = batch.chunk.where, batch.chunk.unit
        if place not in self._places:
            self._places.append(place)
        self._texts.extend(batch.texts[new])
        # Docstrings have no lines, and their ids are unique.
        self._numbers.extend(batch.numbers[new] if len(batch.numbers) else np.zeros(new.sum(), np.uint32))
        self._files.extend(np.full(new.sum(), self._places.index(place), dtype=np.uint8))
        # Equal rows are no error: `prepare` drops and counts the second.
        other = np.flatnonzero(self._texts.values[numbers] != batch.texts)
        if len(other):
            row, first = int(other[0]), int(numbers[other[0]])
            where, unit = self._places[self._files.values[first]]
            name = next(each.id for k, each in enumerate(batch.examples()) if k == row)
            raise UserError(
                f"{place[0]}, {place[1]} {batch.numbers[row]}: id {name!r} occurs twice, with a different "
                f"text in {where}, {unit} {self._numbers.values[first]}; make ids unique"
            )
        return numbers


class Source:
    """An opened source. Its rows can be read once.

    streams: chunks of records by split, or all of them as WHOLE, where a hash of each row decides its split;
    notes: entries for metrics/data.json.
    """

    def __init__(
        self, streams: Mapping[str, Iterable[Chunk]], rules: Rules, notes: dict[str, Any] | None = None
    ) -> None:
        self.notes = notes or {}
        self._streams, self._rules = streams, rules
        self._digests = {split: hashlib.sha256() for split in SPLITS}
        self._unread = set(SPLITS)

    def batches(
        self, pool: Pool, language: str | None = None, order: tuple[str, ...] = SPLITS
    ) -> Iterator[tuple[Batch, np.ndarray]]:
        """Yield all rows, checked, with a number for each distinct id.

        language: of the texts; None: do not look for first sentences. order: which split is read first.
        """
        rules = replace(self._rules, language=language)
        ids = UniqueIds()
        for name in [WHOLE] if WHOLE in self._streams else order:
            for batch in pool.map(partial(read_chunk, rules), self._streams[name]):
                numbers = ids.add(batch)
                if batch.error is not None:
                    raise batch.error
                for split, lines in batch.lines.items():
                    self._digests[split].update(lines)
                yield batch, numbers
            self._unread -= {name} if name else {*SPLITS}

    def sha256(self) -> str:
        """SHA-256 (hex) of all rows. Raises ValueError unless every row was read.

        It is the hash of the line "SPLIT HASH\\n" of each split, in the order of SPLITS. A split's hash is
        that of its rows in order, each a JSON array of id, article (heading and document), summary and group
        in UTF-8, followed by \\n.
        """
        if self._unread:
            raise ValueError(f"rows not read to the end: {', '.join(sorted(self._unread))}")
        lines = "".join(f"{split} {digest.hexdigest()}\n" for split, digest in self._digests.items())
        return hashlib.sha256(lines.encode("ascii")).hexdigest()


def require_pinned(sha256: str, data: Data) -> None:
    """Refuse rows whose hash differs from data.sha256, unless that is null."""
    if data.sha256 not in (None, sha256):
        raise UserError(
            f"data.sha256: expected rows with the SHA-256 {data.sha256}, found {sha256}. The data, or a "
            "column that params.yaml names, has changed since the hash was set; restore it, or accept the "
            f"new rows with data.sha256: '{sha256}'"
        )


def open_source(data: Data) -> Source:
    """Open the source that the section `data` of params.yaml names."""
    if data.source == "docstrings":
        return _docstrings(data)
    if data.source == "local":
        return _local(Path(data.watch), data)
    if is_there(data.source):  # the loader would read it, and DVC would not see it change
        raise UserError(
            f"data.source: {data.source!r} is a path on this machine, expected docstrings, local or the id "
            f"of a hub dataset; `make data FROM={data.source}` takes local articles into the repository"
        )
    return _hub(data)


def _docstrings(data: Data) -> Source:
    """The docstrings of installed packages."""
    recorded.note(REQUIREMENTS)
    entries = docstrings.read_docstrings(REQUIREMENTS)
    rows, dropped = split_docstrings(entries)

    def stream(split: str) -> Iterator[Chunk]:
        own = (Example(r.id, r.document, r.summary, r.file, r.heading) for r in rows if r.split == split)
        for examples in chunked(own, lambda row: len(row.document)):
            yield Chunk(split, examples=examples)

    notes = {
        "entries": len(entries),
        "entries_dropped": dict(sorted(dropped.items())),
        "entries_sha256": docstrings.entries_hash(entries),
    }
    return Source({split: stream(split) for split in SPLITS}, _rules(data), notes)


def _require_revision(builder: Any, data: Data) -> None:
    """Refuse rows of another revision: without the hub, datasets takes the newest copy of its cache."""
    if "packaged_modules.cache" not in type(builder).__module__:
        return
    if data.sha256 is None and builder.hash != data.revision:
        raise UserError(
            f"data.source: {data.source!r}: the hub cannot be reached, and the local cache holds the "
            f"revision {builder.hash} instead of {data.revision}; connect to the network, or set "
            "data.revision to that commit"
        )


def _hub(data: Data) -> Source:
    """A dataset of the Hugging Face hub, from the network or from its local cache."""
    import datasets

    quiet_libraries()
    datasets.disable_progress_bars()
    try:
        builder = datasets.load_dataset_builder(data.source, revision=data.revision)
        _require_revision(builder, data)
        builder.download_and_prepare()
        loaded = builder.as_dataset()
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # The libraries' own messages have several lines and contain addresses, so they are not shown.
        dataset = f"data.source: {data.source!r} at revision {data.revision!r}"
        if "scripts are no longer supported" in str(error):
            raise UserError(
                f"{dataset} is a loading script, which is never run; name a revision that has data files, "
                "such as refs/convert/parquet"
            ) from error
        if "Config name is missing" in str(error):
            raise UserError(
                f"{dataset} has several configurations, and no key of params.yaml names one; download the "
                "one that you need, and use it with `make data FROM=PATH`"
            ) from error
        raise UserError(
            f"{dataset} could not be loaded ({type(error).__name__}); a hub dataset needs a network "
            "connection or a copy in the local cache; check the id and the revision, or use data.source: "
            "docstrings or local"
        ) from error
    missing = [split for split in SPLITS if split not in loaded]
    if missing:
        raise UserError(
            f"data.source: {data.source!r} has no split {', '.join(missing)}, only {', '.join(loaded)}"
        )
    needed = _needed(data)
    streams = {}
    for split in SPLITS:
        where, names = f"{data.source} ({split})", loaded[split].column_names
        check_columns(where, names, needed)
        columns = list(dict.fromkeys([*needed.values(), *({ID} & set(names))]))
        rows = enumerate(loaded[split].select_columns(columns), start=1)
        streams[split] = _chunks(rows, needed, split, where, "row")
    # Published datasets can have empty texts. They are no error here: `prepare` drops and counts them.
    return Source(streams, _rules(data, empty=True))


def _local(path: Path, data: Data) -> Source:
    """A folder with a file for each split, or one file that is split by hash."""
    if not is_there(path):
        raise UserError(f"data.watch: {path} not found; set it with `make data FROM=PATH`")
    needed = _needed(data)

    def stream(file: Path, split: str) -> Iterator[Chunk]:
        recorded.note(file)
        unit = "row" if format_of(file) in (".json", ".parquet") else "line"
        return _chunks(records(file, needed), needed, split, str(file), unit)

    if path.is_file():
        if path.absolute().is_relative_to(LOCAL.absolute()):
            refuse_links(path, LOCAL)
        return Source({WHOLE: stream(path, WHOLE)}, _rules(data))
    files = {name: split_file(path, name) for name in SPLITS}
    for file in files.values():
        refuse_links(file, path)
    return Source({name: stream(file, name) for name, file in files.items()}, _rules(data))


def _rules(data: Data, empty: bool = False) -> Rules:
    return Rules(data.document_column, data.summary_column, data.group_column, empty)


def _chunks(rows: Records, needed: dict[str, str], split: str, where: str, unit: str) -> Iterator[Chunk]:
    """Yield the records of one file in chunks, without columns that no row needs."""
    columns = {*needed.values()}

    def letters(numbered: tuple[int, dict[str, Any]]) -> int:
        return sum(len(value) for value in numbered[1].values() if isinstance(value, str))

    own = (
        (number, {column: record[column] for column in columns} | {ID: record.get(ID)})
        for number, record in rows
    )
    named, first = None, ""
    for numbered in chunked(own, letters):
        if named is None:
            number, record = numbered[0]
            named, first = has_name(record), f"{where}, {unit} {number}"
        yield Chunk(split, where, unit, numbered, named, first)


def refuse_links(file: Path, root: Path) -> None:
    """Refuse a file that is a symbolic link to a place outside `root`: its content would be taken for data.

    A link into DVC's cache, which DVC makes where it is set up so (cache.type), leads to the data themselves.
    """
    target = file.resolve()
    cached = target.parts[-4:-2] == ("files", "md5")
    if not target.is_relative_to(root.resolve()) and not cached:
        raise UserError(
            f"{file}: is a symbolic link that leaves {root}, so it may name any file of this machine; put "
            "the file itself there"
        )


def split_file(folder: Path, split: str) -> Path:
    """The only file of a split in a folder of local data. Raises UserError if there is not exactly one."""
    files = split_files(folder, split)
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise UserError(f"{folder}: expected exactly one {split} file ({EXPECTED}), found {names}")
    return files[0]


def split_files(folder: Path, split: str) -> list[Path]:
    """Every file in `folder` that is named after a split, sorted."""
    files = [file for file in folder.iterdir() if format_of(file) is not None and file.is_file()]
    return sorted(file for file in files if _stem(file) == split)


def _stem(file: Path) -> str:
    """The name of a file in lower case, without .gz and the suffix of its format."""
    return file.name.lower().removesuffix(".gz").removesuffix(format_of(file) or "")


def _needed(data: Data) -> dict[str, str]:
    """The columns that every row must have, by the key of params.yaml that names them."""
    keys = ("document_column", "summary_column", "group_column")
    return {key: getattr(data, key) for key in keys if getattr(data, key) is not None}
