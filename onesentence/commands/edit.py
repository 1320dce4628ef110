"""Change params.yaml in place: comments stay, the result is checked first, the diff is returned."""

import difflib
import io
from pathlib import Path
from typing import Any

import yaml as pyyaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.files import write_text


def apply(overlay: dict[str, Any], origin: str, path: Path = params.PARAMS_FILE) -> str:
    """Set the overlay's keys in params.yaml and return the unified diff; see `edited`."""
    old, new = edited(overlay, origin, path)
    write_text(path, new)
    return "".join(
        difflib.unified_diff(
            old.splitlines(True), new.splitlines(True), f"{path} (before)", f"{path} (after)"
        )
    )


def edited(overlay: dict[str, Any], origin: str, path: Path = params.PARAMS_FILE) -> tuple[str, str]:
    """(text of params.yaml, the same with the overlay's keys set); nothing is written.

    overlay: {section: {key: value}}, or {key: value} for a key without a section. origin: its source, for
    errors. Raises a UserError where the loader would refuse the result.
    """
    params.read_yaml(path)  # first, because its errors name the line and what to do
    old = path.read_text(encoding="utf-8")
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # long lines stay whole
    document = yaml.load(old)
    for section, values in overlay.items():
        if section not in document:
            document[section] = values  # the check below names it as unknown
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
    problems = params.problems(params.parse_yaml(new, path))
    if problems:
        raise UserError("\n  ".join([f"{origin}: {path} not changed, {len(problems)} problem(s)", *problems]))
    return old, new


def plain(value: Any) -> Any:
    """A value as params.yaml writes it: lists on one line, and text in quotes where YAML 1.1 reads another
    type.

    ruamel writes YAML 1.2. The loader reads YAML 1.1, where `on` is a boolean and `1:30` a number.
    """
    if isinstance(value, list):
        sequence = CommentedSeq(plain(item) for item in value)
        sequence.fa.set_flow_style()  # [a, b]
        return sequence
    if isinstance(value, str):
        resolver: Any = pyyaml.resolver.Resolver()  # its types have no annotations
        tag = resolver.resolve(pyyaml.ScalarNode, value, (True, False))
        if tag != "tag:yaml.org,2002:str":
            return DoubleQuotedScalarString(value)
    return value


def comment_follows(section: Any, key: str) -> None:
    """Move the comment behind a value to one blank behind it: its old column may lie inside the new value."""
    for token in section.ca.items.get(key, ()):
        if token is not None and not isinstance(token, list):
            token.column = 0


def _float(representer: Any, value: float) -> Any:
    # ruamel writes 1e-05, which YAML 1.1 reads as text; PyYAML writes 1.0e-05.
    return representer.represent_scalar("tag:yaml.org,2002:float", pyyaml.safe_dump(value).split()[0])


def _null(representer: Any, value: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")
