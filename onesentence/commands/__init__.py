"""One module for each command of `onesentence`; `make` has a short form of most."""

from collections.abc import Callable
from inspect import cleandoc

import click


def documented(docstring: str) -> Callable[[Callable[..., None]], click.Command]:
    """A decorator that makes a function a click command with the module's docstring, layout kept, as its
    --help.

    The docstring ends with examples, under `Run`.
    """
    # click rewraps paragraphs, except one that follows \b.
    text = "\n\n".join(f"\b\n{paragraph}" for paragraph in cleandoc(docstring).split("\n\n"))
    return click.command(help=text)
