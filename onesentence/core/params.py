"""The one reader of params.yaml: strict, every error at once, no default in code.

A stage names what it reads (`PARAMS`, the same list as in dvc.yaml) and gets an object that holds just
that, so that reading anything else is an AttributeError and dvc.yaml cannot lie.
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import yaml

from onesentence.core.errors import UserError
from onesentence.core.prompts import CHAT, SLOT, TEMPLATES, is_template

PARAMS_FILE = Path("params.yaml")
SPLITS = ("train", "validation", "test")
# ISO 639-1, and ISO 639-2's `und` for any other language.
LANGUAGES = tuple(
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de "
    "dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id "
    "ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu "
    "lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu "
    "rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr "
    "ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu und".split()
)
NO_FILE = "requirements.txt"  # what data.path and model.path hold where nothing local is watched


@dataclass(frozen=True)
class Key:
    """What a value must be. expected: in words, for the error; accepts: the test; choices: legal texts."""

    expected: str
    accepts: Callable[[object], bool]
    choices: tuple[str, ...] = ()


def whole(low: int, nullable: bool = False, or_null: str = "") -> Key:
    """A whole number >= low (True and 3.0 are none)."""
    return Key(
        f"a whole number of at least {low}" + (f", or null ({or_null})" if nullable else ""),
        lambda v: (nullable and v is None) or (type(v) is int and v >= low),
    )


def number(low: float, high: float, low_open: bool = False, high_open: bool = False) -> Key:
    """A number between low and high."""
    text = f"a number {'above' if low_open else 'from'} {low:g} {'to below' if high_open else 'to'} {high:g}"
    return Key(
        text,
        lambda v: (
            type(v) in (int, float)
            and (low < v if low_open else low <= v)
            and (v < high if high_open else v <= high)
        ),
    )


def choice(*values: str) -> Key:
    """One of the given texts."""
    return Key(f"one of {', '.join(values)}", lambda v: isinstance(v, str) and v in values, values)


TRUTH = Key("true or false", lambda v: isinstance(v, bool))
SHA256 = Key(
    "a SHA-256 in quotes (64 hexadecimal digits)",
    lambda v: isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v) is not None,
)
SHA256_OR_NULL = Key(f"{SHA256.expected}, or null (not known yet)", lambda v: v is None or SHA256.accepts(v))
LANGUAGE = Key(
    f"a language's code of ISO 639 ('no' in quotes; und = any other), one of {', '.join(LANGUAGES)}",
    lambda v: isinstance(v, str) and v in LANGUAGES,
)
TEXT = Key("a text that is not empty", lambda v: isinstance(v, str) and v.strip() != "")
TEXT_OR_NULL = Key("a text or null", lambda v: v is None or TEXT.accepts(v))
TEMPLATE = Key(
    f"one of {', '.join(TEMPLATES)}, {CHAT} (the base's own), or a text that holds {SLOT} once",
    is_template,
    (*TEMPLATES, CHAT),
)
NAMES = Key(
    "a list of at least one module name, none twice",
    lambda v: (
        isinstance(v, list) and len(v) > 0 and all(TEXT.accepts(name) for name in v) and len(set(v)) == len(v)
    ),
)

SCHEMA: dict[str, Key | dict[str, Key]] = {
    "seed": whole(0),
    "pretrain": {
        "seed": whole(0),
        "vocabulary": whole(512),
        "hidden_size": whole(16),
        "layers": whole(1),
        "heads": whole(1),
        "context": whole(16),
        "tokens": whole(1),
        "batch_size": whole(1),
        "micro_batch_size": whole(1),
        "muon_learning_rate": number(0, 1, low_open=True),
        "adamw_learning_rate": number(0, 1, low_open=True),
        "warmup_share": number(0, 1),
        "decay_share": number(0, 1),
        "summary_last_share": number(0, 1),
        "checkpoint_every": whole(1),
    },
    "data": {
        "source": TEXT,
        "path": TEXT,
        "revision": TEXT_OR_NULL,
        "document_column": TEXT,
        "summary_column": TEXT,
        "group_column": TEXT_OR_NULL,
        "sha256": SHA256_OR_NULL,
        "seed": whole(0),
        "selection": choice("all", "novel_half"),
        "train_size": whole(1, nullable=True, or_null="all"),
        "validation_size": whole(1, nullable=True, or_null="all"),
        "test_size": whole(1, nullable=True, or_null="all"),
    },
    "prompt": {
        "template": TEMPLATE,
        "max_input_tokens": whole(16),
    },
    "model": {
        "name": TEXT,
        "path": TEXT,
        "revision": TEXT_OR_NULL,
        "dtype": choice("float32", "bfloat16", "float16"),
        "quantization": choice("none", "int8", "nf4"),
    },
    "lora": {
        "rank": whole(1),
        "alpha": whole(1, nullable=True, or_null="2 x rank"),
        "dropout": number(0, 1, high_open=True),
        "target_modules": NAMES,
    },
    "train": {
        "method": choice("lora", "rslora", "dora", "full"),
        "epochs": whole(1, nullable=True, or_null="train.steps decides"),
        "steps": whole(1, nullable=True, or_null="train.epochs decides"),
        "order": choice("random", "extractive_first"),
        "batch_size": whole(1),
        "gradient_accumulation": whole(1),
        "learning_rate": number(0, 1, low_open=True),
        "warmup_share": number(0, 1),
        "autocast": choice("none", "bfloat16"),
        "log_every": whole(1),
        "checkpoint_every": whole(1),
        "loss_examples": whole(1),
    },
    "smoke": {
        "examples": whole(2),
        "min_success_rate": number(0, 1),
    },
    "generate": {
        "max_new_tokens": whole(1),
        "num_beams": whole(1),
        "length_penalty": number(-10, 10),
        "no_repeat_ngram": whole(0),
        "batch_tokens": whole(1),
    },
    "evaluate": {
        "split": choice("validation", "test"),
        "language": LANGUAGE,
        "resamples": whole(100),
        "confidence": number(0.5, 1, high_open=True),
        "meteor_synonyms": TRUTH,
        "bertscore_model": TEXT,
        "bertscore_layer": whole(1),
        "bertscore_sha256": SHA256,
    },
    "report": {
        "reference": choice("none", "xsum"),
    },
}


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key that stands twice (PyYAML keeps the last without a word)."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict:
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise yaml.YAMLError(f"line {node.start_mark.line + 1}: key {twice[0]!r} stands twice")
    return dict(zip(keys, (loader.construct_object(v, deep=True) for _, v in node.value), strict=True))


# YAML 1.1 takes 1e-05 for text; DVC writes numbers so (dvc exp run -S) and YAML 1.2 reads them so.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> dict:
    """A YAML mapping, or a UserError that names the file and line."""
    if not path.is_file():
        raise UserError(f"{path}: not found; run from the repository's root")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path) -> dict:
    """The mapping in `text`; `path` is for the error."""
    try:
        values = yaml.load(text, _StrictLoader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of sections, found {type(values).__name__}")
    return values


def _hint(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    return f", did you mean '{close[0]}'?" if close else f"; known here: {', '.join(known)}"


def _value_error(name: str, key: Key, value: object) -> str:
    close = difflib.get_close_matches(str(value), key.choices, n=1)
    hint = f", did you mean '{close[0]}'?" if close else ""
    return f"{name}: expected {key.expected}, found {value!r}{hint}"


def problems(values: dict) -> list[str]:
    """Everything that is wrong with the values of params.yaml, one sentence each."""
    found = []
    for section in values:
        if section not in SCHEMA:
            found.append(f"{section}: unknown section{_hint(section, list(SCHEMA))}")
    for section, expected in SCHEMA.items():
        if section not in values:
            found.append(f"{section}: missing")
        elif isinstance(expected, Key):
            if not expected.accepts(values[section]):
                found.append(_value_error(section, expected, values[section]))
        elif not isinstance(values[section], dict):
            found.append(f"{section}: expected a section with keys, found {values[section]!r}")
        else:
            found += _section_problems(section, expected, values[section])
    return found or _contradictions(values)


def _section_problems(section: str, expected: dict[str, Key], values: dict) -> list[str]:
    """Everything that is wrong with the keys and values of one section."""
    found = [
        f"{section}.{key}: unknown key{_hint(key, list(expected))}" for key in values if key not in expected
    ]
    for key, rule in expected.items():
        if key not in values:
            found.append(f"{section}.{key}: missing")
        elif not rule.accepts(values[key]):
            found.append(_value_error(f"{section}.{key}", rule, values[key]))
    return found


def _data_contradictions(data: dict) -> list[str]:
    found = []
    local = data["source"] == "local"
    if local and data["path"] == NO_FILE:
        found.append("data.path: names no data; set it with `make data FROM=PATH`")
    if not local and data["path"] != NO_FILE:
        found.append(f"data.path: must be {NO_FILE} unless data.source is local, found {data['path']!r}")
    if data["source"] in ("local", "docstrings"):
        if data["revision"] is not None:
            found.append(f"data.revision: must be null where data.source is {data['source']}")
    elif data["revision"] is None:
        found.append(f"data.revision: pin a revision of the hub dataset {data['source']!r}")
    if data["summary_column"] == data["document_column"]:
        found.append(
            f"data.summary_column: must differ from data.document_column ({data['document_column']!r})"
        )
    if data["source"] == "docstrings" and data["group_column"] is not None:
        found.append(
            "data.group_column: must be null where data.source is docstrings; a group is a source file there"
        )
    if data["group_column"] in (data["document_column"], data["summary_column"]):
        found.append("data.group_column: must differ from data.document_column and data.summary_column")
    return found


def _contradictions(values: dict) -> list[str]:
    """Values that are right alone and wrong together."""
    found = _data_contradictions(values["data"])
    model, pretrain = values["model"], values["pretrain"]
    # A hub id is "owner/name"; whatever lies on disk is a folder.
    folder = Path(model["name"]).exists() or model["path"] != NO_FILE
    if folder and model["path"] != model["name"]:
        found.append(
            f"model.path: must be the folder in model.name ({model['name']!r}), or {NO_FILE} for a hub id, "
            f"found {model['path']!r}"
        )
    if folder and model["revision"] is not None:
        found.append("model.revision: must be null for a folder")
    if not folder and model["revision"] is None:
        found.append(f"model.revision: pin a revision (commit hash) of the hub model {model['name']!r}")
    if pretrain["hidden_size"] % pretrain["heads"]:
        found.append("pretrain.hidden_size: must be a multiple of pretrain.heads")
    if pretrain["batch_size"] % pretrain["micro_batch_size"]:
        found.append("pretrain.batch_size: must be a multiple of pretrain.micro_batch_size")
    exact = model["dtype"] == "float32" and model["quantization"] == "none"
    if values["train"]["autocast"] != "none" and not exact:
        found.append(
            "train.autocast: must be none unless model.dtype is float32 and model.quantization none; "
            "other weights are computed with in their own format"
        )
    train, generate = values["train"], values["generate"]
    if (train["epochs"] is None) == (train["steps"] is None):
        found.append("train.steps: must be null unless train.epochs is null, and a number then")
    if train["method"] == "full" and not exact:
        found.append(
            "train.method: full needs model.dtype: float32 and model.quantization: none; quantized weights "
            "cannot be trained, and 16-bit ones round small updates away (train.autocast is for speed)"
        )
    if generate["num_beams"] == 1 and generate["length_penalty"] != 1:
        found.append("generate.length_penalty: must be 1.0 where generate.num_beams is 1: it ranks beams")
    if values["evaluate"]["meteor_synonyms"] and values["evaluate"]["language"] != "en":
        found.append(
            "evaluate.meteor_synonyms: must be false unless evaluate.language is en: WordNet is English"
        )
    if values["train"]["checkpoint_every"] % values["train"]["log_every"]:
        found.append(
            "train.checkpoint_every: must be a multiple of train.log_every; "
            "a resumed run would log other losses"
        )
    return found


def load(names: tuple[str, ...], path: Path = PARAMS_FILE) -> SimpleNamespace:
    """Check the whole of params.yaml and return the named sections ("lora") and keys ("evaluate.split").

    Raises UserError that lists every problem. What is not named is not there to read.
    """
    values = read_yaml(path)
    found = problems(values)
    if found:
        raise UserError("\n  ".join([f"{path}: {len(found)} problem(s)", *found]))
    params = SimpleNamespace()
    for name in names:
        section, _, key = name.partition(".")
        if not key:
            value = values[section]
            setattr(params, section, SimpleNamespace(**value) if isinstance(value, dict) else value)
        else:
            if not hasattr(params, section):
                setattr(params, section, SimpleNamespace())
            setattr(getattr(params, section), key, values[section][key])
    return params
