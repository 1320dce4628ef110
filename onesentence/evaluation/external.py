"""Read references, outputs and documents from files made elsewhere, and align them by id or by line."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onesentence.core.errors import UserError
from onesentence.core.files import distinct_keys
from onesentence.core.language import require_language
from onesentence.core.params import Evaluate
from onesentence.evaluation.entailment import judge_of
from onesentence.evaluation.extraction import Article
from onesentence.evaluation.metrics import ROW, Scores, test_hash
from onesentence.evaluation.scoring import score_systems

# The keys under which a JSONL row may hold its text, by the role of the file.
KEYS = {
    "references": ("reference", "summary"),
    "predictions": ("prediction",),
    "documents": ("document",),
    "groups": ("group",),
}
EXPECTED = "one text per line, or .jsonl with one JSON object per line"
MAGIC = {  # the first bytes of files that are not text
    b"PAR1": "a parquet file",
    b"ARROW1": "an Arrow file",
    b"PK\x03\x04": "a zip file (.zip, .xlsx, .docx, .npz)",
    b"\x1f\x8b": "a gzip file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"7z\xbc\xaf": "a 7-zip file",
    b"%PDF-": "a PDF file",
    b"SQLite format 3": "an SQLite file",
    b"\x93NUMPY": "a numpy file",
    b"{\\rtf": "an RTF file",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"\xd0\xcf\x11\xe0": "an Office file",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}
# Refused by name, since the lines of some of them look like prose.
OTHER_SUFFIXES = frozenset(
    ".arrow .bz2 .csv .doc .docx .feather .gz .htm .html .json .npy .npz .ods .parquet .pdf .pickle .pkl "
    ".rtf .sgm .sgml .tsv .xls .xlsx .xml .xz .yaml .yml .zip .zst".split()
)
MARKUP = ("<!doctype", "<html", "<?xml")
TAG = re.compile(r"<([a-z][\w.-]*)(?:\s[^<>]*)?>")
# The start of an object in JSON, or of a dict that Python printed.
OBJECT = re.compile(r"""\[?\s*\{\s*("[^"]*"|'[^']*')\s*:""")
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
COLUMN = re.compile(r"[a-z_][a-z0-9_ ]{0,30}")
COLUMNS = frozenset(
    key for keys in KEYS.values() for key in keys
)  # one of these in a first line marks a header


@dataclass(frozen=True)
class Outputs:
    """The texts of one file, in order.

    path: of the file. ids: None if the file has none. succeeded: whether the text is not blank and the row's
    `status`, if it has one, is "ok".
    """

    path: Path
    ids: list[str] | None
    texts: list[str]
    succeeded: list[bool]


def _text_of(path: Path, role: str) -> str:
    """Return the text of a file. Raises UserError if its bytes are another format or not UTF-8."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: not found; expected a file of {role}, {EXPECTED}") from error
    except OSError as error:
        raise UserError(f"{path}: not a text file: {error}; expected a file of {role}, {EXPECTED}") from error
    name = binary_format(raw)
    if name:
        raise UserError(f"{path}: is {name}; expected a file of {role}, {EXPECTED}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8: {error}; expected {EXPECTED}") from error
    if "\0" in text:
        raise UserError(f"{path}: contains NUL characters, so it is not text; expected {EXPECTED} in UTF-8")
    return text


def binary_format(raw: bytes) -> str | None:
    """Return the name of the format that bytes begin as, of those that are not text; None otherwise."""
    return next((name for start, name in MAGIC.items() if raw.startswith(start)), None)


def _parsed(text: str) -> dict[str, Any] | list[Any] | None:
    """Return the JSON object or array that a text is; None if it is neither."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        value: dict[str, Any] | list[Any] = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value


def _is_list(value: object) -> bool:
    """Return whether parsed JSON is an array with more than numbers in it: "[1]" may be prose, a citation."""
    return isinstance(value, list) and any(isinstance(item, str | dict | list) for item in value)


def _other_format(lines: list[str]) -> str | None:
    """Return the name of a file's format if its content is not one text per line; None if it may be."""
    return structured_format(lines) or table_format(lines)


def structured_format(lines: list[str]) -> str | None:
    """Return the name of a text's format if it is markup, JSON or a pointer of git-lfs; None otherwise.

    A line that merely begins with a brace is text. What parses from end to end counts as JSON, and so does a
    file in which most lines begin as an object: a run that was killed may have cut off its last line.
    """
    filled = [line.strip() for line in lines if line.strip()]
    first = filled[0].lower() if filled else ""
    if first.startswith(MARKUP):
        return "HTML or XML, by its first line"
    opened = TAG.fullmatch(first)
    if opened and len(filled) > 1 and filled[-1].lower().endswith(f"</{opened[1]}>"):
        return "markup (SGML or XML), by its first and last tags"
    if first.startswith("version https://git-lfs.github.com/spec/"):
        return "a pointer of git-lfs; run `git lfs pull`"
    if filled and all(isinstance(_parsed(line), dict) for line in filled):
        return "JSON, one object per line: name it .jsonl" if len(filled) > 1 else "a JSON object"
    if len(filled) > 1 and all(_is_list(_parsed(line)) for line in filled):
        return "JSON, one array per line"
    whole = _parsed("\n".join(lines))
    if isinstance(whole, dict):
        return "a JSON object"
    if _is_list(whole):
        return "a JSON array"
    begun = first in ("{", "[", "[{") or (OBJECT.match(first) and first.endswith((",", "{", "[")))
    if len(filled) > 1 and begun:
        return "JSON over several lines, cut off or invalid"
    objects = sum(OBJECT.match(line) is not None for line in filled)
    if 2 * objects > len(filled) and (objects > 1 or first.endswith("}")):
        return "JSON, one object per line, or dicts of Python; some are cut off or invalid"
    return None


def table_format(lines: list[str]) -> str | None:
    """Return the kind of table that lines are by their first line or by their tabs; None for other text."""
    filled = [line.strip() for line in lines if line.strip()]
    first = filled[0].lower() if filled else ""
    for delimiter, name in DELIMITERS.items():
        columns = [part.strip(" \"'") for part in first.split(delimiter)]
        if len(filled) > 1 and not COLUMNS.isdisjoint(columns) and all(map(COLUMN.fullmatch, columns)):
            kind = name if len(columns) > 1 else "of one column"
            return f"a table ({kind}), by the names of columns in its first line"
    if len(filled) > 1 and len({line.count("\t") for line in filled}) == 1 and "\t" in first:
        return "a table (tabs), by the equal number of tabs in every line"
    return None


def read_outputs(path: Path, role: str) -> Outputs:
    """Read one text per line, or one JSON object per line (.jsonl) with a key of KEYS[role] and maybe `id`.

    Raises UserError if some rows have an `id` and others none, if an id occurs twice, or if the name or the
    content shows another format, which would be scored as prose.
    """
    suffix = path.suffix.lower()
    text = _text_of(path, role)
    # Only \n ends a line: str.splitlines also cuts at characters that occur within texts.
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
    if not lines:
        raise UserError(f"{path}: empty; expected a file of {role}, {EXPECTED}")
    if suffix != ".jsonl":
        other = f"named {suffix}" if suffix in OTHER_SUFFIXES else _other_format(lines)
        if other:
            raise UserError(f"{path}: is {other}; expected a file of {role}, {EXPECTED}")
        return Outputs(path, None, lines, [bool(line.strip()) for line in lines])
    rows = [_row(path, number, line, role) for number, line in enumerate(lines, start=1)]
    ids = [name for name, _, _ in rows if name is not None]
    if ids and len(ids) < len(rows):
        line = next(number for number, row in enumerate(rows, start=1) if row[0] is None)
        raise UserError(
            f"{path}, line {line}: no 'id', although other lines have one; give every line an id, or none"
        )
    if len(set(ids)) != len(ids):
        twice = next(name for name, count in Counter(ids).items() if count > 1)
        raise UserError(f"{path}: id {twice!r} occurs twice; make the ids unique")
    return Outputs(path, ids or None, [row[1] for row in rows], [row[2] for row in rows])


def _row(path: Path, number: int, line: str, role: str) -> tuple[str | None, str, bool]:
    """Return (id or None, text, whether it succeeded) of one line of a .jsonl file."""
    where = f"{path}, line {number}"
    try:
        record = json.loads(line, object_pairs_hook=distinct_keys)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected an object, found {type(record).__name__}")
    key = next((key for key in KEYS[role] if key in record), None)
    if key is None:
        raise UserError(f"{where}: expected {' or '.join(map(repr, KEYS[role]))}, found {', '.join(record)}")
    if not isinstance(record[key], str):
        raise UserError(f"{where}: {key!r} must be text, found {type(record[key]).__name__}")
    name = record.get("id")
    succeeded = record.get("status", "ok") == "ok" and bool(record[key].strip())
    # JSON can spell a lone surrogate, which tokenizers reject. `prepare` replaces it in the same way.
    text = record[key].encode("utf-8", "replace").decode("utf-8")
    return None if name is None else str(name), text, succeeded


def align(references: Outputs, other: Outputs) -> Outputs:
    """Return `other` in the order of the references: by id if both have ids, otherwise by line."""
    if len(other.texts) != len(references.texts):
        raise UserError(
            f"{other.path}: expected {len(references.texts):,} lines, as in {references.path}, found "
            f"{len(other.texts):,}; give every article exactly one"
        )
    if references.ids is None or other.ids is None:
        return other
    place = {name: k for k, name in enumerate(other.ids)}
    missing = [name for name in references.ids if name not in place]
    if missing:
        unknown = sorted(set(other.ids) - set(references.ids))
        raise UserError(
            f"{other.path}: {len(missing)} ids of {references.path} are missing (such as {missing[0]!r}) and "
            f"{len(unknown)} ids are not in it (such as {unknown[0]!r}); give both files the same ids"
        )
    order = [place[name] for name in references.ids]
    return Outputs(
        other.path, references.ids, [other.texts[k] for k in order], [other.succeeded[k] for k in order]
    )


def read_references(path: Path) -> Outputs:
    """Read the references. Raises UserError if one is empty: no output can be scored against it."""
    references = read_outputs(path, "references")
    for number, text in enumerate(references.texts, start=1):
        if not text.strip():
            raise UserError(f"{path}, line {number}: the reference is empty; correct or remove the article")
    return references


def score_files(
    references: Path,
    files: dict[str, Path],
    documents: Path | None,
    groups: Path | None,
    settings: Evaluate,
    bertscore: bool,
    more: tuple[str, ...] = (),
) -> tuple[dict[str, Scores], str]:
    """Return (scores by system, hash of the test set).

    files: outputs by system. bertscore: whether to compute it. more: names of optional metrics. Entailment is
    computed where there are documents and `settings` names a model.
    Raises UserError if a file cannot be read or does not fit the references, before anything is scored.
    """
    targets = read_references(references)
    require_language(targets.texts, settings.language)
    outputs = {name: align(targets, read_outputs(path, "predictions")) for name, path in files.items()}
    articles = None
    if documents:
        articles = [Article(text) for text in align(targets, read_outputs(documents, "documents")).texts]
    judge = judge_of(settings) if documents else None
    ids = targets.ids or [str(line) for line in range(1, len(targets.texts) + 1)]
    scores = score_systems(
        ids,
        targets.texts,
        {name: output.texts for name, output in outputs.items()},
        {name: output.succeeded for name, output in outputs.items()},
        articles,
        settings,
        bertscore=bertscore,
        behaviour={},
        groups=read_groups(groups, targets) if groups else ids,
        unit="group" if groups else ROW,
        more=more,
        judge=judge,
    )
    return scores, test_hash(ids, targets.texts)


def read_groups(path: Path, references: Outputs) -> list[str]:
    """Read each article's cluster, in the order of the references. Raises UserError if one is empty."""
    labels = read_outputs(path, "groups")
    for number, label in enumerate(labels.texts, start=1):
        if not label.strip():
            raise UserError(f"{path}, line {number}: the group is empty; name the cluster of every article")
    return align(references, labels).texts
