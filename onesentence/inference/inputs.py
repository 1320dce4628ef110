"""Read articles from text files, folders, tables and standard input, one at a time and in order.

A file that can be read twice is checked to its end before a model is loaded. An article that cannot be
summarized (empty, a number, a line that is not JSON) keeps its place, with the reason.
"""

from __future__ import annotations

import errno
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from onesentence.core.errors import UserError
from onesentence.core.files import distinct_keys
from onesentence.data.checking import name_of
from onesentence.data.records import FORMATS, ID, LONGEST, MARKS, format_of, records
from onesentence.evaluation.external import (
    DELIMITERS,
    OTHER_SUFFIXES,
    binary_format,
    structured_format,
    table_format,
)

STDIN = "-"
STDIN_NAME = "standard input"
TEXT_SUFFIXES = (".txt", ".md")  # of the files of a folder
KINDS = ("text", "lines", *(name[1:] for name in FORMATS))  # what standard input may hold
EXPECTED = (
    f"a text file, a folder of {' or '.join(TEXT_SUFFIXES)} files, or {', '.join(FORMATS)} with a column"
)
NAME_CHARACTERS_SHOWN = 60  # characters of a text that was meant to be a file's name
SAMPLE_LINES = 16  # of a file of lines, for its format


@dataclass(frozen=True)
class Item:
    """An article. place: its file, and its line or row. name: the id of its row, else its place.

    problem: why the text cannot be summarized; None if it can.
    """

    place: str
    name: str
    text: str
    problem: str | None = None


@dataclass(frozen=True)
class Input:
    """A file or standard input. read: a function that yields its articles.

    twice: whether it can be read twice. column: whether it is a table. single: whether it is one article.
    """

    name: str
    read: Callable[[], Iterator[Item]]
    twice: bool = True
    column: bool = False
    single: bool = False


def open_inputs(names: Iterable[str], kind: str | None, column: str | None, default: str) -> list[Input]:
    """The inputs that the words of a command line name, files of a folder one by one.

    kind: one of KINDS: `lines` is for every text, the others are for standard input; None: a whole text is an
    article. column: of the articles in a table; default: the column where `column` is None.
    """
    inputs: list[Input] = []
    names = list(names)
    for name in names:
        if name == STDIN:
            if any(not known.twice for known in inputs):
                raise UserError(f"{STDIN}: named twice; standard input can be read once")
            inputs.append(_standard_input(kind or "text", column or default))
        else:
            for path in files_of(Path(name)):
                inputs.append(_file(path, kind == "lines", column or default))
    if kind not in (None, "lines") and STDIN not in names:
        raise UserError(
            f"--from {kind}: is for standard input, which is not read; the name of a file says its format"
        )
    if kind == "lines" and all(known.column for known in inputs):
        raise UserError("--lines: no input is a text; each row of a table is an article; remove the option")
    if column is not None and not any(known.column for known in inputs):
        raise UserError(f"--column {column}: no input is a table; remove the option")
    return inputs


def nameable(path: Path) -> bool:
    """Whether a file can have this name. It may be too long, as an article in its place is."""
    try:
        path.exists()
    except OSError:
        return False
    return True


def files_of(path: Path) -> list[Path]:
    """A file alone, or the text files of a folder by name."""
    if not nameable(path) or not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if _is_article(file))
    if not files:
        raise UserError(
            f"{path}: no {' or '.join(TEXT_SUFFIXES)} file in this folder; name its files one by one"
        )
    return files


def _is_article(file: Path) -> bool:
    return file.suffix.lower() in TEXT_SUFFIXES and not file.name.startswith(".") and file.is_file()


def _file(path: Path, lines: bool, column: str) -> Input:
    name = str(path)
    if format_of(path) == ".jsonl" and _is_plain(path):

        def read_rows() -> Iterator[Item]:
            with path.open("rb") as file:
                yield from _json_lines(file, name, column)

        return Input(name, read_rows, column=True)
    if format_of(path) is not None:
        return Input(name, lambda: _rows(path, name, column), _regular(path), column=True)
    if path.suffix.lower() in OTHER_SUFFIXES:
        raise UserError(f"{name}: is named {path.suffix.lower()}; expected {EXPECTED}")

    def opened() -> BinaryIO:
        try:
            return path.open("rb")
        except FileNotFoundError as error:
            raise UserError(f"{name}: not found; expected {EXPECTED}") from error
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise UserError(
                    f"{name[:NAME_CHARACTERS_SHOWN]}...: too long for the name of a file; pass a text by "
                    "standard input: onesentence summarize -"
                ) from error
            raise UserError(f"{name}: cannot be read: {error.strerror}; expected {EXPECTED}") from error

    def read() -> Iterator[Item]:
        with opened() as file:
            if lines:
                yield from _lines(file, name)
                return
            try:
                yield _whole(_bounded(file.read, name), name)
            except UserError as error:  # the file is no text: one of many articles fails, not all
                yield Item(name, name, "", str(error).removeprefix(name).lstrip(":, "))

    return Input(name, read, _regular(path), single=not lines)


def _is_plain(path: Path) -> bool:
    """Whether a file of text is neither compressed nor in UTF-16 or UTF-32; it can be read line by line."""
    if path.suffix.lower() == ".gz" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:  # reading it says why
        return False
    return not any(start.startswith(mark) for mark, _ in MARKS) and b"\0" not in start


def _regular(path: Path) -> bool:
    """Whether a file can be read twice; one that is missing fails at its first reading."""
    return not nameable(path) or path.is_file() or not path.exists()


def _standard_input(kind: str, column: str) -> Input:
    stream = sys.stdin.buffer

    def read() -> Iterator[Item]:
        if kind == "text":
            yield _whole(_bounded(stream.read, STDIN_NAME), STDIN_NAME)
        elif kind == "lines":
            yield from _lines(stream, STDIN_NAME)
        elif kind == "jsonl":
            yield from _json_lines(stream, STDIN_NAME, column)
        else:  # tables are read from files alone
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / f"input.{kind}"
                with copy.open("wb") as file:
                    shutil.copyfileobj(stream, file)
                yield from _rows(copy, STDIN_NAME, column)

    return Input(STDIN_NAME, read, twice=False, column=kind not in ("text", "lines"), single=kind == "text")


def _bounded(read: Callable[[int], bytes], place: str) -> bytes:
    """What `read` gives; a UserError for a text or a line that is too long, before it fills the memory."""
    raw = read(LONGEST + 1)
    if len(raw) > LONGEST:
        raise UserError(f"{place}: longer than {LONGEST:,} bytes; no article has as many: cut or remove it")
    return raw


def _numbered(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, counted from 1."""
    number = 1
    while raw := _bounded(file.readline, f"{name}, line {number}"):
        yield number, raw
        number += 1


def _whole(raw: bytes, name: str) -> Item:
    """A whole text as one article, without the white space around it."""
    text = _decoded(raw, name)
    lines = text.split("\n")
    _refuse_other_format(lines, name, any(mark in lines[0] for mark in DELIMITERS))
    text = text.strip()
    return Item(name, name, text, None if text else "the article is empty")


class _NoTextError(UserError):
    """Bytes that are no text in UTF-8, and of no other known format: of one line perhaps."""


def _decoded(raw: bytes, name: str, line: int | None = None) -> str:
    """The text of bytes in UTF-8, its lines ended by \\n alone."""
    where = name if line is None else f"{name}, line {line}"
    other = binary_format(raw) if line in (None, 1) else None
    if other:
        raise UserError(f"{name}: is {other}; expected text in UTF-8")
    try:
        text = raw.decode("utf-8-sig" if line in (None, 1) else "utf-8")
    except UnicodeDecodeError as error:
        line = line or raw.count(b"\n", 0, error.start) + 1
        raise _NoTextError(
            f"{name}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error
    if "\0" in text:
        raise _NoTextError(f"{where}: contains NUL characters, so it is not text; expected text in UTF-8")
    return text.replace("\r\n", "\n")


def _refuse_other_format(lines: list[str], name: str, table: bool) -> None:
    """Refuse a text that is markup, JSON, or (if `table`) a table."""
    other = structured_format(lines) or (table_format(lines) if table else None)
    if other and name == STDIN_NAME:
        if "dicts of Python" in other:
            advice = "pass whole JSON Lines, with --from jsonl"
        elif "HTML" in other or "markup" in other:
            advice = "pass its text"
        else:
            form = "jsonl" if "one object per line" in other else "json" if "JSON" in other else "csv or tsv"
            advice = f"name its format with --from {form}"
        raise UserError(f"{name}: is {other.removesuffix(': name it .jsonl')}; {advice}")
    if other:
        raise UserError(f"{name}: is {other}; expected {EXPECTED}")


def _lines(file: BinaryIO, name: str) -> Iterator[Item]:
    """One article a line; a line that is no text is an Item too."""
    sample: list[str] = []
    held: list[Item] = []  # until the format of the first lines is known
    for number, raw in _numbered(file, name):
        place = f"{name}, line {number}"
        try:
            text, problem = _decoded(raw, name, number).strip(), "the line is empty"
        except _NoTextError as error:
            text, problem = "", str(error).removeprefix(f"{place}: ")
        held.append(Item(place, place, text, None if text else problem))
        if number <= SAMPLE_LINES:
            sample.append(text)
        if number == SAMPLE_LINES:
            _refuse_other_format(sample, name, table=True)
        if number >= SAMPLE_LINES:
            yield from held
            held.clear()
    if held:
        _refuse_other_format(sample, name, table=True)
        yield from held


def _json_lines(file: BinaryIO, name: str, column: str) -> Iterator[Item]:
    """The rows of JSON Lines, one by one; a line that is not a row is an Item too."""
    for number, raw in _numbered(file, name):
        if number == 1 and any(raw.startswith(mark) for mark, _ in MARKS):
            raise UserError(f"{name}: is text in UTF-16 or UTF-32; expected JSON Lines in UTF-8")
        place = f"{name}, line {number}"
        try:
            text = _decoded(raw, name, number)
        except _NoTextError as error:
            yield Item(place, place, "", str(error).removeprefix(f"{place}: "))
            continue
        if not text.strip():
            continue
        try:
            record = json.loads(text, object_pairs_hook=distinct_keys)
        except (ValueError, RecursionError) as error:  # not JSON, or nested too deeply
            yield Item(place, place, "", f"not valid JSON: {error}")
            continue
        if not isinstance(record, dict):
            yield Item(place, place, "", f"expected an object, found {type(record).__name__}")
        elif column not in record:
            has = ", ".join(record) or "none"
            problem = f"no column {column!r}; has {has}; name the right one with --column"
            yield Item(place, place, "", problem)
        else:
            yield _row(place, record, column)


def _rows(path: Path, name: str, column: str) -> Iterator[Item]:
    """The rows of a table in a file; `name` is what errors call it."""
    unit = "row" if format_of(path) in (".json", ".parquet") else "line"
    try:
        if not path.is_file() and not path.exists():
            raise UserError(f"{name}: not found; expected {EXPECTED}")
        for number, record in records(path, {"column": column}):
            yield _row(f"{name}, {unit} {number}", record, column)
    except UserError as error:
        text = str(error).replace(str(path), name).replace(" (data.column)", "")
        text = text.replace("name the right one in data.column", "name the right one with --column")
        raise UserError(text) from error


def _row(place: str, record: dict[str, Any], column: str) -> Item:
    try:
        name = name_of(record.get(ID)) or place
    except TypeError:  # a list or an object
        name = place
    value = record[column]
    if not isinstance(value, str):
        return Item(place, name, "", f"{column!r} must be text, found {_kind(value)}")
    return Item(place, name, value, None if value.strip() else f"{column!r} is empty")


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def check(inputs: list[Input], keep_going: bool) -> int | None:
    """The number of articles; None if only reading an input would show it, which is then not checked.

    Raises a UserError for the first article that cannot be summarized, unless `keep_going`.
    """
    total = 0
    with tqdm(desc="read", unit="article", disable=None, leave=False, delay=1) as bar:
        for known in inputs:
            if not known.twice:
                total += known.single
                continue
            before = total
            for _ in require_articles(known.read(), keep_going):
                total += 1
                bar.update()
            if total == before:
                raise UserError(f"{known.name}: no article in it; expected at least one")
    return total if all(known.twice or known.single for known in inputs) else None


def require_articles(items: Iterable[Item], keep_going: bool) -> Iterator[Item]:
    """Yield articles. Raises a UserError at one that cannot be summarized, unless `keep_going`."""
    for item in items:
        if item.problem and not keep_going:
            raise UserError(
                f"{item.place}: {item.problem}; correct or remove it, or count it as failed with --keep-going"
            )
        yield item


def read_all(inputs: list[Input], keep_going: bool) -> Iterator[Item]:
    """Yield every article of every input, in order."""
    for known in inputs:
        yield from require_articles(known.read(), keep_going)
