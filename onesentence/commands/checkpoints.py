"""List the checkpoints of stages that were stopped, or remove them.

A stage that is killed goes on from its checkpoint when the same command runs again. Checkpoints lie in
models/checkpoints, or in the folder that the environment variable ONESENTENCE_CHECKPOINTS names.

Run     onesentence checkpoints
        onesentence checkpoints --clean
        onesentence checkpoints --clean --older-than 7
"""

import click

from onesentence.commands import documented
from onesentence.core import checkpoints
from onesentence.core.errors import UserError
from onesentence.report.terminal import print_table

DAY = 86_400  # seconds
UNITS = ("bytes", "kB", "MB", "GB", "TB")


def size_text(size: float) -> str:
    """A number of bytes with its unit: 13.7 MB."""
    power = 0
    while size >= 1000 and power < len(UNITS) - 1:
        size, power = size / 1000, power + 1
    return f"{size:,.{min(power, 1)}f} {UNITS[power]}"


def age_text(seconds: float) -> str:
    """How long ago: 5 minutes, 3 hours, 12 days."""
    for length, unit in ((DAY, "day"), (3_600, "hour"), (60, "minute")):
        count = int(seconds // length)
        if count:
            return f"{count:,} {unit}{'s' * (count > 1)}"
    return "under a minute"


@documented(__doc__)
@click.option("--clean", is_flag=True, help="Remove those that no process uses.")
@click.option("--older-than", type=float, metavar="DAYS", help="Only those that were last written before.")
def command(clean: bool, older_than: float | None) -> None:
    if older_than is not None and not older_than >= 0:  # nan is neither
        raise UserError(f"--older-than: expected a number of days from 0, found {older_than:g}")
    found = [entry for entry in checkpoints.stored() if entry.age >= (older_than or 0) * DAY]
    if not found:
        print(f"checkpoints: none in {checkpoints.root()}")
        return
    if clean:
        removed = [entry for entry in found if checkpoints.remove(entry.folder)]
        size = size_text(sum(entry.size for entry in removed))
        kept = f"; {len(found) - len(removed)} in use" if len(removed) < len(found) else ""
        print(f"checkpoints: {len(removed)} removed ({size}){kept}")
        return
    rows = [
        [entry.folder.name, entry.progress, entry.state, size_text(entry.size), f"{age_text(entry.age)} ago"]
        for entry in found
    ]
    columns = ["folder", "progress", "state", "size", "last written"]
    print_table(f"Checkpoints in {checkpoints.root()}", columns, rows)
