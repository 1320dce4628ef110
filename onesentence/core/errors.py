"""How a stage or command fails: with one sentence on stderr, exit code 1 and no half-written file."""

import argparse
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

from onesentence.core import machine_faults, stopping

TRACEBACK = "ONESENTENCE_TRACEBACK"  # environment variable: show where a fault of the machine was met


def program() -> str:
    """The name of the stage or command that runs."""
    path = Path(sys.argv[0])
    return path.parent.name if path.stem == "__main__" else path.stem


class UserError(Exception):
    """Bad input. The message names the file, line, key or value, what was expected and what to do."""


def run(main: Callable[[], None], description: str | None = None) -> None:
    """Call `main`; turn a UserError or a fault of the machine into one line on stderr and exit code 1.

    A stop by a signal ends with one line and the signal's exit code. Other errors propagate.

    description: the help text of a stage that takes no options: --help prints it, any other argument is an
    error. Characters that the terminal's encoding lacks are printed as ?. Files are always UTF-8.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # stderr already escapes (backslashreplace)
        sys.stdout.reconfigure(errors="replace")
    if description is not None:
        form = argparse.RawDescriptionHelpFormatter
        argparse.ArgumentParser(description=description, formatter_class=form).parse_args()
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except stopping.Stopped as stopped:
        stopping.leave(stopped, program())
    except Exception as error:
        sentence = machine_faults.sentence_of(error)
        if sentence is None or TRACEBACK in os.environ:
            raise
        sys.exit(f"error: {program()}: {sentence}")
