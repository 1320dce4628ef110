"""How a stage or command fails: with one sentence on stderr, exit code 1 and no half-written file."""

import argparse
import io
import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input. The message names the file, line, key or value, what was expected and what to do."""


def run(main: Callable[[], None], description: str | None = None) -> None:
    """Call `main`; turn a UserError into one line on stderr and exit code 1. Other errors propagate.

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
