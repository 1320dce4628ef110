"""Files of references, predictions and documents that others made, aligned by id or by line."""

import json
from dataclasses import dataclass
from pathlib import Path

from stages.common.errors import UserError

# Keys that a JSONL row may hold its text under, by what the file is for.
KEYS = {
    "references": ("reference", "summary"),
    "predictions": ("prediction",),
    "documents": ("document",),
    "groups": ("group",),
}


@dataclass(frozen=True)
class Texts:
    """path: of the file; ids: None where it names none; texts; succeeded: by the rows' own `status`, else
    whether there is any text."""

    path: Path
    ids: list[str] | None
    texts: list[str]
    succeeded: list[bool]


def read_texts(path: Path, role: str) -> Texts:
    """One text a line, or one JSON object a line (.jsonl) with `id` (or none has) and a key of KEYS[role]."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: not found; expected a file of {role}, a text a line or JSONL") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a text file in UTF-8: {error}") from error
    # Only \n ends a line: str.splitlines also cuts at characters that texts have inside.
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
    if not lines:
        raise UserError(f"{path}: empty; expected a file of {role}, a text a line or JSONL")
    if path.suffix != ".jsonl":
        return Texts(path, None, lines, [bool(line.strip()) for line in lines])
    rows = [_row(path, number, line, role) for number, line in enumerate(lines, start=1)]
    ids = [row[0] for row in rows]
    if any(name is None for name in ids):
        if not all(name is None for name in ids):
            line = next(number for number, name in enumerate(ids, start=1) if name is None)
            raise UserError(f"{path}, line {line}: no 'id', where other lines have one; give all or none")
        ids = None
    elif len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise UserError(f"{path}: id {twice!r} stands twice; ids must be unique")
    return Texts(path, ids, [row[1] for row in rows], [row[2] for row in rows])


def _row(path: Path, number: int, line: str, role: str) -> tuple[str | None, str, bool]:
    where = f"{path}, line {number}"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected an object, found {type(record).__name__}")
    key = next((key for key in KEYS[role] if key in record), None)
    if key is None:
        raise UserError(f"{where}: expected {' or '.join(map(repr, KEYS[role]))}, has {', '.join(record)}")
    if not isinstance(record[key], str):
        raise UserError(f"{where}: {key!r} must be text, found {type(record[key]).__name__}")
    name = record.get("id")
    succeeded = record.get("status", "ok") == "ok" and bool(record[key].strip())
    # A lone surrogate (JSON can spell one) is no text to a tokenizer; `prepare` replaces it in the same way.
    text = record[key].encode("utf-8", "replace").decode("utf-8")
    return None if name is None else str(name), text, succeeded


def aligned(references: Texts, other: Texts) -> Texts:
    """`other` in the order of the references: by id where both have ids, else by line."""
    if len(other.texts) != len(references.texts):
        raise UserError(
            f"{other.path}: {len(other.texts):,} lines, {references.path} has {len(references.texts):,}; "
            "every article needs exactly one"
        )
    if references.ids is None or other.ids is None:
        return other
    place = {name: k for k, name in enumerate(other.ids)}
    missing = [name for name in references.ids if name not in place]
    if missing:
        unknown = sorted(set(other.ids) - set(references.ids))
        raise UserError(
            f"{other.path}: {len(missing)} ids of {references.path} are missing (such as {missing[0]!r}) and "
            f"{len(unknown)} are unknown there (such as {unknown[0]!r})"
        )
    order = [place[name] for name in references.ids]
    return Texts(
        other.path, references.ids, [other.texts[k] for k in order], [other.succeeded[k] for k in order]
    )


def read_references(path: Path) -> Texts:
    """References; an empty one is an error, since nothing could be scored against it."""
    found = read_texts(path, "references")
    for number, text in enumerate(found.texts, start=1):
        if not text.strip():
            raise UserError(f"{path}, line {number}: an empty reference; correct or remove the article")
    return found
