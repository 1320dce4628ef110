"""One module a command of `onesentence`; `make` has a short form of most."""

from collections.abc import Callable
from inspect import cleandoc

import click


def documented(docstring: str) -> Callable:
    """A decorator: the function is a click command whose --help is the module's docstring, as it is laid out.

    The docstring ends with examples, under `Run`.
    """
    # click would fill the paragraphs anew; after \b it leaves one as it is.
    text = "\n\n".join(f"\b\n{paragraph}" for paragraph in cleandoc(docstring).split("\n\n"))
    return click.command(help=text)
