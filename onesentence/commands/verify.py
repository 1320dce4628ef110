"""Check that this machine gives the committed bytes: run the default in a fresh clone, compare dvc.lock.

Clones the committed state of this repository into a temporary folder, copies the inputs that DVC tracks into
it, and runs `dvc repro` there. Then it compares all of dvc.lock: parameters, dependencies and outputs of
every stage, in git or in DVC's cache, folders file by file. It takes as long as `dvc repro` from nothing.

--record writes a description of this machine, as that of the committed numbers, to
benchmarks/results/machine.json.

Run     onesentence verify              (make verify)
        onesentence verify --record
"""

import csv
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from onesentence.commands import documented, require_pipeline
from onesentence.core.errors import UserError
from onesentence.core.files import read_json, write_json
from onesentence.core.machine import machine
from onesentence.core.params import read_yaml
from onesentence.study.clone import output_of_dvc
from onesentence.study.experiments import git, pipeline_here

MACHINE = Path("benchmarks/results/machine.json")
GRAPH, LOCK = "dvc.yaml", "dvc.lock"


def locked(folder: Path) -> dict[str, dict[tuple[str, str], Any]]:
    """The entries of dvc.lock by stage: {(params, key): value, (deps, path): MD5, (outs, path): MD5}.

    Stages are in the order of dvc.yaml, where each follows those it needs. The MD5 of a folder ends in .dir.
    """
    order = list(read_yaml(folder / GRAPH)["stages"])
    stages = read_yaml(folder / LOCK)["stages"]
    result: dict[str, dict[tuple[str, str], Any]] = {}
    # DVC keeps what a stage wrote that the graph no longer has.
    known = [name for name in stages if name.partition("@")[0] in order]
    for name in sorted(known, key=lambda name: (order.index(name.partition("@")[0]), name)):
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
    """The folder of a project's DVC cache."""
    return project / output_of_dvc("--cd", str(project), "cache", "dir")


def files_of(md5: str, cache: Path) -> dict[str, str] | None:
    """MD5 of each file of a cached folder by its path there; None where the cache lacks the folder's list."""
    path = cache / "files/md5" / md5[:2] / md5[2:]
    if not path.is_file():
        return None
    listing: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return {item["relpath"]: item["md5"] for item in listing}


def numbers(path: Path) -> dict[str, float]:
    """Every number of a JSON or CSV file by its place."""
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


def numbers_in(value: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """(dotted keys, number) of the numbers in a JSON value; lists are skipped."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numbers_in(item, f"{where}.{key}" if where else key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield where, float(value)


def distance(here: Path, committed: Path) -> str:
    """How far the numbers of two versions of a file are apart, in words."""
    if not (here.is_file() and committed.is_file()):
        return "differs; one of the two versions is missing, so their numbers cannot be compared"
    left, right = numbers(here), numbers(committed)
    apart = {key: abs(left[key] - right[key]) for key in left if key in right}
    if not apart:
        return "differs, and has no numbers to compare"
    worst = max(apart, key=lambda key: apart[key])
    changed = sum(value > 0 for value in apart.values())
    if not changed:
        return f"differs, but none of its {len(apart):,} numbers does"
    return (
        f"{changed:,} of {len(apart):,} numbers differ, most {worst}: {left[worst]:g} here, "
        f"{right[worst]:g} committed"
    )


def differences(recorded: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """The differences between two machines, one a line."""
    lines = []
    for key in sorted({**recorded, **current}):
        left, right = recorded.get(key), current.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            lines += [f"{key}: {line}" for line in differences(left, right)]
        elif left != right:
            lines.append(f"{key}: {right} here, {left} where the committed numbers were made")
    return lines


def describe(path: str, committed: str | None, here: str | None, root: Path, clone: Path) -> list[str]:
    """Lines on one path with a changed MD5: one for a file, one for each changed file of a folder."""
    if committed is None or here is None:
        return [f"{path}: only {'here' if committed is None else 'in the committed dvc.lock'}"]
    if not (committed.endswith(".dir") and here.endswith(".dir")):
        return [f"{path}: {distance(clone / path, root / path)}"]
    theirs, ours = files_of(committed, cache_folder(root)), files_of(here, cache_folder(clone))
    if theirs is None or ours is None:
        return [f"{path}: differs; run `dvc pull` to see which files of the committed folder differ"]
    lines = []
    for name in sorted({**theirs, **ours}):
        if theirs.get(name) != ours.get(name):
            lines += describe(f"{path}/{name}", theirs.get(name), ours.get(name), root, clone)
    return lines


def report(committed: dict[str, dict[tuple[str, str], Any]], root: Path, clone: Path) -> list[str]:
    """Lines on every difference, the first stage first; empty where dvc.lock equals the committed one.

    committed: `locked` of the clone before its run. A file that several stages name is described once.
    """
    current = locked(clone)
    lines: list[str] = []
    described: set[tuple[str, str]] = set()
    for stage in {**committed, **current}:
        before, after = committed.get(stage, {}), current.get(stage, {})
        changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        if changed and not lines:
            names = ", ".join(f"{kind} {name}" for kind, name in changed)
            lines.append(f"the first stage that differs is {stage}: {names}")
        for kind, name in changed:
            item = "params" if kind == "params" else "file", name
            if item in described:
                continue
            described.add(item)
            left, right = before.get((kind, name)), after.get((kind, name))
            if kind == "params":
                lines.append(f"{stage}: {name}: {right!r} here, {left!r} committed")
            else:
                lines += [f"{stage}: {line}" for line in describe(name, left, right, root, clone)]
    return lines


def bring_inputs(clone: Path, committed: dict[str, dict[tuple[str, str], Any]]) -> None:
    """Copy the inputs that DVC tracks from here into a clone: its cache is empty, so DVC could not.

    DVC checks their hashes there. committed: `locked` of the clone.
    """
    read = {name for entries in committed.values() for kind, name in entries if kind == "deps"}
    for pointer in git("ls-files", "-z", "--", "*.dvc").split("\0")[:-1]:
        place = Path(pointer).with_suffix("")
        if place.as_posix() not in read:
            continue
        if place.is_dir():
            shutil.copytree(place, clone / place, dirs_exist_ok=True)
        elif place.is_file():
            shutil.copy(place, clone / place)
        else:
            raise UserError(
                f"{place}: not found; a stage reads it. Get it with `dvc pull {place}` and try again"
            )


@documented(__doc__)
@click.option("--record", is_flag=True, help="Record this machine as that of the committed numbers.")
def command(record: bool) -> None:
    require_pipeline()
    if record:
        write_json(MACHINE, machine())
        print(f"verify: {MACHINE} describes this machine")
        return
    root = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        clone = Path(name) / "clone"
        git("clone", "--quiet", git("rev-parse", "--show-toplevel").strip(), str(clone))
        clone /= pipeline_here()
        committed = locked(clone)
        bring_inputs(clone, committed)
        done = subprocess.run([sys.executable, "-m", "dvc", "repro", "--no-run-cache"], cwd=clone)
        if done.returncode:
            raise UserError("verify: `dvc repro` failed in a fresh clone; its own error is above")
        lines = report(committed, root, clone)
    if not lines:
        count = sum(len(entries) for entries in committed.values())
        print(
            f"verify: all {count} parameters, dependencies and outputs in dvc.lock are the committed ones, "
            "byte for byte"
        )
        return
    if not MACHINE.is_file():  # a preset's pipeline may lack it
        lines.append(f"no machine of the committed numbers is recorded in {MACHINE}")
    else:
        same = ["this machine is like that of the committed numbers"]
        lines += differences(read_json(MACHINE), machine()) or same
    raise UserError("\n  ".join(["verify: this machine gives other bytes than the committed ones", *lines]))
