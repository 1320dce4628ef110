"""Changing params.yaml in place: comments stay, the result is checked first, the diff is shown."""

import difflib
import io
from pathlib import Path

from ruamel.yaml import YAML

from stages.common import params
from stages.common.errors import UserError
from stages.common.files import write_text


def apply(overlay: dict, origin: str, path: Path = params.PARAMS_FILE) -> str:
    """Set the overlay's keys in params.yaml and return the unified diff.

    overlay: {section: {key: value}}, or {key: value} for a key without a section. origin: where it came
    from, for errors. Nothing is written where the result would not pass the loader.
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
                document[section][key] = flow(value)
        else:
            document[section] = values
    yaml.representer.add_representer(type(None), _null)
    buffer = io.StringIO()
    yaml.dump(document, buffer)
    new = buffer.getvalue()
    found = params.problems(params.parse_yaml(new, path))
    if found:
        raise UserError("\n  ".join([f"{origin}: {path} not changed, {len(found)} problem(s)", *found]))
    write_text(path, new)
    return "".join(
        difflib.unified_diff(
            old.splitlines(True), new.splitlines(True), f"{path} (before)", f"{path} (after)"
        )
    )


def flow(value):
    """Lists on one line, as params.yaml has them."""
    if not isinstance(value, list):
        return value
    from ruamel.yaml.comments import CommentedSeq

    sequence = CommentedSeq(value)
    sequence.fa.set_flow_style()
    return sequence


def _null(representer, value):
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")
