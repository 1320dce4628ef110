"""Exported folders for tests, in the form that stage `export` writes."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from onesentence.core.prompts import frame_of
from onesentence.inference.settings import of_pipeline
from onesentence.model.adapters import load_tuned
from onesentence.model.loading import load_tokenizer


def description(pipeline: Path, target: str = "merged") -> dict:
    """summarization.json of the tuned model of a pipeline."""
    settings = of_pipeline(pipeline)
    frame = frame_of(load_tokenizer(settings.model), settings.prompt.template)
    return {
        "format": 1,
        "target": target,
        "prompt": {
            "template": settings.prompt.template,
            "before": frame.before,
            "after": frame.after,
            "blank": frame.blank,
            "chat": frame.chat,
            "max_input_tokens": settings.prompt.max_input_tokens,
        },
        "language": "en",
        "model": {
            "dtype": "float32",
            "quantization": "none",
            "base": settings.model.name,
            "revision": None,
        },
        "generate": asdict(settings.generate),
        "smoke": {"min_success_rate": 0.9},
    }


def write_export(folder: Path, pipeline: Path, target: str = "merged", **changes: object) -> Path:
    """An exported folder of a pipeline's tuned model; changes: of its description, by `section__key`."""
    settings = of_pipeline(pipeline)
    if target == "adapter":
        shutil.copytree(pipeline / "models/tuned", folder)
        (folder / "tuning.json").unlink()
    else:
        load_tuned(settings.model, pipeline / "models/tuned").save_pretrained(folder)
        load_tokenizer(settings.model).save_pretrained(folder)
    values = description(pipeline, target)
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            values[section][key] = value
        else:
            values[section] = value
    (folder / "summarization.json").write_text(json.dumps(values))
    return folder
