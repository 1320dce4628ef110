"""A journal: results of finished batches, appended to a file as they come, for a stage that may be killed."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HASH = 16  # hexadecimal digits of SHA-256 at the start of a line


class Journal:
    """Entries (JSON objects) in the order in which they were appended.

    Each line starts with a hash of the line and of all lines before it. Opening a journal reads lines up to
    the first one that is torn, damaged or out of place, and cuts the file there: what follows is computed
    again. Floats come back exactly as they were.
    """

    def __init__(self, path: Path) -> None:
        """path: the file, which may be missing. It is opened for writing at the first entry."""
        self.path = path
        self.entries: list[dict[str, Any]] = []
        self._chain = ""
        whole = 0
        for line in _lines(path):
            entry, chain = _read(line, self._chain)
            if entry is None:
                break
            self.entries.append(entry)
            self._chain = chain
            whole += len(line)
        self.dropped = path.is_file() and path.stat().st_size > whole
        if self.dropped:
            os.truncate(path, whole)

    def append(self, entry: dict[str, Any]) -> None:
        """Add an entry. It is on the disk when this returns, so no kill loses it."""
        text = json.dumps(entry, allow_nan=False)
        self._chain = _hash(self._chain, text)
        with self.path.open("ab") as file:
            file.write(f"{self._chain} {text}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        self.entries.append(entry)


def _hash(chain: str, text: str) -> str:
    return hashlib.sha256(f"{chain} {text}".encode()).hexdigest()[:HASH]


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, the last one perhaps without a line end; nothing if it does not exist."""
    if path.is_file():
        with path.open("rb") as file:
            yield from file


def _read(line: bytes, chain: str) -> tuple[dict[str, Any] | None, str]:
    """(entry, its hash) of a line after the line with the hash `chain`; (None, chain) if it is damaged."""
    try:
        found, _, text = line.decode("ascii").partition(" ")
    except UnicodeDecodeError:
        return None, chain
    if not text.endswith("\n") or found != _hash(chain, text[:-1]):
        return None, chain
    entry = json.loads(text)
    return (entry, found) if isinstance(entry, dict) else (None, chain)
