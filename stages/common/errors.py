"""How a stage fails: one sentence on stderr, exit code 1, nothing half-written."""

import argparse
import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input. The message names the file, line, key or value, what was expected, what to do."""


def run(main: Callable[[], None], description: str | None = None) -> None:
    """Call `main`; turn a UserError into one line on stderr and exit code 1. Other errors propagate.

    description: of a stage that takes no options: --help prints it, anything else is refused.
    """
    if description is not None:
        form = argparse.RawDescriptionHelpFormatter
        argparse.ArgumentParser(description=description, formatter_class=form).parse_args()
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
