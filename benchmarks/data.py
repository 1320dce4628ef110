"""How do `prepare` and `tokenize` grow with the data? Rate and peak memory from 1,000 to 226,000 articles.

The articles of FILE (a .jsonl with document and summary, of XSum's length) are repeated until there are
enough. In every repetition each word but the commonest is replaced by another of the same source, so that no
article is a near-duplicate of an earlier one. 90 % go to train, 5 % each to validation and test. Each size
runs the two stages as they are, each in a process of its own, in a temporary project.

--workers runs the stages with each of these numbers of worker processes. --against FOLDER, a checkout of
earlier code, runs its stages too, in turns with these, and reports how many times as fast these are. All of
them must write the same bytes. The peak is that of the stage and its workers together (proportional set
sizes, so that shared pages count once), sampled ten times a second.

--simulated COUNT runs the stages on that many short rows, which are made as they are read, so that no file
holds them: 10,000 each for validation and test, the rest for train. Only the reader is replaced.

Run     python -m benchmarks.data --articles FILE [--rows 1000 10000 ...] [--workers 1 2] [--against FOLDER]
                                  [--turns 3] [--output FILE]
        python -m benchmarks.data --simulated 100000 1000000 10000000 [--output FILE]
"""

import argparse
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import yaml

from benchmarks.common import ratios
from onesentence.core import errors
from onesentence.core.errors import UserError
from onesentence.core.files import output_file, read_json, read_jsonl, write_json
from onesentence.core.machine import machine
from onesentence.core.pool import CHUNK_ROWS
from onesentence.data.checking import Chunk, Rules
from onesentence.data.sources import Source

ROOT = Path(__file__).parent.parent
ROWS = (1_000, 3_000, 10_000, 30_000, 100_000, 226_000)
STAGES = ("prepare", "tokenize")
COMMON = 200  # words that stay: without them a text is no English, and tokenizes as none
WORD = re.compile(r"[A-Za-z]{2,}")
LOOK_SECONDS = 0.1  # between two samples of memory
SIMULATED_HELD_OUT = 10_000  # rows each for validation and test
SIMULATED_WORDS = 18  # of a row, the last 6 of them its summary; from 50,000 words
SIMULATION = """
import sys
from benchmarks.data import simulated
from stages import prepare
prepare.open_source = lambda data: simulated(int(sys.argv[1]))
prepare.main()
"""


def rows(articles: list[dict], count: int) -> Iterator[dict]:
    """`count` articles: the given ones, then the same with other words."""
    frequency = Counter(word for row in articles for word in WORD.findall(row["document"]))
    words = [word for word, _ in frequency.most_common()][COMMON:]
    random.Random(0).shuffle(words)
    place = {word: k for k, word in enumerate(words)}
    for i in range(count):
        repetition, k = divmod(i, len(articles))

        def other(match: re.Match, step: int = 7_919 * repetition) -> str:
            at = place.get(match[0])
            return match[0] if at is None else words[(at + step) % len(words)]

        row = articles[k]
        yield {
            "id": str(i),
            "document": WORD.sub(other, row["document"]),
            "summary": WORD.sub(other, row["summary"]),
        }


def simulated(count: int) -> Source:
    """A source of `count` short rows, each made when it is read."""

    def stream(split: str, size: int, seed: int) -> Iterator[Chunk]:
        generator = np.random.default_rng(seed)
        for start in range(0, size, CHUNK_ROWS):
            shape = (min(CHUNK_ROWS, size - start), SIMULATED_WORDS)
            records = []
            for number, numbers in enumerate(generator.integers(0, 50_000, shape).tolist(), start + 1):
                words = [f"word{k}" for k in numbers]
                record = {"id": f"{split} {number}", "document": " ".join(words[:-6])}
                records.append((number, record | {"summary": " ".join(words[-6:])}))
            yield Chunk(split, split, "row", records, True, f"{split}, row 1")

    sizes = {"train": count - 2 * SIMULATED_HELD_OUT} | dict.fromkeys(
        ("validation", "test"), SIMULATED_HELD_OUT
    )
    streams = {split: stream(split, size, seed) for seed, (split, size) in enumerate(sizes.items())}
    return Source(streams, Rules("document", "summary", None))


def write_articles(folder: Path, articles: list[dict], count: int) -> None:
    """Write `count` articles as local data."""
    data = folder / "given"
    bounds = {"validation": count // 20, "test": count // 10, "train": count}
    found = rows(articles, count)
    written = 0
    for split, bound in bounds.items():
        with (data / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            while written < bound:
                file.write(json.dumps(next(found)) + "\n")
                written += 1


def write_parameters(folder: Path, code: Path) -> None:
    """Write params.yaml with the keys that the code of a checkout knows, for all rows of `given`."""
    values = yaml.safe_load((code / "params.yaml").read_text(encoding="utf-8"))
    sizes = dict.fromkeys(("train_size", "validation_size", "test_size"))
    values["data"] |= {"source": "local", "watch": "given", "revision": None, **sizes}
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def write_project(folder: Path) -> None:
    """Link the base model and the list of packages, as the stages find them."""
    (folder / "requirements.txt").symlink_to(ROOT / "requirements.txt")
    (folder / "models").symlink_to(ROOT / "models")


def tree_bytes(process: psutil.Process) -> int:
    """Proportional set sizes of a process and its descendants."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended
                total += each.memory_full_info().pss
    return total


def measured(folder: Path, code: Path, command: list[str], workers: int) -> tuple[float, int]:
    """(seconds, bytes of the peak) of a stage and its workers. code: the checkout that is run."""
    environment = {**os.environ, "PYTHONPATH": str(code), "TQDM_DISABLE": "1"}
    environment["ONESENTENCE_WORKERS"] = str(workers)
    peak = 0
    with (folder / "log").open("w") as log:
        started = time.perf_counter()
        process = psutil.Popen(
            [sys.executable, *command], cwd=folder, env=environment, stdout=log, stderr=log
        )
        while process.poll() is None:
            peak = max(peak, tree_bytes(process))
            with suppress(psutil.TimeoutExpired):
                process.wait(LOOK_SECONDS)
        seconds = time.perf_counter() - started
    if process.returncode:
        raise UserError(f"{command}: failed: {(folder / 'log').read_text()[-2000:]}")
    return seconds, peak


def written(folder: Path) -> str:
    """The SHA-256 of every file that the stages have written."""
    digest = hashlib.sha256()
    for top in ("data", "metrics", "plots"):
        for path in sorted((folder / top).rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(folder)}\0".encode())
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def run_stages(folder: Path, code: Path, count: int, workers: int, made: bool) -> dict:
    """Rate, seconds and peak of both stages. made: the rows are made, not read from files."""
    entry = {}
    for stage in STAGES:
        command = ["-c", SIMULATION, str(count)] if made and stage == "prepare" else ["-m", f"stages.{stage}"]
        seconds, peak = measured(folder, code, command, workers)
        entry[stage] = {
            "articles_per_second": count / seconds,
            "seconds": seconds,
            "peak_gigabytes": peak / 1e9,
        }
    return entry


def compared(folder: Path, count: int, arguments: argparse.Namespace, made: bool) -> dict:
    """One size: every kind of run in turns; the medians of each, and ratios to the earlier code."""
    kinds = {f"workers_{workers}": (ROOT, workers) for workers in arguments.workers}
    if arguments.against:
        kinds["before"] = (arguments.against.resolve(), max(arguments.workers))
    runs: dict[str, list[dict]] = {kind: [] for kind in kinds}
    digests = set()
    for _ in range(arguments.turns):
        for kind, (code, workers) in kinds.items():
            write_parameters(folder, code)
            runs[kind].append(run_stages(folder, code, count, workers, made))
            digests.add(written(folder))
    if len(digests) > 1:
        raise UserError(f"{count:,} rows: the runs wrote different bytes; expected the same from each")
    entry: dict = {"rows": count}
    for kind, results in runs.items():
        entry[kind] = {
            stage: {
                name: float(np.median([result[stage][name] for result in results]))
                for name in results[0][stage]
            }
            for stage in STAGES
        }
    entry |= entry[f"workers_{max(arguments.workers)}"]  # what a user with so many cores sees
    if arguments.against:
        for kind in (kind for kind in kinds if kind != "before"):
            entry[kind]["times_before"] = {
                stage: ratios(
                    np.array([result[stage]["articles_per_second"] for result in runs[kind]]),
                    np.array([result[stage]["articles_per_second"] for result in runs["before"]]),
                )
                for stage in STAGES
            }
    splits = read_json(folder / "metrics/data.json")["splits"]
    return entry | {"kept": sum(split["kept"] for split in splits.values())}


def commit_of(checkout: Path) -> str:
    """The short name of a checkout's commit."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True).stdout.strip()


def describe(entry: dict) -> str:
    """One line for a size and each kind of run."""
    lines = [f"{entry['rows']:,} articles, {entry['kept']:,} kept"]
    for kind, result in entry.items():
        if isinstance(result, dict) and "prepare" in result:
            texts = [
                f"{stage} {result[stage]['articles_per_second']:,.0f}/s, "
                f"peak {result[stage]['peak_gigabytes']:.2f} GB"
                + (f", {result['times_before'][stage]['median']:.2f}x" if "times_before" in result else "")
                for stage in STAGES
            ]
            lines.append(f"  {kind}: {'; '.join(texts)}")
    return "\n".join(lines)


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--articles", type=Path, metavar="FILE")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--simulated", type=int, nargs="+", metavar="COUNT")
    parser.add_argument("--workers", type=int, nargs="+", default=[os.cpu_count() or 1])
    parser.add_argument("--against", type=Path, metavar="FOLDER")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--output", type=output_file)
    arguments = parser.parse_args()
    if (arguments.articles is None) == (arguments.simulated is None):
        parser.error("give --articles FILE or --simulated COUNT")
    if arguments.simulated and arguments.against:
        parser.error("--against: the reader of --simulated fits the present code alone")
    if min(arguments.simulated or [3 * SIMULATED_HELD_OUT]) < 3 * SIMULATED_HELD_OUT:
        parser.error(f"--simulated: expected at least {3 * SIMULATED_HELD_OUT:,} rows")
    articles = read_jsonl(arguments.articles) if arguments.articles else []
    curve = []
    for count in arguments.simulated or arguments.rows:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_project(folder)
            (folder / "given").mkdir(exist_ok=True)
            if articles:
                write_articles(folder, articles, count)
            curve.append(compared(folder, count, arguments, made=not articles))
        print(describe(curve[-1]), flush=True)
    if arguments.output:
        name = "simulated" if arguments.simulated else "curve"
        result = {name: curve, "machine": machine()}
        if arguments.against:
            result["before"] = commit_of(arguments.against)
        write_json(arguments.output, result)


if __name__ == "__main__":
    errors.run(main)
