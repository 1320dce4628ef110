"""Use your own articles: copy them to data/local, track them with DVC, point params.yaml at them.

PATH is one file or a folder with one file for each of train, validation and test (.jsonl, .json, .csv, .tsv,
.parquet). A single file is split by a hash of each document, or of each group (--group-column). A PATH inside
data/local is used in place. Files in data/local that this command did not write stay as they are. If a step
fails, everything is restored.

Run     onesentence data articles.jsonl                          (make data FROM=articles.jsonl)
        onesentence data folder --group-column newspaper         (make data FROM=folder GROUP=newspaper)
"""

import fcntl
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from ruamel.yaml import YAML

from onesentence.commands import documented, edit
from onesentence.core import params
from onesentence.core.checkpoints import NO_LOCKS
from onesentence.core.errors import UserError
from onesentence.core.escaping import LINES, on_one_line, visible
from onesentence.core.files import atomic_write, file_sha256, read_json, restore, restoring
from onesentence.core.params import PARAMS_FILE, SPLITS, Data, part_of
from onesentence.core.pool import Pool
from onesentence.data.records import EXPECTED, format_of
from onesentence.data.sources import LOCAL, open_source, split_file, split_files
from onesentence.study.experiments import pipeline_here

TRACKED = Path("data/local.dvc")  # its `meta` lists the files of data/local that this command wrote
WRITTEN = "make data wrote"
IGNORED = Path("data/.gitignore")
JOURNAL = Path("data/.local.old")
ASIDE = "data/local.interrupted"  # and a number: what a killed run, or the user since then, left


def given_files(source: Path) -> list[Path]:
    """The files that PATH names: one, or one for each split."""
    if source.is_dir():
        return [split_file(source, split) for split in SPLITS]
    if not source.exists():
        raise UserError(f"FROM: {source} not found")
    if not source.is_file() or format_of(source) is None:
        raise UserError(f"FROM: {source}: expected a folder or one of {EXPECTED}")
    return [source]


def written_before() -> dict[str, str]:
    """SHA-256 by name of the files in data/local that this command wrote."""
    if not TRACKED.is_file():
        return {}
    meta = params.read_yaml(TRACKED).get("meta")
    written = meta.get(WRITTEN) if isinstance(meta, dict) else None
    return written if isinstance(written, dict) else {}


def own_files() -> list[Path]:
    """Files in data/local that are unchanged since this command wrote them; a changed one is the user's.

    With DVC's `cache.type symlink` they are links into its cache.
    """
    files = {LOCAL / name: digest for name, digest in written_before().items()}
    return [file for file, digest in files.items() if file.is_file() and file_sha256(file) == digest]


def check_place(files: list[Path], own: list[Path]) -> None:
    """Raise a UserError where copies of `files` in data/local would replace or join the user's own files."""
    if LOCAL.exists() and not LOCAL.is_dir():
        raise UserError(f"{LOCAL}: expected a folder, found a file; move it elsewhere")
    rivals = [LOCAL / file.name for file in files]
    if len(files) > 1 and LOCAL.is_dir():  # a folder has one file for each split
        rivals += [file for split in SPLITS for file in split_files(LOCAL, split)]
    for rival in rivals:
        if rival not in own and (rival.exists() or rival.is_symlink()):
            raise UserError(
                f"{rival}: not replaced, since `make data` did not write it or it has changed; move it out "
                "of the folder"
            )


def place(files: list[Path], own: list[Path]) -> None:
    """Copy `files` into data/local and remove those that this command wrote before."""
    with TemporaryDirectory(dir=LOCAL.parent, prefix=".local.", suffix=".tmp") as name:
        copies = Path(name)
        for file in files:
            shutil.copyfile(file, copies / file.name)
        for file in own:
            file.unlink()
        LOCAL.mkdir(exist_ok=True)
        for file in files:
            (copies / file.name).replace(LOCAL / file.name)


def track(names: list[str]) -> None:
    """Track data/local with the dvc of this Python, and record the files in it that this command wrote."""
    result = subprocess.run(
        [sys.executable, "-m", "dvc", "add", str(LOCAL)],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if result.returncode:
        lines = (result.stderr + result.stdout).splitlines()
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no message"]
        raise UserError(f"dvc add {LOCAL} failed, nothing was changed: {' '.join(' '.join(errors).split())}")
    yaml = YAML()
    document = yaml.load(TRACKED.read_text(encoding="utf-8"))
    written = {name: file_sha256(LOCAL / name) for name in names}
    document["meta"] = {**document.get("meta", {}), WRITTEN: written}
    with atomic_write(TRACKED) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        yaml.dump(document, file)


def rows_by_split(source: Path, columns: dict[str, str | None]) -> dict[str, int]:
    """Number of rows by split. Reads all of them in place: a bad row is found before anything is copied."""
    data = part_of(Data, {"source": "local", "watch": str(source), **columns})
    rows = dict.fromkeys(SPLITS, 0)
    with Pool() as pool:
        for batch, _ in open_source(data).batches(pool):
            for number, split in enumerate(SPLITS):
                rows[split] += int((batch.sides == number).sum())
    empty = [split for split in SPLITS if not rows[split]]
    if empty:
        parts = "groups" if columns["group_column"] else "rows"
        raise UserError(
            f"FROM: {source}: no row for {', '.join(empty)}; give more {parts}, or a folder with a file for "
            "each of train, validation and test"
        )
    return rows


def use(source: Path, columns: dict[str, str | None]) -> str:
    """Put the data in place, track it and point params.yaml at it, all or nothing; returns the diff."""
    files, own = given_files(source), own_files()
    # Also with its last part as it is named: a file in data/local may be a link into DVC's cache.
    local, named = LOCAL.resolve(), source.parent.resolve() / source.name
    places = [place for place in (named, source.resolve()) if place.is_relative_to(local)]
    inside = bool(places)
    if inside:
        path = LOCAL / places[0].relative_to(local)
        names = [file.relative_to(LOCAL).as_posix() for file in own]
    else:
        check_place(files, own)
        path = LOCAL if source.is_dir() else LOCAL / source.name
        names = [file.name for file in files]
    changed = [] if inside else [*own, *(LOCAL / name for name in names)]
    with restoring(list(dict.fromkeys([PARAMS_FILE, TRACKED, IGNORED, *changed])), JOURNAL):
        if not inside:
            place(files, own)
        track(names)
        change = {"source": "local", "watch": str(path), "revision": None, "sha256": None, **columns}
        return edit.apply({"data": change}, "data")


def next_steps(pipeline: str) -> str:
    """What to run now. pipeline: a preset's folder from the repository's root, or "" for the default's."""
    names = TRACKED, IGNORED, PARAMS_FILE
    if not pipeline:
        return f"Next: git add {' '.join(map(str, names))}, then dvc repro"
    files = " ".join(f"{pipeline}/{name}" for name in names)
    return f"Next, in the repository's root: git add {files}, then make repro PRESET={Path(pipeline).name}"


@documented(__doc__)
@click.argument("source", metavar="PATH", type=Path)
@click.option("--document-column", help="If it is not the one in params.yaml.")
@click.option("--summary-column", help="If it is not the one in params.yaml.")
@click.option("--group-column", help="The unit that rows were sampled by, such as an author.")
def command(
    source: Path, document_column: str | None, summary_column: str | None, group_column: str | None
) -> None:
    if not JOURNAL.is_dir():  # else params.yaml may wait there to be restored
        params.load(("data",))  # a wrong folder changes nothing
    with alone():
        use_given(source, document_column, summary_column, group_column)


@contextmanager
def alone() -> Iterator[None]:
    """Hold the folder data/ against another `make data`; a UserError where one is running.

    A second one would take the first one's journal for that of a killed run, and restore its files.
    """
    LOCAL.parent.mkdir(exist_ok=True)
    lock = os.open(LOCAL.parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError("data: another `make data` is running here; wait until it has ended") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
    finally:
        os.close(lock)


def set_aside() -> Path | None:
    """Move the files that a killed `make data` may have changed to a new folder, before they are restored.

    They may have been edited since. Returns the folder, or None where no run was killed or no file is left.
    """
    record = JOURNAL / "journal.json"
    if not record.is_file():
        return None
    kept = read_json(record)
    changed = [
        path
        for number, path in enumerate(map(Path, kept["paths"]))
        if (path.is_symlink() or path.exists())
        # A file that was there before, and has no copy any more, was restored by a call that was stopped.
        and not (kept["existed"][number] and not os.path.lexists(JOURNAL / str(number)))
    ]
    if not changed:
        return None
    number = next(n for n in itertools.count(1) if not Path(f"{ASIDE}-{n}").exists())
    folder = Path(f"{ASIDE}-{number}")
    for path in changed:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, folder / path)  # data/ may be another file system
    return folder


def use_given(
    source: Path, document_column: str | None, summary_column: str | None, group_column: str | None
) -> None:
    """Check the user's data, use it, and print what changed."""
    folder = set_aside()
    if restore(JOURNAL):
        kept = f"; what its files held is in {folder}" if folder else ""
        print(f"data: restored the state before an interrupted `make data`{kept}")
    data = params.load(("data",)).data
    options = {
        "document_column": document_column,
        "summary_column": summary_column,
        "group_column": group_column,
    }
    columns = {key: value or getattr(data, key) for key, value in options.items()}
    given = given_files(source)
    rows = rows_by_split(source, columns)
    try:
        diff = use(source, columns)
    except OSError as error:
        where = error.filename or LOCAL
        raise UserError(f"data: {where}: {error.strerror}; nothing was changed") from error
    print(visible(diff, keep=LINES) or "params.yaml already pointed at the data")
    others = {file.name for file in LOCAL.iterdir()} - {
        *written_before(),
        source.name,
        *(file.name for file in given),
    }
    if others:
        print(f"DVC now tracks the other files in {LOCAL} as well: {on_one_line(', '.join(sorted(others)))}")
    for split in SPLITS:
        size = getattr(data, f"{split}_size")
        if size is not None and size > rows[split]:
            print(
                f"data.{split}_size: {split} has {rows[split]:,} rows, fewer than {size:,}; lower it or use "
                "null"
            )
    print(next_steps(pipeline_here()))
