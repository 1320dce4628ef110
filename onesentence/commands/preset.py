"""Apply a preset, the overlay presets/NAME.yaml, to params.yaml; comments stay, and the diff is shown.

Run     onesentence preset phi2-xsum-t4     (make preset NAME=phi2-xsum-t4)
"""

from pathlib import Path
from typing import Any

import click

from onesentence.commands import documented, edit
from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.escaping import LINES, visible

PRESETS = Path("presets")


def overlay_of(name: str) -> dict[str, Any]:
    """The keys that a preset sets, with their values."""
    if not PRESETS.is_dir():
        raise UserError(
            f"preset {name!r}: no folder {PRESETS} here; run the command in the repository's root"
        )
    path = PRESETS / f"{name}.yaml"
    known = sorted(file.stem for file in PRESETS.glob("*.yaml"))
    if name not in known:
        raise UserError(f"preset {name!r}: {path} not found (expected one of {', '.join(known)})")
    return params.read_yaml(path)


@documented(__doc__)
@click.argument("name")
def command(name: str) -> None:
    diff = edit.apply(overlay_of(name), f"{PRESETS}/{name}.yaml")
    print(
        visible(diff, keep=LINES) or f"{params.PARAMS_FILE} already has every value of {PRESETS}/{name}.yaml"
    )
