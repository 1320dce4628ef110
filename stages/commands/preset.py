"""Apply a preset: an overlay on params.yaml in presets/NAME.yaml, comments kept, the diff shown.

Run     make preset NAME=phi2-xsum-t4    (python -m stages.commands.preset phi2-xsum-t4)
"""

import argparse
from pathlib import Path

from stages.commands import edit
from stages.common import errors, params
from stages.common.errors import UserError

PRESETS = Path("presets")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name")
    name = parser.parse_args().name
    path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PRESETS.glob("*.yaml")))
        raise UserError(f"preset {name!r}: {path} not found; there are {known}")
    diff = edit.apply(params.read_yaml(path), str(path))
    print(diff or f"{params.PARAMS_FILE} already has every value of {path}")


if __name__ == "__main__":
    errors.run(main)
