"""How do `prepare` and `tokenize` grow with the data? Rate and peak memory from 1,000 to 226,000 articles.

The articles of FILE (a .jsonl with document and summary, of XSum's length) are repeated until there are
enough. In every repetition each word but the commonest is replaced by another of the same source, so that no
article is a near-duplicate of an earlier one. 90 % go to train, 5 % each to validation and test. Each size
runs the two stages as they are, each in a process of its own, in a temporary project.

Run     python -m benchmarks.data --articles FILE [--rows 1000 10000 ...] [--output FILE]
"""

import argparse
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
from pathlib import Path

import yaml

from onesentence.core import errors
from onesentence.core.errors import UserError
from onesentence.core.files import output_file, read_json, read_jsonl, write_json
from onesentence.core.machine import machine

ROOT = Path(__file__).parent.parent
ROWS = (1_000, 3_000, 10_000, 30_000, 100_000, 226_000)
COMMON = 200  # words that stay: without them a text is no English, and tokenizes as none
WORD = re.compile(r"[A-Za-z]{2,}")


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


def write_project(folder: Path, articles: list[dict], count: int) -> None:
    """params.yaml, the base model and `count` articles, as the stages find them."""
    data = folder / "given"
    data.mkdir()
    bounds = {"validation": count // 20, "test": count // 10, "train": count}
    found = rows(articles, count)
    written = 0
    for split, bound in bounds.items():
        with (data / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            while written < bound:
                file.write(json.dumps(next(found)) + "\n")
                written += 1
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    sizes = dict.fromkeys(("train_size", "validation_size", "test_size"))
    values["data"] |= {"source": "local", "watch": "given", "revision": None, **sizes}
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    (folder / "requirements.txt").symlink_to(ROOT / "requirements.txt")
    (folder / "models").symlink_to(ROOT / "models")


def measured(folder: Path, stage: str) -> tuple[float, int]:
    """(seconds, bytes of the peak resident size) of a stage in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    with (folder / "log").open("w") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", f"stages.{stage}"], cwd=folder, env=environment, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    if status:
        raise UserError(f"{stage} failed: {(folder / 'log').read_text()[-2000:]}")
    return seconds, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--articles", type=Path, required=True, metavar="FILE")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--output", type=output_file)
    arguments = parser.parse_args()
    articles = read_jsonl(arguments.articles)
    curve = []
    for count in arguments.rows:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_project(folder, articles, count)
            entry: dict = {"rows": count}
            for stage in ("prepare", "tokenize"):
                seconds, peak = measured(folder, stage)
                entry[stage] = {
                    "articles_per_second": count / seconds,
                    "seconds": seconds,
                    "peak_gigabytes": peak / 1e9,
                }
            splits = read_json(folder / "metrics/data.json")["splits"]
            entry["kept"] = sum(split["kept"] for split in splits.values())
        curve.append(entry)
        print(
            f"{count:,} articles, {entry['kept']:,} kept: "
            + "; ".join(
                f"{stage} {entry[stage]['articles_per_second']:,.0f}/s, "
                f"peak {entry[stage]['peak_gigabytes']:.2f} GB"
                for stage in ("prepare", "tokenize")
            ),
            flush=True,
        )
    if arguments.output:
        write_json(arguments.output, {"curve": curve, "machine": machine()})


if __name__ == "__main__":
    errors.run(main)
