"""How much slower beside a process that keeps a core busy, and does waiting in another way help?

Threads that share a product wait for each other at its end. GNU's OpenMP, which torch's wheels carry, spins
while it waits, 300,000 times round by itself: fast alone, but beside other work the thread that spins takes
the core from the one it waits for. onesentence/core/runtime.py has them sleep at once where a process starts
beside other work, and leaves the library's way where it does not.

Each way of waiting has a process of its own for each kind of work (three training batches, one batch of
generation, every metric of 100 articles). The ways take turns, alone and beside a process that keeps a
core busy, so that a busy moment of the machine meets all of them. Ratios are paired within a round; the bytes
of every result must be the same.

Run     python -m benchmarks.busy [--rounds 5] [--spins 300000 0 ...] [--threads 2] [--output FILE]
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.common import ratios
from onesentence.core import errors, params
from onesentence.core.files import output_file, read_parquet, write_json
from onesentence.core.machine import machine
from onesentence.core.runtime import CHOSEN_WAITING, SLEEP_AT_ONCE, set_up
from onesentence.generation.decoding import evenly_spaced_by_length, summarize_in_batches
from onesentence.model.adapters import add_adapter
from onesentence.model.loading import load_base, load_tokenizer

LIBRARY_SPINS = 300_000  # of libgomp where nothing is set and no more threads than cores are started
CHOSEN = int(SLEEP_AT_ONCE)  # beside other work
WORK = ("training", "generation", "scoring")
BUSY_LIMIT = 2.2  # times as long as alone


def training():
    """A function that trains for three batches and returns the adapter's weights."""
    from onesentence.training.batches import read_rows
    from onesentence.training.fast import use_fast_parts
    from onesentence.training.trainer import build_trainer

    whole = {"train.epochs": 1, "train.steps": None, "train.gradient_accumulation": 1}
    whole |= {"train.log_every": 10_000, "train.checkpoint_every": 10_000}
    p = params.changed(params.load(("seed", "model", "lora", "train")), whole)
    tokenizer, rows = (
        load_tokenizer(p.model),
        read_rows(Path("data/tokenized/train.parquet"))[: 3 * p.train.batch_size],
    )

    def once() -> list[bytes]:
        set_up(p.seed)
        model = add_adapter(load_base(p.model), p.lora, p.seed)
        use_fast_parts(model, p.model.dtype, p.train.autocast)
        with tempfile.TemporaryDirectory() as name:
            build_trainer(model, tokenizer, rows, rows[:1], p, Path(name)).train()
        return [weight.detach().numpy().tobytes() for weight in model.parameters() if weight.requires_grad]

    return once


def generation():
    """A function that writes summaries for eight articles with the base model and returns their tokens."""
    p = params.load(("model", "generate", "evaluate.split"))
    tokenizer, model = load_tokenizer(p.model), load_base(p.model)
    prompts = read_parquet(Path(f"data/tokenized/{p.evaluate.split}.parquet"))["prompt_ids"].to_pylist()
    prompts = [prompts[i] for i in sorted(evenly_spaced_by_length([len(ids) for ids in prompts], 8))]

    def once() -> list[bytes]:
        batches = summarize_in_batches(model, tokenizer, prompts, p.generate, [str(i) for i in range(8)])
        return [repr(output.tokens).encode() for _, outputs in batches for output in outputs]

    return once


def scoring():
    """A function that scores the first sentences of some articles by every metric and returns the scores."""
    from onesentence.core.text import first_sentence
    from onesentence.evaluation.bertscore import BertScore
    from onesentence.evaluation.overlap.workers import overlap_scores

    p = params.load(("data.source", "evaluate"))
    table = read_parquet(Path(f"data/prepared/{p.evaluate.split}.parquet"))
    references = table["summary"].to_pylist()[:100]
    outputs = [first_sentence(text, p.evaluate.language) for text in table["document"].to_pylist()[:100]]
    scorer = BertScore(p.evaluate)

    def once() -> list[bytes]:
        columns, corpus = overlap_scores(references, outputs, p.evaluate.language, p.evaluate.meteor_synonyms)
        found = scorer.scores(references, {"lead": outputs})["lead"]
        return [
            *(column.tobytes() for column in columns.values()),
            *(statistics.tobytes() for statistics in corpus.values()),
            found.tobytes(),
        ]

    return once


def serve(work: str) -> None:
    """In a child: one run to warm up, then one for each line of standard input, each answered with JSON."""
    set_up(seed=0)
    once = {"training": training, "generation": generation, "scoring": scoring}[work]()
    once()
    print(json.dumps("ready"), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        parts = once()
        seconds = time.perf_counter() - started
        print(json.dumps([seconds, hashlib.sha256(b"".join(parts)).hexdigest()]), flush=True)


def start(work: str, spins: int, threads: int) -> subprocess.Popen:
    """A child that serves one kind of work under one way of waiting."""
    own = ("OMP_WAIT_POLICY", CHOSEN_WAITING)
    environment = {name: value for name, value in os.environ.items() if name not in own}
    environment |= {"GOMP_SPINCOUNT": str(spins), "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.busy", "--serve", work],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def answer(child: subprocess.Popen):
    """What a child says next; its own chatter is passed over."""
    for line in child.stdout:
        if line.startswith(("[", '"')):
            return json.loads(line)
    raise RuntimeError(f"a child of benchmarks.busy ended with exit status {child.wait()}")


@contextmanager
def busy_core():
    """Another process keeps one core busy."""
    # It ends with its parent, however that ends.
    code = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
    other = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def measure(work: str, ways: list[int], threads: int, rounds: int) -> dict[str, dict]:
    """Seconds [rounds] alone and beside a busy core, and the hashes of all results, by spin count."""
    children = {spins: start(work, spins, threads) for spins in ways}
    found = {spins: {"alone": [], "busy": [], "hashes": set()} for spins in ways}

    def ask(spins: int, key: str) -> None:
        children[spins].stdin.write("\n")
        children[spins].stdin.flush()
        seconds, digest = answer(children[spins])
        found[spins][key].append(seconds)
        found[spins]["hashes"].add(digest)

    try:
        for child in children.values():
            answer(child)
        for k in range(rounds):
            order = ways if k % 2 == 0 else ways[::-1]
            for spins in order:
                ask(spins, "alone")
            with busy_core():
                for spins in order:
                    ask(spins, "busy")
    finally:
        for child in children.values():
            child.kill()
            child.wait()
    return found


def summarize(found: dict[int, dict]) -> dict:
    """Ratios of each way, to its own time alone and to the library's way."""
    seconds = {
        spins: {key: np.array(entry[key]) for key in ("alone", "busy")} for spins, entry in found.items()
    }
    own = seconds[LIBRARY_SPINS]
    return {
        "same_bytes": len(set.union(*(entry["hashes"] for entry in found.values()))) == 1,
        "spins": {
            str(spins): {
                "seconds_alone": float(np.median(entry["alone"])),
                "alone_of_library": ratios(entry["alone"], own["alone"]),
                "busy_of_alone": ratios(entry["busy"], entry["alone"]),
                "busy_of_library": ratios(entry["busy"], own["busy"]),
                # What runtime.py's rule gives: the library's way alone, this one beside other work.
                "busy_of_library_alone": ratios(entry["busy"], own["alone"]),
            }
            for spins, entry in seconds.items()
        },
    }


def line(work: str, spins: str, entry: dict, same_bytes: bool) -> str:
    """One way of waiting, in words."""
    alone, busy = entry["alone_of_library"]["median"], entry["busy_of_library_alone"]["median"]
    return (
        f"busy: {work}, {spins} spins: alone {entry['seconds_alone']:.2f} s, {alone:.3f}x the library's way; "
        f"beside a busy core {busy:.2f}x the library's way alone "
        f"({'within' if busy <= BUSY_LIMIT else 'over'} {BUSY_LIMIT}); "
        f"bytes {'equal' if same_bytes else 'DIFFER'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--spins", type=int, nargs="+", default=[CHOSEN], help="beside the library's own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", choices=WORK, nargs="+", default=WORK)
    parser.add_argument("--output", type=output_file)
    parser.add_argument("--serve", choices=WORK, help=argparse.SUPPRESS)  # of a child
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    ways = list(dict.fromkeys([LIBRARY_SPINS, *arguments.spins]))
    result = {"threads": arguments.threads, "rounds": arguments.rounds, "chosen_spins": CHOSEN, "work": {}}
    for work in arguments.work:
        summary = summarize(measure(work, ways, arguments.threads, arguments.rounds))
        result["work"][work] = summary
        for spins, entry in summary["spins"].items():
            print(line(work, spins, entry, summary["same_bytes"]), flush=True)
    if arguments.output:
        set_up(seed=0)
        write_json(arguments.output, {**result, "machine": machine()})


if __name__ == "__main__":
    errors.run(main)
