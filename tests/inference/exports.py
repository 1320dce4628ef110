"""Exported folders for tests, as stage `export` writes them."""

import contextlib
import json
from pathlib import Path

from onesentence.core import params
from onesentence.export.folder import write_folder

READ = ("prompt", "model", "smoke", "generate", "evaluate", "export")


def write_export(folder: Path, pipeline: Path, target: str = "merged", **changes: object) -> Path:
    """The tuned model of a pipeline, exported to `folder`.

    target: export.target; changes: of summarization.json afterwards, by `section__key`.
    """
    with contextlib.chdir(pipeline):
        p = params.changed(params.load(READ), {"export.target": target})
        write_folder(p, Path("models/tuned"), folder)
    path = folder / "summarization.json"
    values = json.loads(path.read_text())
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            values[section][key] = value
        else:
            values[section] = value
    path.write_text(json.dumps(values))
    return folder


def description(folder: Path, pipeline: Path, target: str = "merged") -> dict:
    """The summarization.json of an exported model."""
    return json.loads((write_export(folder, pipeline, target) / "summarization.json").read_text())
