"""Use one's own articles: copy them to data/local, track them with DVC, point params.yaml at them.

FROM is one .jsonl, .csv or .parquet file, or a folder with one such file for each of train, validation
and test. A single file is split by a hash of each document.

Run     make data FROM=PATH    (python -m stages.commands.data PATH)
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from stages.commands import edit
from stages.common import errors, params
from stages.common.errors import UserError
from stages.common.files import replacing
from stages.common.params import SPLITS
from stages.common.sources import FORMATS, open_source, split_file

LOCAL = Path("data/local")


def copy(source: Path, target: Path) -> Path:
    """Copy the data into the folder `target`; returns what data.path must name."""
    if source.is_dir():
        files = [split_file(source, split) for split in SPLITS]
    elif source.is_file() and source.suffix in FORMATS:
        files = [source]
    elif source.exists():
        raise UserError(f"FROM: {source}: expected a folder or one of {', '.join(FORMATS)}")
    else:
        raise UserError(f"FROM: {source} not found")
    with replacing(target) as folder:
        folder.mkdir()
        for file in files:
            shutil.copyfile(file, folder / file.name)
    return target if source.is_dir() else target / source.name


def dvc_add(path: Path) -> None:
    """Track `path` with DVC, with the dvc of this Python."""
    result = subprocess.run(
        [sys.executable, "-m", "dvc", "add", "--quiet", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise UserError(f"dvc add {path} failed: {' '.join(result.stderr.split())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, metavar="PATH")
    parser.add_argument("--document-column", help="where it is not the one in params.yaml")
    parser.add_argument("--summary-column", help="where it is not the one in params.yaml")
    arguments = parser.parse_args()
    data = params.load(("data",)).data
    columns = {
        "document_column": arguments.document_column or data.document_column,
        "summary_column": arguments.summary_column or data.summary_column,
    }
    # Read all of it where it lies, so that a bad row is found before anything is copied.
    given = SimpleNamespace(source="local", path=str(arguments.source), **columns)
    rows = {split: sum(1 for _ in found) for split, found in open_source(given).splits.items()}
    path = copy(arguments.source, LOCAL)
    dvc_add(LOCAL)
    diff = edit.apply({"data": {"source": "local", "path": str(path), "revision": None, **columns}}, "data")
    print(diff or "params.yaml already pointed at the data")
    sizes = {split: getattr(data, f"{split}_size") for split in SPLITS}
    for split, size in sizes.items():
        if size is not None and size > rows[split]:
            print(
                f"data.{split}_size asks for {size:,} rows, {split} has {rows[split]:,}: lower it or use null"
            )
    print("Next: git add data/local.dvc data/.gitignore params.yaml, then dvc repro")


if __name__ == "__main__":
    errors.run(main)
