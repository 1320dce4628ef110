"""The command line: `onesentence COMMAND`, or `python -m onesentence COMMAND` to run the code of this folder.

A command is a module of `onesentence.commands` with a function `command`. It is imported when it is needed:
the list of commands and the completion of a name load none of them.
"""

import ast
import signal
from pathlib import Path
from types import FrameType

import click
from click.shell_completion import CompletionItem

from onesentence.core import errors

# In the order in which a user meets them.
COMMANDS = (
    "results summarize serve inspect estimate ladder verify data base preset repro export show diff study "
    "compare checkpoints sizes score rate remote completion"
).split()
FOLDER = Path(__file__).parent / "commands"


def summary_of(name: str) -> str:
    """The first sentence of a command's docstring, read without importing it."""
    docstring = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8")))
    return (docstring or "").partition("\n")[0].rstrip(".")


class Commands(click.Group):
    """The commands. Each is imported when it is needed."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Names of all commands."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of that name, or None where there is none."""
        if name not in COMMANDS:
            return None
        from importlib import import_module

        command: click.Command = import_module(f"onesentence.commands.{name}").command
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands with one sentence for each."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary_of(name)) for name in COMMANDS])

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands whose name begins with `incomplete`, with one sentence for each."""
        return [
            CompletionItem(name, help=summary_of(name)) for name in COMMANDS if name.startswith(incomplete)
        ]


@click.command(cls=Commands, context_settings={"max_content_width": 110})
def cli() -> None:
    """Fine-tune a language model to summarize in one sentence, and measure what each choice is worth.

    For a description with examples: onesentence COMMAND --help
    """


def stop(number: int, _: FrameType | None) -> None:
    """End the program at a signal by an exception, so that temporary files are removed on the way."""
    raise SystemExit(128 + number)


def main() -> None:
    """Run a command. Bad input ends it with one sentence and exit code 1, a wrong option with exit code 2.

    SIGTERM and SIGHUP end it as `stop` does, unless they are ignored on purpose, as nohup does. Commands that
    have more to end set handlers of their own.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    errors.run(cli)
