"""Run the graph on 10, 100, 1,000 and all the rows that params.yaml asks for; stop at the first failure.

Each rung is a DVC experiment in a temporary folder (`dvc exp run --temp`): the workspace keeps its results,
and a failure at 10 rows costs minutes.

Run     onesentence ladder      (make ladder)
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from onesentence.commands import documented
from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.params import SPLITS
from onesentence.core.pool import Pool
from onesentence.data.cleaning import clean, read_rows
from onesentence.data.sources import open_source

RUNGS = (10, 100, 1_000, None)


def overrides(rung: int | None, sizes: dict[str, int | None], kept: dict[str, int]) -> list[str]:
    """The `-S` options of a rung: no split is larger than the rung, its rows, or its size in params.yaml.

    sizes: of params.yaml; kept: rows that cleaning and data.selection leave.
    """
    options: list[str] = []
    for split, size in sizes.items():
        value = size if rung is None else min(rung, kept[split], size or kept[split])
        options += ["-S", f"data.{split}_size={'null' if value is None else value}"]
    if rung is not None:
        options += ["-S", "train.epochs=1", "-S", "train.steps=null", "-S", f"smoke.examples={min(10, rung)}"]
    return options


def kept_rows(cleaned: dict[str, int], selection: str) -> dict[str, int]:
    """The rows of each split that data.selection leaves of those that cleaning leaves."""
    half = selection == "novel_half"  # rounded up, as `most_novel_half` takes it
    return {**cleaned, "train": (cleaned["train"] + 1) // 2 if half else cleaned["train"]}


@documented(__doc__)
def command() -> None:
    p = params.load(("data", "evaluate.language"))
    data = p.data
    sizes = {split: getattr(data, f"{split}_size") for split in SPLITS}
    with TemporaryDirectory() as folder, Pool() as pool:
        read = read_rows(open_source(data), pool, p.evaluate.language, Path(folder) / "rows")
        cleaned, _ = clean(read, data.group_column is not None)
    kept = kept_rows({split: len(rows) for split, rows in cleaned.items()}, data.selection)
    largest = max(sizes[split] or kept[split] for split in SPLITS)
    for rung in RUNGS:
        if rung is not None and rung >= largest:
            continue  # the same run as all rows
        name = "all" if rung is None else f"{rung:,}"
        print(f"ladder: {name} rows", flush=True)
        command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", *overrides(rung, sizes, kept)]
        if subprocess.run(command, check=False).returncode:
            raise UserError(
                f"ladder: {name} rows failed, and larger rungs were not started; see the error above"
            )
    print("ladder: every rung passed; `dvc exp show` lists them")
