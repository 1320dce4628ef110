"""How a stage or command fails: with one sentence on stderr, exit code 1 and no half-written file."""

import argparse
import io
import os
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from onesentence.core import machine_faults, stopping

LEAST_MEMORY = 500_000_000  # bytes of address space; the modules of a stage take up to 400 MB
LONGEST = 20_000  # characters of a message; all problems of a params.yaml together take fewer
TRACEBACK = "ONESENTENCE_TRACEBACK"  # environment variable: show where a fault of the machine was met


def program() -> str:
    """The name of the stage or command that runs."""
    path = Path(sys.argv[0])
    return path.parent.name if path.stem == "__main__" else path.stem


class UserError(Exception):
    """Bad input. The message names the file, line, key or value, what was expected and what to do."""


def shown(text: str, keep: str = "") -> str:
    """A text without secrets; characters that steer a terminal are escapes, except those to `keep`."""
    # Not at the top: another Python reads the packages' docstrings, and it lacks escaping's compiled `regex`.
    from onesentence.core.escaping import visible, without_secrets

    return visible(without_secrets(text), keep=keep)


def sentence(error: UserError) -> str:
    """The message of an error as it is shown: no secret in it, and no character that steers a terminal.

    A message may repeat a name or a value of any length; it ends after LONGEST characters. Its further lines
    are indented; a line break of a value becomes a blank.
    """
    text = shown(re.sub(r"\s*\n(?!  \S)\s*", " ", str(error).strip()), keep="\n")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback as Python does, without the secrets that a library's message may hold."""
    text = "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(shown(text, keep="\n\t"))


def print_fault(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a fault of the machine as one line, and any other error as `print_traceback` does."""
    fault = None if TRACEBACK in os.environ else machine_faults.sentence_of(error)
    if fault is None:
        print_traceback(kind, error, trace)
        return
    with suppress(ImportError, MemoryError, OSError):  # the fault may keep its modules from being loaded
        fault = shown(fault)
    sys.stderr.write(f"error: {program()}: {fault}\n")


def report_while_loading() -> None:
    """Report faults of the machine while a program and its worker processes load their modules, before
    `run`.

    A limit of memory too small for the modules ends the program here: it would end at a random place in a
    library, some of which crash there or print errors of their own.
    """
    sys.excepthook = print_fault
    with suppress(ModuleNotFoundError):  # Windows has no such limits
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY and limit < LEAST_MEMORY:
            sys.exit(
                f"error: memory is limited to {limit // 10**6} MB (ulimit -v), "
                f"{LEAST_MEMORY // 10**6} MB are needed to start; raise the limit, "
                f"then {machine_faults.AGAIN}"
            )


def run(main: Callable[[], None], description: str | None = None) -> None:
    """Call `main`; turn a UserError or a fault of the machine into one line on stderr and exit code 1.

    A stop by a signal ends with one line and the signal's exit code. Other errors propagate.

    description: the help text of a stage that takes no options: --help prints it, any other argument is an
    error. Characters that the terminal's encoding lacks are printed as ?. Files are always UTF-8.
    """
    sys.excepthook = print_traceback
    if isinstance(sys.stdout, io.TextIOWrapper):  # stderr already escapes (backslashreplace)
        sys.stdout.reconfigure(errors="replace")
    if description is not None:
        form = argparse.RawDescriptionHelpFormatter
        argparse.ArgumentParser(description=description, formatter_class=form).parse_args()
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {sentence(error)}")
    except stopping.Stopped as stopped:
        stopping.leave(stopped, program())
    except Exception as error:
        fault = machine_faults.sentence_of(error)
        if fault is None or TRACEBACK in os.environ:
            raise
        sys.exit(f"error: {program()}: {shown(fault)}")
