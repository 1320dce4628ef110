"""How a stage fails: one sentence on stderr, exit code 1, nothing half-written."""

import argparse
import io
import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input. The message names the file, line, key or value, what was expected, what to do."""


def run(main: Callable[[], None], description: str | None = None) -> None:
    """Call `main`; turn a UserError into one line on stderr and exit code 1. Other errors propagate.

    description: of a stage that takes no options: --help prints it, anything else is refused. What the
    terminal's encoding does not have is printed as ?; files are UTF-8 whatever the terminal is.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # stderr escapes by itself (Python's backslashreplace)
        sys.stdout.reconfigure(errors="replace")
    if description is not None:
        form = argparse.RawDescriptionHelpFormatter
        argparse.ArgumentParser(description=description, formatter_class=form).parse_args()
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
