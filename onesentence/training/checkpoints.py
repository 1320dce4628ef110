"""Checkpoints that are used only if they are whole: each lists its files with their hashes.

A kill, a full disk or a broken copy can leave a file that is short, damaged or missing. Loading it would end
in a traceback or, worse, continue from wrong numbers. So every file is hashed before any is loaded.
"""

import json
import re
import shutil
from pathlib import Path

from onesentence.core.files import file_sha256, write_json

MANIFEST = "whole.json"  # in a checkpoint's folder: SHA-256 of each other file; it is written last


def seal(folder: Path) -> None:
    """Mark the checkpoint `folder` as whole. Until then it counts as unfinished, whatever it contains."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    hashes = {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}
    write_json(folder / MANIFEST, hashes)


def fault(folder: Path) -> str | None:
    """Why the checkpoint `folder` cannot be used, in a few words; None if every file is as it was written."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return "it was not finished"
    try:
        hashes = json.loads(manifest.read_bytes())
    except ValueError:  # not JSON, or not UTF-8
        return f"{MANIFEST} is damaged"
    if not isinstance(hashes, dict) or not hashes:
        return f"{MANIFEST} is damaged"
    for name, sha256 in hashes.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if file_sha256(folder / name) != sha256:
            return f"{name} is truncated or damaged"
    return None


def saved_checkpoints(folder: Path) -> list[Path]:
    """The folders checkpoint-STEP in `folder`, whole or not, ordered by step."""
    numbered = [
        (int(match[1]), path)
        for path in folder.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(numbered)]


def last_checkpoint(folder: Path, stage: str) -> Path | None:
    """The newest whole checkpoint in `folder`, or None; newer ones, which are broken, are removed.

    Prints one sentence in the name of `stage`: where the run continues, and what was removed. A new run
    prints nothing.
    """
    removed: list[str] = []
    for path in reversed(saved_checkpoints(folder)):
        reason = fault(path)
        if reason is None:
            why = f": {', '.join(removed)}" if removed else ""
            print(f"{stage}: continuing from {path}{why}")
            return path
        shutil.rmtree(path)
        removed.append(f"{path.name} was removed because {reason}")
    if removed:
        print(f"{stage}: starting from the beginning, no checkpoint is whole: {', '.join(removed)}")
    return None


def keep_last(folder: Path, count: int) -> None:
    """Remove all checkpoints in `folder` except the last `count`."""
    for path in saved_checkpoints(folder)[:-count]:
        shutil.rmtree(path)
