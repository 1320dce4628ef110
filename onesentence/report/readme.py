"""The parts of the README that are generated."""

from pathlib import Path

from onesentence.core.errors import UserError
from onesentence.core.files import write_text

README = Path("README.md")


def put_into_readme(start: str, end: str, lines: str) -> None:
    """Replace the lines between two markers of the README."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise UserError(f"{README}: the markers {start.strip()} and {end.strip()} are not there")
    write_text(README, before + start + lines + end + after)
