"""Apply a preset: an overlay on params.yaml in presets/NAME.yaml, comments kept, the diff shown.

Run     onesentence preset phi2-xsum-t4     (make preset NAME=phi2-xsum-t4)
"""

from pathlib import Path

import click

from onesentence.commands import documented, edit
from onesentence.core import params
from onesentence.core.errors import UserError

PRESETS = Path("presets")


def overlay_of(name: str) -> dict:
    """The keys that a preset sets."""
    path = PRESETS / f"{name}.yaml"
    known = sorted(file.stem for file in PRESETS.glob("*.yaml"))
    if name not in known:
        raise UserError(f"preset {name!r}: {path} not found; there are {', '.join(known)}")
    return params.read_yaml(path)


@documented(__doc__)
@click.argument("name")
def command(name: str) -> None:
    diff = edit.apply(overlay_of(name), f"{PRESETS}/{name}.yaml")
    print(diff or f"{params.PARAMS_FILE} already has every value of {PRESETS}/{name}.yaml")
