"""Does this machine give the committed bytes? The default in a fresh clone, compared with dvc.lock.

Clones the committed state of this repository into a temporary folder, runs `dvc repro` there, and compares
all of dvc.lock: parameters, dependencies and outputs of every stage, those that git holds and those that DVC
caches, folders file by file. Takes as long as the whole study.

--record writes what this machine is to benchmarks/results/machine.json: that of the committed numbers.

Run     onesentence verify              (make verify)
        onesentence verify --record
"""

import csv
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from onesentence.commands import documented
from onesentence.core.errors import UserError
from onesentence.core.files import read_json, write_json
from onesentence.core.machine import machine
from onesentence.core.params import read_yaml

MACHINE = Path("benchmarks/results/machine.json")
GRAPH, LOCK = "dvc.yaml", "dvc.lock"


def locked(folder: Path) -> dict[str, dict[tuple[str, str], object]]:
    """What dvc.lock says of each stage, in the order of dvc.yaml, where each stage follows those it needs:
    {stage: {(params, key): value, (deps, path): MD5, (outs, path): MD5}}; that of a folder ends in .dir."""
    order = list(read_yaml(folder / GRAPH)["stages"])
    stages = read_yaml(folder / LOCK)["stages"]
    result: dict[str, dict[tuple[str, str], object]] = {}
    for name in sorted(stages, key=lambda name: (order.index(name.partition("@")[0]), name)):
        entry = stages[name]
        result[name] = {
            ("params", f"{file}: {key}"): value
            for file, values in entry.get("params", {}).items()
            for key, value in values.items()
        }
        for kind in ("deps", "outs"):
            result[name] |= {(kind, item["path"]): item.get("md5") for item in entry.get(kind, [])}
    return result


def cache_folder(project: Path) -> Path:
    """Where DVC keeps a project's files."""
    shown = subprocess.run(["dvc", "cache", "dir"], cwd=project, check=True, capture_output=True, text=True)
    return project / shown.stdout.strip()


def files_of(md5: str, cache: Path) -> dict[str, str] | None:
    """MD5 of each file of a cached folder by its path in it; None where the cache lacks the folder's list."""
    path = cache / "files/md5" / md5[:2] / md5[2:]
    if not path.is_file():
        return None
    return {item["relpath"]: item["md5"] for item in read_json(path)}


def numbers(path: Path) -> dict[str, float]:
    """Every number of a JSON or CSV file by where it stands."""
    if path.suffix == ".json":
        return dict(numbers_in(json.loads(path.read_text(encoding="utf-8"))))
    if path.suffix != ".csv":
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        cells = {
            f"row {row}, column {column}": cell
            for row, line in enumerate(csv.reader(file), start=1)
            for column, cell in enumerate(line, start=1)
        }
    return {place: float(cell) for place, cell in cells.items() if is_number(cell)}


def is_number(cell: str) -> bool:
    """Whether a cell of a table holds a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def numbers_in(value, where: str = "") -> Iterator[tuple[str, float]]:
    """(dotted keys, number) of what a JSON value holds; lists are not looked into."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numbers_in(item, f"{where}.{key}" if where else key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield where, float(value)


def distance(here: Path, there: Path) -> str:
    """How far the numbers of two versions of a file are apart, in words."""
    if not (here.is_file() and there.is_file()):
        return "differs; one of the two versions is missing, so their numbers cannot be compared"
    left, right = numbers(here), numbers(there)
    apart = {key: abs(left[key] - right[key]) for key in left if key in right}
    if not apart:
        return "differs, and holds no numbers to compare"
    worst = max(apart, key=apart.get)
    changed = sum(value > 0 for value in apart.values())
    if not changed:
        return f"differs, in none of its {len(apart):,} numbers"
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


def describe(path: str, committed: object, here: object, root: Path, clone: Path) -> list[str]:
    """Lines on one path whose MD5 is another one: a line a file of a folder, a line for a file."""
    if committed is None or here is None:
        return [f"{path}: only {'here' if committed is None else 'in the committed dvc.lock'}"]
    if not (str(committed).endswith(".dir") and str(here).endswith(".dir")):
        return [f"{path}: {distance(clone / path, root / path)}"]
    there, ours = files_of(committed, cache_folder(root)), files_of(here, cache_folder(clone))
    if there is None or ours is None:
        return [f"{path}: differs; run `dvc pull` for the committed folder, to see which of its files do"]
    lines = []
    for name in sorted({**there, **ours}):
        if there.get(name) != ours.get(name):
            lines += describe(f"{path}/{name}", there.get(name), ours.get(name), root, clone)
    return lines


def report(committed: dict, root: Path, clone: Path) -> list[str]:
    """Lines that say what differs, the first stage first; none where all of dvc.lock is the committed one.

    committed: `locked` of the clone before it was run. A file that several stages name is described once.
    """
    found = locked(clone)
    lines: list[str] = []
    described: set[tuple[str, str]] = set()
    for stage in {**committed, **found}:
        before, after = committed.get(stage, {}), found.get(stage, {})
        changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        if changed and not lines:
            names = ", ".join(f"{kind} {name}" for kind, name in changed)
            lines.append(f"the first stage that differs is {stage}: {names}")
        for kind, name in changed:
            what = "params" if kind == "params" else "file", name
            if what in described:
                continue
            described.add(what)
            left, right = before.get((kind, name)), after.get((kind, name))
            if kind == "params":
                lines.append(f"{stage}: {name}: {right!r} here, {left!r} committed")
            else:
                lines += [f"{stage}: {line}" for line in describe(name, left, right, root, clone)]
    return lines


@documented(__doc__)
@click.option("--record", is_flag=True, help="This machine is that of the committed numbers.")
def command(record: bool) -> None:
    if record:
        write_json(MACHINE, machine())
        print(f"verify: {MACHINE} describes this machine")
        return
    root = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        clone = Path(name) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(root), str(clone)], check=True)
        committed = locked(clone)
        subprocess.run(["dvc", "repro", "--no-run-cache"], cwd=clone, check=True)
        lines = report(committed, root, clone)
    if not lines:
        count = sum(len(entries) for entries in committed.values())
        print(
            f"verify: all {count} parameters, dependencies and outputs in dvc.lock are the committed ones, "
            "byte for byte"
        )
        return
    lines += differences(read_json(MACHINE), machine()) or [
        "this machine is like that of the committed numbers"
    ]
    raise UserError("\n  ".join(["verify: this machine gives other bytes", *lines]))
