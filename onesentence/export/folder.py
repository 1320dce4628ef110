"""The exported folder: weights, tokenizer, decoding, the trained prompt, and summarization.json.

summarization.json holds what the model needs to summarize as it was measured, for programs of this repository
and for people: the trained prompt as text, its limit, the decoding, the format of the weights.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onesentence.core.errors import UserError
from onesentence.core.files import write_text
from onesentence.core.params import Generate, Params, generating
from onesentence.core.prompts import Frame, frame_of
from onesentence.export.merging import is_adapter, merged_model
from onesentence.export.prompt_template import add_chat_template
from onesentence.generation.decoding import generation_config
from onesentence.model.adapters import TUNING
from onesentence.model.base_check import position_limit
from onesentence.model.loading import load_config, load_tokenizer
from onesentence.model.model_files import read_object

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SETTINGS = "summarization.json"
FORMAT = 1  # of SETTINGS
ADAPTER, CTRANSLATE2, GGUF = "adapter", "ctranslate2", "gguf"
# What transformers writes into tokenizer_config.json and means the machine, not the tokenizer.
OF_THE_MACHINE = ("is_local", "local_files_only")


@dataclass(frozen=True)
class Exported:
    """What summarization.json says. kept: share of the update that the format of the weights kept."""

    target: str
    frame: Frame
    max_input_tokens: int
    generate: Generate
    dtype: str
    quantization: str
    base: str
    revision: str | None
    kept: float


def write_folder(p: Params, tuned: Path, folder: Path) -> None:
    """Write the tuned model for params.yaml's `export.target`, without its card, into a new folder."""
    folder.mkdir()
    tokenizer = load_tokenizer(p.model)
    frame = frame_of(tokenizer, p.prompt.template)
    decoding = p.generate
    if p.export.target.startswith(GGUF):
        from onesentence.export.llama_cpp import greedy  # which reads this module

        decoding = greedy(p.generate)
    stored, kept = write_weights(p, tuned, folder, tokenizer, frame)
    vocabulary = load_config(p.model).vocab_size
    generation_config(tokenizer, decoding, vocabulary).save_pretrained(folder)
    write_tokenizer(tokenizer, frame, folder, longest(p))
    write_settings(p, folder, frame, stored, decoding, kept)
    for file in folder.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)  # safetensors files are for their owner alone


def write_weights(
    p: Params, tuned: Path, folder: Path, tokenizer: PreTrainedTokenizerBase, frame: Frame
) -> tuple[dict[str, str], float]:
    """Write the weights in the form of the target.

    Returns (dtype and quantization, with which to load them; the share of the update that they kept).
    """
    target, _, number = p.export.target.partition("_")
    if target == ADAPTER:
        if not is_adapter(tuned):
            raise UserError(f"export.target: {tuned} holds every weight and no adapter; use merged")
        shutil.copytree(tuned, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(TUNING))
        return {"dtype": p.model.dtype, "quantization": generating(p).quantization}, 1.0
    model, kept = merged_model(p.model, tuned)
    if target == CTRANSLATE2:
        from onesentence.export.converters import write_model

        write_model(model, folder, number, tokenizer)
        return {"dtype": "float32", "quantization": "int8" if number == "int8" else "none"}, kept
    if target == GGUF:
        from onesentence.export.gguf import FILE, write_gguf

        add_chat_template(tokenizer, frame)  # the file holds it
        write_gguf(model, tokenizer, folder / FILE, number, tokenizer.chat_template)
        quantized = number == "q8_0"
        return {
            "dtype": "float32" if quantized else number,
            "quantization": number if quantized else "none",
        }, kept
    model.generation_config = generation_config(tokenizer, p.generate, model.config.vocab_size)
    model.save_pretrained(folder, safe_serialization=True)
    return {"dtype": p.model.dtype, "quantization": "none"}, kept


def longest(p: Params) -> int:
    """The most tokens that the model reads: its positions; without a limit, a prompt and its summary."""
    limit, _ = position_limit(load_config(p.model))
    return limit or p.prompt.max_input_tokens + p.generate.max_new_tokens


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, frame: Frame, folder: Path, limit: int) -> None:
    """Save the tokenizer with the settings that generation needs and the trained prompt's chat template.

    limit: tokens of the longest text.
    """
    add_chat_template(tokenizer, frame)
    tokenizer.model_max_length = limit
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = read_object(path)
    config = {key: value for key, value in config.items() if key not in OF_THE_MACHINE}
    # transformers saves this setting only for a tokenizer that was loaded with it.
    config["split_special_tokens"] = bool(tokenizer.split_special_tokens)
    write_text(path, json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_settings(
    p: Params, folder: Path, frame: Frame, stored: dict[str, str], decoding: Generate, kept: float
) -> None:
    """Write summarization.json. stored: dtype and quantization, with which to load the weights."""
    settings = {
        "format": FORMAT,
        "target": p.export.target.partition("_")[0],
        "prompt": {
            "template": p.prompt.template,
            **asdict(frame),
            "max_input_tokens": p.prompt.max_input_tokens,
        },
        "language": p.evaluate.language,
        "model": {
            **stored,
            "base": p.model.name,
            "revision": p.model.revision,
            "update_kept": round(kept, 6),
        },
        "generate": {key: value for key, value in vars(decoding).items() if key != "quantization"},
        "smoke": {"min_success_rate": p.smoke.min_success_rate},
    }
    write_text(folder / SETTINGS, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def read_settings(folder: Path) -> Exported:
    """The summarization.json of an exported folder; a UserError if it is missing or of another format."""
    path = folder / SETTINGS
    if not path.is_file():
        raise UserError(f"{path}: not found; run `make export`")
    values: dict[str, Any] = read_object(path)
    if values.get("format") != FORMAT:
        raise UserError(
            f"{path}: format: expected {FORMAT}, found {values.get('format')!r}; run `make export` again"
        )
    try:
        prompt, model = values["prompt"], values["model"]
        return Exported(
            values["target"],
            Frame(prompt["before"], prompt["after"], prompt["blank"], prompt["chat"]),
            prompt["max_input_tokens"],
            Generate(**values["generate"]),
            *(model[key] for key in ("dtype", "quantization", "base", "revision", "update_kept")),
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: a key is missing or unknown ({error}); run `make export` again") from error
