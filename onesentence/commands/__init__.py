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


class Command(click.Command):
    """A command that refuses an empty argument: a shell puts one in the place of a variable that is not set.

    Taken as a path, it would be the working directory.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words of the command line; a UsageError for one without a text."""
        before = ""
        for word in args:
            option, _, value = word.partition("=")
            if not word.strip() or (option.startswith("--") and "=" in word and not value.strip()):
                named = option if word.strip() else before if before.startswith("-") else "an argument"
                raise click.UsageError(f"{named}: is empty; give a value, or leave it out", ctx)
            before = word
        return super().parse_args(ctx, args)


def documented(docstring: str) -> Callable[[Callable[..., None]], click.Command]:
    """A decorator that makes a function a click command with the module's docstring, layout kept, as its
    --help.

    The docstring ends with examples, under `Run`.
    """
    # click rewraps paragraphs, except one that follows \b.
    text = "\n\n".join(f"\b\n{paragraph}" for paragraph in cleandoc(docstring).split("\n\n"))
    return click.command(cls=Command, help=text)
