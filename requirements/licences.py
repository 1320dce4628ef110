"""Write docs/licences.md: the licence of every package that a lock pins, read from the installed packages.

Run     make licences                 after a change of a lock
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from onesentence.core.errors import UserError, run
from onesentence.core.escaping import markdown_cell
from onesentence.core.files import write_text
from requirements.lock import CUDA, FOLDER, LOCKS, TORCH, Pin, normalized, pins

TOOL = Path(".venv-tools/bin/pip-licenses")
PAGE = Path("docs/licences.md")
INSTALLED_NOWHERE = ("export", CUDA)  # locks whose packages this machine may lack
UNKNOWN = "not installed where this page was written"
COPYLEFT = re.compile(r"\b(?:A?L?GPL|GNU|MPL|Mozilla|EPL)")
PURPOSES = {
    "main": "the pipeline",
    "build": "building packages from source",
    "tests": "tests and lint",
    "docs": "the documentation site",
    "models": "base models and export",
    "serving": "the service",
    "export": "llama.cpp",
    "scheduler": "studies on several machines",
    "benchmarks": "benchmarks",
    "tools": "lock, audit, licences",
    TORCH: "the pipeline",
    CUDA: "torch with CUDA",
}
INTRODUCTION = """# Licences

The licence of every package that a lock in `requirements/` pins, as the package itself declares it.
`make licences` writes this page from the installed packages. This project is under the MIT licence and has
none of them inside. Its own licence is in `LICENSE`, those of the shipped models are in `models/README.md`.

"""
COPYLEFT_NOTE = """A version or a choice of these licences is copyleft. The packages are installed beside
this project and used by import or as commands; none is copied into it. Whoever passes on an environment or
an image with them inside passes on their terms as well.

"""
CUDA_NOTE = """
The packages for CUDA (`nvidia-*`, `cuda-*`) are under terms of NVIDIA's own, which limit passing them on.
"""
HEADER = "| package | version | licence | for |\n| --- | --- | --- | --- |\n"


def declared(python: Path) -> dict[str, str]:
    """The licence by package of an environment, as pip-licenses reads it."""
    command = [str(TOOL), "--python", str(python), "--from=mixed", "--format=json", "--with-system"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(
            f"{TOOL}: failed ({result.stderr.strip()[-200:]}); run `make licences`, which installs it"
        )
    return {normalized(row["Name"]): " ".join(row["License"].split()) for row in json.loads(result.stdout)}


def rows(locked: dict[str, list[Pin]], licences: dict[str, str]) -> list[tuple[str, str, str, str]]:
    """(package, version, licence, what it is for) of every pin, sorted, each once."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for name, purpose in PURPOSES.items():
        for pin in locked[name]:
            licence = licences.get(pin.name)
            if licence is None and name not in INSTALLED_NOWHERE:
                raise UserError(
                    f"{pin.name}: not installed, so its licence is not known; run `make licences`"
                )
            found.setdefault((pin.name, pin.version), (licence or UNKNOWN, purpose))
    return [(*key, *value) for key, value in sorted(found.items())]


def page(table: list[tuple[str, str, str, str]]) -> str:
    """The page of a table of `rows`."""
    copyleft = [
        f"- `{name}`: {markdown_cell(licence)}\n" for name, _, licence, _ in table if COPYLEFT.search(licence)
    ]
    lines = [f"| {' | '.join(map(markdown_cell, row))} |\n" for row in table]
    parts = (INTRODUCTION, f"## Copyleft, {len(copyleft)} packages\n\n", COPYLEFT_NOTE, *copyleft, CUDA_NOTE)
    return "".join((*parts, f"\n## All {len(table)} packages\n\n", HEADER, *lines))


def main() -> None:
    licences = declared(TOOL.with_name("python")) | declared(Path(sys.executable))
    locked = {
        name: pins((FOLDER / f"{name}.lock").read_text(encoding="utf-8")) for name in (*LOCKS, TORCH, CUDA)
    }
    table = rows(locked, licences)
    write_text(PAGE, page(table))
    print(f"licences: {PAGE}, {len(table)} packages")


if __name__ == "__main__":
    run(main)
