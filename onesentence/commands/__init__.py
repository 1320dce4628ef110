"""One module for each command of `onesentence`; `make` has a short form of most."""

from collections.abc import Callable
from inspect import cleandoc
from pathlib import Path

import click

from onesentence.core.errors import UserError
from onesentence.core.params import PARAMS_FILE

DVC = Path(".dvc")


def require_pipeline() -> None:
    """Raise a UserError unless this is the folder of a pipeline: the repository's, or a preset's."""
    for path in (DVC, PARAMS_FILE):
        if not path.exists():
            raise UserError(
                f"{path}: not found; run the command in the repository's root folder, or in presets/NAME of "
                "a preset that was run"
            )


def documented(docstring: str) -> Callable[[Callable[..., None]], click.Command]:
    """A decorator that makes a function a click command with the module's docstring, layout kept, as its
    --help.

    The docstring ends with examples, under `Run`.
    """
    # click rewraps paragraphs, except one that follows \b.
    text = "\n\n".join(f"\b\n{paragraph}" for paragraph in cleandoc(docstring).split("\n\n"))
    return click.command(help=text)
