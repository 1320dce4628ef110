"""The only reader of params.yaml: strict, reports every error at once, has no defaults in code.

A stage names the sections and keys that it reads (`PARAMS`, the same list as in dvc.yaml). It gets an object
that holds only those: reading anything else is an AttributeError, so dvc.yaml cannot miss a key.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import yaml

from onesentence.core import recorded
from onesentence.core.errors import UserError
from onesentence.core.files import is_there
from onesentence.core.rules import (
    LANGUAGE,
    MODEL_SHA256,
    NAMES,
    SEED,
    SHA256,
    SHA256_OR_NULL,
    TEMPLATE,
    TEXT,
    TEXT_OR_NULL,
    TRUTH,
    Key,
    choice,
    number,
    whole,
)

PARAMS_FILE = Path("params.yaml")
UNLIKELY = 5  # nats for a token of an output that a weak model writes
EXPORT_TARGETS = (
    *("merged", "adapter", "ctranslate2_float32", "ctranslate2_int8"),
    *("gguf_float32", "gguf_bfloat16", "gguf_float16", "gguf_q8_0"),
)
SPLITS = ("train", "validation", "test")
# As transformers names them, and `none`.
TRACKERS = tuple(
    "none azure_ml clearml codecarbon comet_ml dagshub dvclive flyte kubeflow mlflow neptune swanlab "
    "tensorboard trackio wandb".split()
)
QUANTIZATIONS = ("none", "int8", "nf4")
NO_FILE = "requirements.txt"  # data.watch and model.watch where no local file is watched: DVC needs a path


@dataclass(frozen=True)
class Pretrain:
    """How the embedded base model is trained from scratch."""

    seed: Annotated[int, SEED]
    vocabulary: Annotated[int, whole(512)]
    hidden_size: Annotated[int, whole(16)]
    layers: Annotated[int, whole(1)]
    heads: Annotated[int, whole(1)]
    context: Annotated[int, whole(16)]
    tokens: Annotated[int, whole(1)]
    batch_size: Annotated[int, whole(1)]
    micro_batch_size: Annotated[int, whole(1)]
    muon_learning_rate: Annotated[float, number(0, 1, low_open=True)]
    adamw_learning_rate: Annotated[float, number(0, 1, low_open=True)]
    warmup_ratio: Annotated[float, number(0, 1)]
    decay_share: Annotated[float, number(0, 1)]
    summary_last_share: Annotated[float, number(0, 1)]
    checkpoint_every: Annotated[int, whole(1)]


@dataclass(frozen=True)
class Data:
    """Where the pairs come from, and how many of them are used."""

    source: Annotated[str, TEXT]
    watch: Annotated[str, TEXT]
    revision: Annotated[str | None, TEXT_OR_NULL]
    document_column: Annotated[str, TEXT]
    summary_column: Annotated[str, TEXT]
    group_column: Annotated[str | None, TEXT_OR_NULL]
    sha256: Annotated[str | None, SHA256_OR_NULL]
    seed: Annotated[int, SEED]
    selection: Annotated[str, choice("all", "novel_half")]
    train_size: Annotated[int | None, whole(1, nullable=True, or_null="all")]
    validation_size: Annotated[int | None, whole(1, nullable=True, or_null="all")]
    test_size: Annotated[int | None, whole(1, nullable=True, or_null="all")]


@dataclass(frozen=True)
class Prompt:
    """What the model reads."""

    template: Annotated[str, TEMPLATE]
    max_input_tokens: Annotated[int, whole(16)]


@dataclass(frozen=True)
class Model:
    """The base model, and how its weights are stored."""

    name: Annotated[str, TEXT]
    watch: Annotated[str, TEXT]
    revision: Annotated[str | None, TEXT_OR_NULL]
    dtype: Annotated[str, choice("float32", "bfloat16", "float16")]
    quantization: Annotated[str, choice(*QUANTIZATIONS)]


@dataclass(frozen=True)
class Lora:
    """The adapter."""

    rank: Annotated[int, whole(1)]
    alpha: Annotated[int | None, whole(1, nullable=True, or_null="2 x rank")]
    dropout: Annotated[float, number(0, 1, high_open=True)]
    target_modules: Annotated[list[str], NAMES]


@dataclass(frozen=True)
class Train:
    """How the adapter, or every weight, is trained."""

    method: Annotated[str, choice("lora", "rslora", "dora", "full")]
    epochs: Annotated[int | None, whole(1, nullable=True, or_null="train.steps decides")]
    steps: Annotated[int | None, whole(1, nullable=True, or_null="train.epochs decides")]
    order: Annotated[str, choice("random", "extractive_first")]
    batch_size: Annotated[int, whole(1)]
    gradient_accumulation: Annotated[int, whole(1)]
    learning_rate: Annotated[float, number(0, 1, low_open=True)]
    warmup_ratio: Annotated[float, number(0, 1)]
    autocast: Annotated[str, choice("none", "bfloat16")]
    log_every: Annotated[int, whole(1)]
    checkpoint_every: Annotated[int, whole(1)]
    eval_examples: Annotated[int, whole(1)]
    report_to: Annotated[str, choice(*TRACKERS)]


@dataclass(frozen=True)
class Smoke:
    """The smoke test."""

    examples: Annotated[int, whole(2)]
    min_success_rate: Annotated[float, number(0, 1)]


@dataclass(frozen=True)
class Generate:
    """How summaries are written."""

    max_new_tokens: Annotated[int, whole(1)]
    num_beams: Annotated[int, whole(1)]
    length_penalty: Annotated[float, number(-10, 10)]
    no_repeat_ngram_size: Annotated[int, whole(0)]
    max_batch_tokens: Annotated[int, whole(1)]
    quantization: Annotated[str | None, choice(*QUANTIZATIONS, or_null="model.quantization")] = None


@dataclass(frozen=True)
class Evaluate:
    """What is scored, and how it is compared."""

    split: Annotated[str, choice("validation", "test")]
    language: Annotated[str, LANGUAGE]
    resamples: Annotated[int, whole(100)]
    confidence: Annotated[float, number(0.5, 1, high_open=True)]
    meteor_synonyms: Annotated[bool, TRUTH]
    bertscore_model: Annotated[str, TEXT]
    bertscore_layer: Annotated[int, whole(1)]
    bertscore_sha256: Annotated[str, SHA256]
    nli_model: Annotated[str | None, TEXT_OR_NULL]
    nli_revision: Annotated[str | None, TEXT_OR_NULL]
    nli_sha256: Annotated[str | None, MODEL_SHA256]


@dataclass(frozen=True)
class Report:
    """What is shown beside the results."""

    published: Annotated[str, choice("none", "xsum")]


@dataclass(frozen=True)
class Export:
    """What is shipped, and how far its score may differ from the measured one."""

    target: Annotated[str, choice(*EXPORT_TARGETS)]
    margin: Annotated[float, number(0, 100, low_open=True)]


@dataclass(frozen=True)
class Params:
    """params.yaml. `load` returns one that holds only the named sections and keys."""

    seed: Annotated[int, SEED]
    pretrain: Pretrain
    data: Data
    prompt: Prompt
    model: Model
    lora: Lora
    train: Train
    smoke: Smoke
    generate: Generate
    evaluate: Evaluate
    report: Report
    export: Export


def _rules(of: type) -> dict[str, Any]:
    """The rule of each key of a section, by name; for Params, the rules of every section."""
    hints = get_type_hints(of, include_extras=True)  # __metadata__[0] is the rule in Annotated[type, rule]
    return {
        field.name: _rules(hints[field.name])
        if is_dataclass(hints[field.name])
        else hints[field.name].__metadata__[0]
        for field in fields(of)
    }


SCHEMA: dict[str, Key | dict[str, Key]] = _rules(Params)

# Keys that change no result. Checkpoints and experiments are matched without them.
NO_EFFECT = ("train.report_to",)

# Keys of version 0.1 and their present names. Their values have the same meaning.
RENAMED = {
    "pretrain.warmup_share": "pretrain.warmup_ratio",
    "data.path": "data.watch",
    "model.path": "model.watch",
    "train.warmup_share": "train.warmup_ratio",
    "train.loss_examples": "train.eval_examples",
    "generate.no_repeat_ngram": "generate.no_repeat_ngram_size",
    "generate.batch_tokens": "generate.max_batch_tokens",
    "report.reference": "report.published",
}
# Keys that were added later, and the value that leaves results as they were before. An experiment that was
# made without such a key equals one that has this value.
ADDED: dict[str, Any] = {
    "evaluate.nli_model": None,
    "evaluate.nli_revision": None,
    "evaluate.nli_sha256": None,
    "generate.quantization": None,
}


def completed(name: str, value: object) -> object:
    """The value of a section with the keys that were ADDED after it was written; any other value as it is.

    name: of the section ("evaluate"), or a dotted key.
    """
    if not isinstance(value, dict):
        return value
    added = {key.removeprefix(f"{name}."): old for key, old in ADDED.items() if key.startswith(f"{name}.")}
    return {**added, **value}


# Aliases can repeat a value that itself repeats values: 20 lines of YAML can mean 10^9 values.
MOST_NODES = 100_000  # of a YAML file, each alias counted as what it repeats
SHOWN = 200  # characters of a wrong value that an error repeats


class _StrictLoader(yaml.SafeLoader):
    """A SafeLoader that refuses a key that occurs twice; PyYAML silently keeps the last one."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    """The mapping of a YAML node; an error if a key occurs twice."""
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise yaml.YAMLError(f"line {node.start_mark.line + 1}: key {twice[0]!r} occurs twice")
    return dict(zip(keys, (loader.construct_object(v, deep=True) for _, v in node.value), strict=True))


def _size(node: yaml.Node, sizes: dict[int, int], above: frozenset[int] = frozenset()) -> int:
    """Number of nodes below and with a YAML node; an alias counts as often as it occurs.

    sizes: of the nodes that were counted, by identity. Raises YAMLError for a node that contains itself.
    """
    if id(node) in above:
        raise yaml.YAMLError(f"line {node.start_mark.line + 1}: a value that contains itself")
    if id(node) not in sizes:
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        inside = above | {id(node)}
        sizes[id(node)] = 1 + sum(
            _size(part, sizes, inside)
            for child in children
            for part in (child if isinstance(child, tuple) else (child,))
        )
    return sizes[id(node)]


def _load(text: str) -> object:
    """The value of a YAML text. Raises YAMLError for one that expands to more than MOST_NODES values."""
    loader = _StrictLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST_NODES:
            raise yaml.YAMLError(f"more than {MOST_NODES:,} values with its aliases (*NAME) written out")
        value: object = loader.construct_document(node)
        return value
    finally:
        loader.dispose()


def _whole_number(loader: _StrictLoader, node: yaml.ScalarNode) -> int:
    """The whole number of a YAML node. A leading 0 means nothing; 0o and 0x do."""
    text = node.value.replace("_", "")
    sign, digits = (-1 if text.startswith("-") else 1), text.lstrip("+-")
    base = {"0o": 8, "0x": 16}.get(digits[:2], 10)
    return sign * int(digits[2:] if base != 10 else digits, base)


# DVC reads and writes YAML 1.2: `no` is a text there, 1e-05 a number, 010 ten, 1:30 a text. PyYAML reads 1.1.
RESOLVED = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9][0-9_]*|[-+]?0o[0-7_]+|[-+]?0x[0-9a-fA-F_]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
}
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in RESOLVED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, (_pattern, _first) in RESOLVED.items():
    _StrictLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_pattern})$"), list(_first)
    )
_StrictLoader.add_constructor("tag:yaml.org,2002:int", _whole_number)
_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError with the file and line."""
    if not path.is_file():
        raise UserError(f"{path}: not found; run the command in the repository's root folder")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path) -> dict[str, Any]:
    """The mapping in a YAML text. path: the file that errors name."""
    try:
        values = _load(text)
    # ValueError: an impossible date; TypeError: a list as a key; RecursionError: nested too deeply; KeyError,
    # IndexError and AttributeError: PyYAML's own, of numbers and dates with no digits.
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, LookupError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: not valid YAML: {reason}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of sections, found {type(values).__name__}")
    return values


def _hint(name: str, known: list[str]) -> str:
    """The known name nearest to a wrong one; all known names if none is near."""
    close = difflib.get_close_matches(str(name)[:SHOWN], known, n=1)
    return f", did you mean '{close[0]}'?" if close else f"; known here: {', '.join(known)}"


def _value_error(name: str, key: Key, value: object) -> str:
    """The error for a wrong value, with the nearest legal text."""
    close = difflib.get_close_matches(str(value)[:SHOWN], key.choices, n=1)
    hint = f", did you mean '{close[0]}'?" if close else ""
    return f"{name}: expected {key.expected}, found {quoted(value)}{hint}"


def quoted(value: object) -> str:
    """A wrong value as an error repeats it: as Python writes it, cut after SHOWN characters."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def leaves(name: str) -> bool:
    """Whether a relative path leads out of the folder that it is relative to."""
    return ".." in Path(name).parts


def problems(values: dict[str, Any]) -> list[str]:
    """All problems with the values of params.yaml, one sentence each."""
    problems = []
    for section in values:
        if section not in SCHEMA:
            problems.append(f"{str(section)[:SHOWN]}: unknown section{_hint(section, list(SCHEMA))}")
    for section, expected in SCHEMA.items():
        if section not in values:
            problems.append(f"{section}: missing")
        elif isinstance(expected, Key):
            if not expected.accepts(values[section]):
                problems.append(_value_error(section, expected, values[section]))
        elif not isinstance(values[section], dict):
            problems.append(f"{section}: expected a section with keys, found {quoted(values[section])}")
        else:
            problems += _section_problems(section, expected, values[section])
    # Values are compared with each other only once each of them is valid.
    return problems or _contradictions(values)


def unknown_key(section: str, key: str) -> str:
    """The error for a key that a section does not have: with its new name, or the nearest known key."""
    name = f"{section}.{str(key)[:SHOWN]}"
    if name in RENAMED:
        return f"{name}: this key is now called {RENAMED[name]}; rename it and keep its value"
    rules = SCHEMA[section]
    return f"{name}: unknown key{_hint(key, list(rules) if isinstance(rules, dict) else [])}"


def _section_problems(section: str, expected: dict[str, Key], values: dict[str, Any]) -> list[str]:
    """All problems with the keys and values of one section."""
    problems, renamed = [], set()
    for key in values:
        if key in expected:
            continue
        new = RENAMED.get(f"{section}.{key}")
        if new is not None:
            renamed.add(new)
        problems.append(unknown_key(section, key))
    for key, rule in expected.items():
        if f"{section}.{key}" in renamed:  # one mistake is one problem: its old name was reported
            continue
        if key not in values:
            problems.append(f"{section}.{key}: missing")
        elif not rule.accepts(values[key]):
            problems.append(_value_error(f"{section}.{key}", rule, values[key]))
    return problems


def _data_contradictions(data: dict[str, Any]) -> list[str]:
    """Contradictions within the section `data`."""
    problems = []
    local = data["source"] == "local"
    if local and data["watch"] == NO_FILE:
        problems.append("data.watch: names no data; set it with `make data FROM=PATH`")
    if local and (leaves(data["watch"]) or Path(data["watch"]).is_absolute()):
        problems.append(
            f"data.watch: {data['watch']!r} leaves the repository, so DVC could not keep it; copy it with "
            "`make data FROM=PATH`"
        )
    if not local and data["watch"] != NO_FILE:
        problems.append(f"data.watch: must be {NO_FILE} unless data.source is local, found {data['watch']!r}")
    if data["source"] in ("local", "docstrings"):
        if data["revision"] is not None:
            problems.append(f"data.revision: must be null where data.source is {data['source']}")
    elif meant := difflib.get_close_matches(data["source"], ("local", "docstrings"), 1, 0.8):
        problems.append(
            f"data.source: expected a source, found {data['source']!r}; did you mean {meant[0]!r}?"
        )
    elif data["revision"] is None:
        problems.append(f"data.revision: pin a revision of the hub dataset {data['source']!r}")
    if data["summary_column"] == data["document_column"]:
        problems.append(
            f"data.summary_column: must differ from data.document_column ({data['document_column']!r})"
        )
    if data["source"] == "docstrings" and data["group_column"] is not None:
        problems.append(
            "data.group_column: must be null where data.source is docstrings; its groups are the source files"
        )
    if data["group_column"] in (data["document_column"], data["summary_column"]):
        problems.append("data.group_column: must differ from data.document_column and data.summary_column")
    return problems


def _nli_contradictions(evaluate: dict[str, Any]) -> list[str]:
    """Contradictions between the keys of the model that judges entailment."""
    name, revision, sha256 = (evaluate[f"nli_{key}"] for key in ("model", "revision", "sha256"))
    if name is None:
        return [
            f"evaluate.nli_{key}: must be null where evaluate.nli_model is null, found {value!r}"
            for key, value in (("revision", revision), ("sha256", sha256))
            if value is not None
        ]
    problems = []
    folder = is_there(name)
    if folder and revision is not None:
        problems.append("evaluate.nli_revision: must be null for a folder")
    if not folder and revision is None:
        problems.append(
            f"evaluate.nli_revision: pin a revision (commit hash) of the hub model {name!r}; no folder of "
            "that name exists"
        )
    if sha256 is None:
        problems.append(
            f"evaluate.nli_sha256: set it to the SHA-256 of the weights of {name!r}; `sha256sum` prints that "
            "of its model.safetensors"
        )
    return problems


def _beam_contradictions(generate: dict[str, Any]) -> list[str]:
    """Contradictions within the section `generate`."""
    beams, longest, penalty = (generate[key] for key in ("num_beams", "max_new_tokens", "length_penalty"))
    if beams == 1:
        problem = "generate.length_penalty: must be 1.0 where generate.num_beams is 1: it ranks beams"
        return [problem] if penalty != 1 else []
    # A finished beam is worth its log-probability times length^-penalty; transformers takes -1e9 for none.
    if UNLIKELY * longest * float(longest) ** max(0.0, -penalty) >= 1e9:
        return [
            f"generate.length_penalty: {penalty:g} is too low for {longest} new tokens: no beam could end; "
            "raise it, or lower generate.max_new_tokens"
        ]
    return []


def _contradictions(values: dict[str, Any]) -> list[str]:
    """Values that are valid alone and contradict each other."""
    problems = [*_data_contradictions(values["data"]), *_nli_contradictions(values["evaluate"])]
    model, pretrain = values["model"], values["pretrain"]
    # A name that exists on disk is a folder; any other name is a hub id, "owner/name".
    folder = is_there(model["name"]) or model["watch"] != NO_FILE
    if folder and leaves(model["name"]):
        problems.append(
            f"model.name: {model['name']!r} leaves the repository; copy the model to models/, or name its "
            "absolute path"
        )
    if folder and model["watch"] != model["name"]:
        problems.append(
            f"model.watch: must be the folder in model.name ({model['name']!r}), or {NO_FILE} for a hub id, "
            f"found {model['watch']!r}"
        )
    if folder and model["revision"] is not None:
        problems.append("model.revision: must be null for a folder")
    if not folder and model["revision"] is None:
        problems.append(f"model.revision: pin a revision (commit hash) of the hub model {model['name']!r}")
    if pretrain["hidden_size"] % pretrain["heads"]:
        problems.append("pretrain.hidden_size: must be a multiple of pretrain.heads")
    if pretrain["batch_size"] % pretrain["micro_batch_size"]:
        problems.append("pretrain.batch_size: must be a multiple of pretrain.micro_batch_size")
    exact = model["dtype"] == "float32" and model["quantization"] == "none"
    if values["train"]["autocast"] != "none" and not exact:
        problems.append(
            "train.autocast: must be none unless model.dtype is float32 and model.quantization none; "
            "weights in another format are used in that format"
        )
    train, generate = values["train"], values["generate"]
    if (train["epochs"] is None) == (train["steps"] is None):
        problems.append("train.steps: must be a number where train.epochs is null, and null otherwise")
    if train["method"] == "full" and not exact:
        problems.append(
            "train.method: full needs model.dtype: float32 and model.quantization: none; quantized weights "
            "cannot be trained, and 16-bit ones round small updates away (train.autocast is for speed)"
        )
    problems += _beam_contradictions(generate)
    if values["evaluate"]["meteor_synonyms"] and values["evaluate"]["language"] != "en":
        problems.append(
            "evaluate.meteor_synonyms: must be false unless evaluate.language is en: WordNet is English"
        )
    if train["method"] == "full" and values["export"]["target"] == "adapter":
        problems.append("export.target: must not be adapter where train.method is full; use merged")
    if values["train"]["checkpoint_every"] % values["train"]["log_every"]:
        problems.append(
            "train.checkpoint_every: must be a multiple of train.log_every; "
            "otherwise a resumed run logs other losses"
        )
    return problems


Section = TypeVar("Section")


def part_of(of: type[Section], values: Mapping[str, object]) -> Section:
    """A section that holds some of its keys, unchecked; reading any other key is an AttributeError."""
    section = object.__new__(of)
    for name, value in values.items():
        object.__setattr__(section, name, value)  # bypasses `frozen`, since the section is being built
    return section


def load(names: tuple[str, ...], path: Path = PARAMS_FILE) -> Params:
    """Check all of params.yaml, and return the named sections ("lora") and keys ("evaluate.split") only.

    Raises a UserError that lists every problem, also those of sections that are not named.
    """
    values = read_yaml(path)
    errors = problems(values)
    if errors:
        raise UserError("\n  ".join([f"{path}: {len(errors)} problem(s)", *errors]))
    chosen: dict[str, Any] = {}
    for name in names:
        section, _, key = name.partition(".")
        if not isinstance(SCHEMA[section], dict):
            chosen[section] = values[section]
        elif key:
            chosen.setdefault(section, {})[key] = values[section][key]
        else:
            chosen[section] = dict(values[section])
    recorded.note_values(path, lambda: _named(read_yaml(path), names))
    types = get_type_hints(Params)
    return part_of(
        Params,
        {
            name: part_of(types[name], part) if isinstance(SCHEMA[name], dict) else part
            for name, part in chosen.items()
        },
    )


def _named(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The values of sections ("lora") and keys ("evaluate.split"), by dotted key."""
    chosen: dict[str, Any] = {}
    for name in names:
        section, _, key = name.partition(".")
        value = values.get(section)
        if key:
            chosen[name] = value.get(key) if isinstance(value, dict) else None
        elif isinstance(value, dict):
            chosen |= {f"{section}.{key}": entry for key, entry in value.items()}
        else:
            chosen[section] = value
    return chosen


def generating(params: Params) -> Model:
    """The section `model` of the base as it writes summaries, in the quantization that it has there."""
    return replace(params.model, quantization=params.generate.quantization or params.model.quantization)


def changed(params: Params, values: Mapping[str, object]) -> Params:
    """A copy of `params` with other values, by key ("train.epochs"); they are not checked."""
    sections = dict(vars(params))
    for name, value in values.items():
        section, _, key = name.partition(".")
        sections[section] = replace(sections[section], **{key: value}) if key else value
    return part_of(Params, sections)
