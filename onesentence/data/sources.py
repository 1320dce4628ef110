"""Opens the source of the pairs: docstrings, a hub dataset or local files.

Every source gives an iterator of `Example` rows for each split. An invalid row is a UserError that names the
file, the line and the key.
"""

import datetime
import decimal
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onesentence.core.errors import UserError
from onesentence.core.params import SPLITS, Data
from onesentence.core.runtime import quiet_libraries
from onesentence.core.text import with_heading
from onesentence.data import docstrings
from onesentence.data.records import EXPECTED, ID, Records, check_columns, format_of, records
from onesentence.data.splits import split_docstrings

REQUIREMENTS = Path("requirements.txt")
LOCAL = Path("data/local")  # where `make data` puts the user's own articles
# Share of a single local file for test, and the same for validation. A hash of each document decides, or of
# each group if rows have groups, so that the same row has the same split in every file.
LOCAL_HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Example:
    """A pair as in the source.

    group: what the row belongs to, such as an author; a row without one is its own group. heading: the line
    above the document's text, such as a function's signature; empty if there is none.
    """

    id: str
    document: str
    summary: str
    group: str = ""
    heading: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", self.group or self.id)  # bypasses `frozen`, once

    @property
    def article(self) -> str:
        """Heading and document, as the model reads them."""
        return with_heading(self.heading, self.document)


@dataclass
class Source:
    """An opened source. splits: rows by split, readable once; notes: entries for metrics/data.json."""

    splits: dict[str, Iterator[Example]]
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._digests = {split: hashlib.sha256() for split in SPLITS}
        self._unread = set(SPLITS)
        self.splits = {split: self._hashed(split, rows) for split, rows in self.splits.items()}

    def _hashed(self, split: str, rows: Iterator[Example]) -> Iterator[Example]:
        """Yield `rows` unchanged, and add each to the hash of its split."""
        for row in rows:
            line = json.dumps([row.id, row.article, row.summary, row.group], ensure_ascii=False)
            self._digests[split].update(line.encode("utf-8") + b"\n")
            yield row
        self._unread.discard(split)

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
        return _docstrings()
    if data.source == "local":
        return _local(Path(data.watch), data)
    return _hub(data)


def _docstrings() -> Source:
    """The docstrings of installed packages."""
    entries = docstrings.read_docstrings(REQUIREMENTS)
    rows, dropped = split_docstrings(entries)
    by_split = {
        split: iter(
            [Example(r.id, r.document, r.summary, r.file, r.heading) for r in rows if r.split == split]
        )
        for split in SPLITS
    }
    notes = {
        "entries": len(entries),
        "entries_dropped": dict(sorted(dropped.items())),
        "entries_sha256": docstrings.entries_hash(entries),
    }
    return Source(by_split, notes)


def _hub(data: Data) -> Source:
    """A dataset of the Hugging Face hub, from the network or from its local cache."""
    import datasets

    quiet_libraries()
    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(data.source, revision=data.revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # The libraries' own messages have several lines and contain addresses, so they are not shown.
        dataset = f"data.source: {data.source!r} at revision {data.revision!r}"
        if "scripts are no longer supported" in str(error):
            raise UserError(
                f"{dataset} is a loading script, which is never run; name a revision that has data files, "
                "such as refs/convert/parquet"
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
    checker, needed = _Checker(data), _needed(data)
    splits = {}
    for split in SPLITS:
        where, names = f"{data.source} ({split})", loaded[split].column_names
        check_columns(where, names, needed)
        columns = list(dict.fromkeys([*needed.values(), *({ID} & set(names))]))
        rows = enumerate(loaded[split].select_columns(columns), start=1)
        # Published datasets can have empty texts. They are no error here: `prepare` drops and counts them.
        splits[split] = checker.rows(where, rows, split, "row", empty=True)
    return Source(splits)


def _local(path: Path, data: Data) -> Source:
    """A folder with a file for each split, or one file that is split by hash."""
    if not path.exists():
        raise UserError(f"data.watch: {path} not found; set it with `make data FROM=PATH`")
    checker, needed = _Checker(data), _needed(data)

    def read(file: Path, split: str) -> Iterator[Example]:
        unit = "row" if format_of(file) == ".json" else "line"
        return checker.rows(str(file), records(file, needed), split, unit)

    if not path.is_file():
        files = {name: split_file(path, name) for name in SPLITS}
        for file in files.values():
            refuse_links(file, path)
        return Source({name: read(file, name) for name, file in files.items()})
    if path.absolute().is_relative_to(LOCAL.absolute()):
        refuse_links(path, LOCAL)
    rows = list(read(path, ""))
    sides = [_side(row.document if data.group_column is None else row.group) for row in rows]
    return Source(
        {name: iter([row for row, side in zip(rows, sides, strict=True) if side == name]) for name in SPLITS}
    )


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


def _side(text: str) -> str:
    """The split of a row of a single file, by a hash of its document or group."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64  # evenly distributed in [0, 1)
    if place < LOCAL_HELD_OUT_SHARE:
        return "test"
    return "validation" if place < 2 * LOCAL_HELD_OUT_SHARE else "train"


def _needed(data: Data) -> dict[str, str]:
    """The columns that every row must have, by the key of params.yaml that names them."""
    keys = ("document_column", "summary_column", "group_column")
    return {key: getattr(data, key) for key in keys if getattr(data, key) is not None}


def text_digest(text: str) -> bytes:
    """16-byte digest of a text; differences in white space do not count."""
    return hashlib.blake2b(" ".join(text.split()).encode("utf-8"), digest_size=16).digest()


def name_of(value: object) -> str | None:
    """An id or a group as text, the same for every file format; None if the value is missing.

    Null, NaN, and text that is blank or reads "NaN" count as missing. Raises TypeError for any other type.
    """
    if isinstance(value, str):
        return None if value.strip().lower() in ("", "nan") else value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | decimal.Decimal):
        if math.isnan(value):
            return None
        # pandas stores whole numbers as floats if one of them is missing, so 7.0 means 7.
        return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, int):
        return str(value)
    if value is None:
        return None
    raise TypeError(type(value).__name__)


class _Checker:
    """Turns records into rows, and checks that ids are unique over all splits."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.seen: dict[str, tuple[bytes, str]] = {}  # by id: digest of the texts, place in the file

    def rows(
        self,
        where: str,
        records: Records,
        split: str,
        unit: str,
        empty: bool = False,
    ) -> Iterator[Example]:
        """Yield one file's records as rows. empty: accept empty texts (`prepare` drops such rows)."""
        named: bool | None = None  # whether the first row has an id; all rows must agree
        first = ""
        for number, record in records:
            place = f"{where}, {unit} {number}"
            document, summary = (
                self._text(place, record, column, empty)
                for column in (self.data.document_column, self.data.summary_column)
            )
            name = self._name(place, record, ID)
            if named is None:
                named, first = name is not None, place
            if named != (name is not None):
                with_id, without = (first, place) if named else (place, first)
                raise UserError(
                    f"{without}: no {ID!r}, but {with_id} has one; give every row its own id, or none"
                )
            group = self._group(place, record)
            # A row without an id is named by its split and number, which is unique over all files.
            row = Example(name or f"{split}{'-' if split else ''}{number}", document, summary, group)
            self._check_id(place, row)
            yield row

    def _text(self, place: str, record: dict[str, Any], column: str, empty: bool) -> str:
        value = record[column]
        if not isinstance(value, str):
            raise UserError(
                f"{place}: {column!r} must be text, found {type(value).__name__}; correct or remove the row"
            )
        if not empty and not value.strip():
            raise UserError(f"{place}: {column!r} is empty; correct or remove the row")
        return _storable(value)

    def _name(self, place: str, record: dict[str, Any], column: str) -> str | None:
        try:
            name = name_of(record.get(column))
        except TypeError as error:
            raise UserError(
                f"{place}: {column!r} must be text, a number or a date, found {error}; correct the row"
            ) from error
        return None if name is None else _storable(name)

    def _group(self, place: str, record: dict[str, Any]) -> str:
        """The row's group, or "" where the data have no groups."""
        column = self.data.group_column
        if column is None:
            return ""
        group = self._name(place, record, column)
        if group is None:
            raise UserError(
                f"{place}: {column!r} (data.group_column) is missing or empty; give every row a group, or "
                "set data.group_column to null"
            )
        return group

    def _check_id(self, place: str, row: Example) -> None:
        digest = text_digest(row.document + "\x00" + row.summary)
        first_digest, first_place = self.seen.setdefault(row.id, (digest, place))
        # Equal rows are no error: `prepare` drops and counts the second.
        if first_digest != digest:
            raise UserError(
                f"{place}: id {row.id!r} occurs twice, with a different text in {first_place}; make ids "
                "unique"
            )


def _storable(text: str) -> str:
    """`text` with lone surrogates replaced: JSON can contain one, UTF-8 cannot store it."""
    return text.encode("utf-8", "replace").decode("utf-8")
