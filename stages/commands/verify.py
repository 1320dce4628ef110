"""Does this machine give the committed bytes? The default in a fresh clone, compared output by output.

Clones the committed state of this repository into a temporary folder, runs `dvc repro` there, and compares
every output of every stage with dvc.lock. Takes as long as the whole study.

Run     python -m stages.commands.verify [--record]    (`make verify`)

--record writes what this machine is to benchmarks/results/machine.json: that of the committed numbers.
"""

import argparse
import csv
import json
import subprocess
import tempfile
from pathlib import Path

from stages.common import errors
from stages.common.errors import UserError
from stages.common.files import read_json, write_json
from stages.common.machine import machine
from stages.common.params import read_yaml

MACHINE = Path("benchmarks/results/machine.json")
GRAPH, LOCK = "dvc.yaml", "dvc.lock"


def outputs(folder: Path) -> dict[str, dict[str, str]]:
    """Hashes of the outputs by stage, in the order of dvc.yaml, where each stage follows those it needs."""
    order = list(read_yaml(folder / GRAPH)["stages"])
    locked = read_yaml(folder / LOCK)["stages"]
    return {
        name: {out["path"]: out["md5"] for out in locked[name].get("outs", [])}
        for name in sorted(locked, key=lambda name: (order.index(name.partition("@")[0]), name))
    }


def numbers(path: Path) -> dict[str, float]:
    """Every number of a JSON or CSV file by where it stands."""
    found: dict[str, float] = {}
    if path.suffix == ".json":

        def walk(value, where: str) -> None:
            if isinstance(value, dict):
                for key, item in value.items():
                    walk(item, f"{where}.{key}" if where else key)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                found[where] = float(value)

        walk(json.loads(path.read_text(encoding="utf-8")), "")
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            for row, cells in enumerate(csv.reader(file)):
                for column, cell in enumerate(cells):
                    try:
                        found[f"row {row + 1}, column {column + 1}"] = float(cell)
                    except ValueError:
                        continue
    return found


def distance(here: Path, there: Path) -> str:
    """How far the numbers of two versions of a file are apart, in words."""
    if not (here.is_file() and there.is_file()):
        return "is not there on both sides"
    left, right = numbers(here), numbers(there)
    apart = {key: abs(left[key] - right[key]) for key in left if key in right}
    if not apart:
        return "differs, and holds no numbers to compare"
    worst = max(apart, key=apart.get)
    changed = sum(value > 0 for value in apart.values())
    return (
        f"{changed:,} of {len(apart):,} numbers differ, most of all {worst}: {left[worst]:g} here, "
        f"{right[worst]:g} committed"
    )


def differences(recorded: dict, found: dict) -> list[str]:
    """What differs between two machines, a line each."""
    lines = []
    for key in sorted({**recorded, **found}):
        left, right = recorded.get(key), found.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            lines += [f"{key}: {line}" for line in differences(left, right)]
        elif left != right:
            lines.append(f"{key}: {right} here, {left} where the committed numbers were made")
    return lines


def report(root: Path, clone: Path) -> list[str]:
    """Lines that say what differs; none where every output is the committed one."""
    committed, found = outputs(root), outputs(clone)
    lines = []
    for stage, outs in committed.items():
        changed = [path for path, md5 in outs.items() if found.get(stage, {}).get(path) != md5]
        if changed and not lines:
            lines.append(f"the first stage that differs is {stage}: {', '.join(changed)}")
        lines += [
            f"{path}: {distance(clone / path, root / path)}" for path in changed if not (root / path).is_dir()
        ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--record", action="store_true", help="this machine is that of the committed numbers")
    if parser.parse_args().record:
        write_json(MACHINE, machine())
        print(f"verify: {MACHINE} describes this machine")
        return
    root = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        clone = Path(name) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(root), str(clone)], check=True)
        subprocess.run(["dvc", "repro", "--no-run-cache"], cwd=clone, check=True)
        lines = report(root, clone)
    if not lines:
        print("verify: every output of every stage is the committed one, byte for byte")
        return
    lines += differences(read_json(MACHINE), machine()) or [
        "this machine is like that of the committed numbers"
    ]
    raise UserError("\n  ".join(["verify: this machine gives other bytes", *lines]))


if __name__ == "__main__":
    errors.run(main)
