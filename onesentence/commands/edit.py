"""Changing params.yaml in place: comments stay, the result is checked first, the diff is shown."""

import difflib
import io
from pathlib import Path

import yaml as pyyaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.files import write_text


def apply(overlay: dict, origin: str, path: Path = params.PARAMS_FILE) -> str:
    """Set the overlay's keys in params.yaml and return the unified diff; see `edited`."""
    old, new = edited(overlay, origin, path)
    write_text(path, new)
    return "".join(
        difflib.unified_diff(
            old.splitlines(True), new.splitlines(True), f"{path} (before)", f"{path} (after)"
        )
    )


def edited(overlay: dict, origin: str, path: Path = params.PARAMS_FILE) -> tuple[str, str]:
    """(text of params.yaml, the same with the overlay's keys set); nothing is written.

    overlay: {section: {key: value}}, or {key: value} for a key without a section. origin: where it came
    from, for errors. Raises UserError where the result would not pass the loader.
    """
    params.read_yaml(path)  # YAML errors in its own words
    old = path.read_text(encoding="utf-8")
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    document = yaml.load(old)
    for section, values in overlay.items():
        if section not in document:
            document[section] = values  # the loader names it as unknown
        elif isinstance(values, dict) and isinstance(document[section], dict):
            for key, value in values.items():
                document[section][key] = plain(value)
                comment_follows(document[section], key)
        else:
            document[section] = plain(values)
            comment_follows(document, section)
    yaml.representer.add_representer(type(None), _null)
    yaml.representer.add_representer(float, _float)
    buffer = io.StringIO()
    yaml.dump(document, buffer)
    new = buffer.getvalue()
    found = params.problems(params.parse_yaml(new, path))
    if found:
        raise UserError("\n  ".join([f"{origin}: {path} not changed, {len(found)} problem(s)", *found]))
    return old, new


def plain(value):
    """A value as params.yaml writes it: lists on one line, text quoted where YAML 1.1 reads another thing.

    ruamel writes YAML 1.2, the loader reads 1.1, in which `on` and `1:30` are no text.
    """
    if isinstance(value, list):
        sequence = CommentedSeq(plain(item) for item in value)
        sequence.fa.set_flow_style()
        return sequence
    if isinstance(value, str):
        tag = pyyaml.resolver.Resolver().resolve(pyyaml.ScalarNode, value, (True, False))
        if tag != "tag:yaml.org,2002:str":
            return DoubleQuotedScalarString(value)
    return value


def comment_follows(section, key: str) -> None:
    """Let the comment behind a value stand one blank behind it, wherever it stood before."""
    for token in section.ca.items.get(key, ()):
        if token is not None and not isinstance(token, list):
            token.column = 0


def _float(representer, value):
    return representer.represent_scalar("tag:yaml.org,2002:float", pyyaml.safe_dump(value).split()[0])


def _null(representer, value):
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")
