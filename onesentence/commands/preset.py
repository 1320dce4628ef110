"""Apply a preset: an overlay on params.yaml in presets/NAME.yaml, comments kept, the diff shown.

Run     make preset NAME=phi2-xsum-t4    (python -m onesentence.commands.preset phi2-xsum-t4)
"""

import argparse
from pathlib import Path

from onesentence.commands import edit
from onesentence.core import errors, params
from onesentence.core.errors import UserError

PRESETS = Path("presets")


def overlay_of(name: str) -> dict:
    """The keys that a preset sets."""
    path = PRESETS / f"{name}.yaml"
    known = sorted(file.stem for file in PRESETS.glob("*.yaml"))
    if name not in known:
        raise UserError(f"preset {name!r}: {path} not found; there are {', '.join(known)}")
    return params.read_yaml(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name")
    name = parser.parse_args().name
    diff = edit.apply(overlay_of(name), f"{PRESETS}/{name}.yaml")
    print(diff or f"{params.PARAMS_FILE} already has every value of {PRESETS}/{name}.yaml")


if __name__ == "__main__":
    errors.run(main)
