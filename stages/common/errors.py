"""How a stage fails: one sentence on stderr, exit code 1, nothing half-written."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input. The message names the file, line, key or value, what was expected, what to do."""


def run(main: Callable[[], None]) -> None:
    """Call `main`; turn a UserError into one line on stderr and exit code 1. Other errors propagate."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
