"""What a model needs to summarize as it was measured, from params.yaml or from an exported model's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.prompts import CHAT, SLOT, Frame
from onesentence.core.rules import TEXT, TEXT_OR_NULL, TRUTH, Key, choice
from onesentence.model.model_files import read_object

PARAMS = (
    *("prompt", "model", "generate", "smoke.min_success_rate"),
    *("evaluate.language", "data.document_column"),
)
EXPORT = "summarization.json"  # in the folder of an exported model
FORMAT = 1  # of EXPORT
TARGETS = ("merged", "adapter", "ctranslate2", "gguf")
ANY_TEXT = Key(f"a text without {SLOT}", lambda value: isinstance(value, str) and SLOT not in value)
# The rules of EXPORT, beside the sections that params.yaml has too.
EXPORT_RULES = {
    "target": choice(*TARGETS),
    "language": params.SCHEMA["evaluate"]["language"],  # type: ignore[index]  # a section
}
PROMPT_RULES = {"template": TEXT, "before": ANY_TEXT, "after": ANY_TEXT, "blank": ANY_TEXT, "chat": TRUTH}
# The keys of `generate` in EXPORT; the format of the weights is in its section `model`.
DECODING = [field.name for field in fields(params.Generate) if field.name != "quantization"]
QUANTIZED = {
    "quantization": choice(*params.QUANTIZATIONS, "q8_0")
}  # the last is of GGUF, whose target is refused
MODEL_RULES = {"base": TEXT, "revision": TEXT_OR_NULL}


@dataclass(frozen=True)
class Settings:
    """The settings of one model. min_success_rate: of the smoke test.

    frame: the trained prompt of an exported model; None where the tokenizer and prompt.template give it.
    target: what was exported; None for a model of the pipeline. document_column: of tables of articles.
    """

    model: params.Model
    prompt: params.Prompt
    generate: params.Generate
    language: str
    min_success_rate: float
    document_column: str = "document"
    frame: Frame | None = None
    target: str | None = None


def of_pipeline(folder: Path) -> Settings:
    """The settings of the pipeline in a folder, whose params.yaml may be of an older version.

    model.name is relative to the folder, and is returned relative to the working directory.
    """
    path = folder / params.PARAMS_FILE
    if folder == Path():
        p = params.load(PARAMS, path)
        values = {name: vars(getattr(p, name)) for name in ("prompt", "model", "generate")}
        values |= {name: vars(getattr(p, name)) for name in ("smoke", "evaluate", "data")}
    else:
        values = _renamed(params.read_yaml(path))
    wanted: dict[str, dict[str, Key]] = {}
    for name in PARAMS:
        section, _, key = name.partition(".")
        rules = params.SCHEMA[section]
        assert isinstance(rules, dict)
        wanted.setdefault(section, {}).update({key: rules[key]} if key else rules)
    _check(path, values, wanted)
    generate = params.Generate(**_only(params.Generate, values["generate"]))
    model = params.Model(**_only(params.Model, values["model"]))
    model = replace(model, quantization=generate.quantization or model.quantization)
    if (folder / model.name).is_dir():
        name = str(folder / model.name)
        model = replace(model, name=name, watch=name)
    return Settings(
        model,
        params.Prompt(**_only(params.Prompt, values["prompt"])),
        generate,
        values["evaluate"]["language"],
        values["smoke"]["min_success_rate"],
        values["data"]["document_column"],
    )


def of_export(folder: Path) -> Settings:
    """The settings in an exported model's summarization.json; `model` names the folder that holds weights.

    For an adapter that is its base: a folder relative to the working directory or to the export, else a hub
    id.
    """
    path = folder / EXPORT
    values = read_object(path)
    if values.get("format") != FORMAT:
        raise UserError(
            f"{path}: format: expected {FORMAT}, found {params.quoted(values.get('format'))}; export the "
            "model again, or use the version of onesentence that exported it"
        )
    _check(
        path,
        {**values, "": values},
        {
            "": EXPORT_RULES,
            "prompt": PROMPT_RULES | {"max_input_tokens": _rule("prompt", "max_input_tokens")},
            "model": MODEL_RULES | {key: _rule("model", key) for key in ("dtype",)} | QUANTIZED,
            "generate": {name: _rule("generate", name) for name in DECODING},
            "smoke": {"min_success_rate": _rule("smoke", "min_success_rate")},
        },
    )
    prompt, model = values["prompt"], values["model"]
    frame = Frame(prompt["before"], prompt["after"], prompt["blank"], prompt["chat"])
    # The prompt is filled from its own text, so that a later version's template of the same name is not used.
    template = CHAT if frame.chat else frame.before + SLOT + frame.after
    return Settings(
        _exported_model(folder, values["target"], model),
        params.Prompt(template, prompt["max_input_tokens"]),
        params.Generate(**{name: values["generate"][name] for name in DECODING}),
        values["language"],
        values["smoke"]["min_success_rate"],
        frame=frame,
        target=values["target"],
    )


def _exported_model(folder: Path, target: str, model: dict[str, Any]) -> params.Model:
    """The section `model` of what an exported folder loads its weights and tokenizer from."""
    if target != "adapter":
        name = str(folder)
        return params.Model(name, name, None, model["dtype"], model["quantization"])
    return base_model(folder, model["base"], model["revision"], model["dtype"], model["quantization"])


def base_model(folder: Path, base: str, revision: str | None, dtype: str, quantization: str) -> params.Model:
    """The section `model` of the base of the adapter in a folder: a folder itself, else a hub id.

    A relative name is looked up in the working directory, beside the adapter's files, and in the pipeline
    whose models/ holds the adapter.
    """
    for place in (Path(base), folder / base, Path(os.path.relpath(folder.resolve().parent.parent / base))):
        if place.is_dir():
            return params.Model(str(place), str(place), None, dtype, quantization)
    return params.Model(base, params.NO_FILE, revision, dtype, quantization)


def _rule(section: str, key: str) -> Key:
    rules = params.SCHEMA[section]
    assert isinstance(rules, dict)
    return rules[key]


def _only(of: type, values: dict[str, Any]) -> dict[str, Any]:
    """The values of a dataclass's fields."""
    return {field.name: values[field.name] for field in fields(of)}


def _renamed(values: dict[str, Any]) -> dict[str, Any]:
    """params.yaml with the present names of its keys, and with those that were added later."""
    values = {name: params.completed(name, part) for name, part in values.items()}
    for old, new in params.RENAMED.items():
        (section, _, before), (_, _, after) = old.partition("."), new.partition(".")
        part = values.get(section)
        if isinstance(part, dict) and before in part:
            part.setdefault(after, part.pop(before))
    return values


def _check(path: Path, values: dict[str, Any], wanted: dict[str, dict[str, Key]]) -> None:
    """Raise a UserError that lists every missing or wrong value of the wanted sections."""
    found = list(_problems(values, wanted))
    if found:
        raise UserError("\n  ".join([f"{path}: {len(found)} problem(s)", *found]))


def _problems(values: dict[str, Any], wanted: dict[str, dict[str, Key]]) -> Iterator[str]:
    for section, rules in wanted.items():
        part = values.get(section)
        if not isinstance(part, dict):
            yield f"{section}: expected a section with keys, found {params.quoted(part)}"
            continue
        for key, rule in rules.items():
            name = f"{section}.{key}" if section else key
            if key not in part:
                yield f"{name}: missing"
            elif not rule.accepts(part[key]):
                yield f"{name}: expected {rule.expected}, found {params.quoted(part[key])}"
