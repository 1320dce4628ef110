"""Does `onesentence serve` lose or mix up requests under load, and what do batches of many clients gain?

Articles of mixed lengths are first summarized alone, without the service. Then one client asks the service
for each of them, one after the other. Then 32 clients ask at the same time, in random order. Each answer must
be the one that the article gets alone. The service is a process of its own on loopback, and the clients share
its machine. A load ends early at its time limit; the result says how many requests were answered.

Run     python -m benchmarks.serving [--requests 10000] [--clients 32] [--output FILE]
        python -m benchmarks.serving --requests 300 --alone 50
"""

import argparse
import http.client
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from onesentence.core import errors, params
from onesentence.core.errors import UserError
from onesentence.core.files import output_file, read_parquet, write_json
from onesentence.core.machine import machine
from onesentence.core.text import with_heading
from onesentence.inference.summarizer import Summarizer
from onesentence.serving.app import public_name

PATIENCE = 120  # seconds that an answer, the start and the stop may take
QUEUE = 512


def articles_of(count: int, seed: int) -> list[str]:
    """The first `count` articles of the evaluated split in random order, every second one shortened.

    Shortened to a random part, so that lengths are mixed.
    """
    path = Path(f"data/prepared/{params.load(('evaluate.split',)).evaluate.split}.parquet")
    rows = read_parquet(path).slice(0, count).to_pylist()
    texts = [with_heading(row["heading"], row["document"]) for row in rows]
    generator = np.random.default_rng(seed)
    shares = generator.uniform(0.1, 1, len(texts))
    cut = [text[: max(20, int(len(text) * share))] for text, share in zip(texts, shares, strict=True)]
    mixed = [short if k % 2 else text for k, (text, short) in enumerate(zip(texts, cut, strict=True))]
    unique = list(dict.fromkeys(text for text in mixed if text.strip()))
    return [unique[k] for k in generator.permutation(len(unique))]


@contextmanager
def service(model: str | None) -> Iterator[tuple[str, int]]:
    """The address of a running `onesentence serve`; SIGTERM stops it, which must leave exit code 0."""
    command = [sys.executable, "-u", "-m", "onesentence", "serve", "--port", "0", "--queue", str(QUEUE)]
    command += ["--timeout", str(PATIENCE), *(["--model", model] if model else [])]
    environment = {name: value for name, value in os.environ.items() if name != "ONESENTENCE_API_KEY"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        for line in child.stdout:
            if found := re.search(r"http://([\d.]+):(\d+) is ready", line):
                break
        else:
            raise UserError("serving: the service ended before it was ready; its message is above")
        yield found[1], int(found[2])
        child.terminate()
        if child.wait(PATIENCE):
            raise RuntimeError(f"the service ended with exit code {child.returncode}")
    finally:
        child.kill()
        child.wait()


def ask(connection: http.client.HTTPConnection, article: str) -> dict:
    """The summary that the service writes."""
    body = json.dumps({"article": article})
    connection.request("POST", "/summarize", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    value = json.loads(answer.read())
    if answer.status != 200:
        raise RuntimeError(f"HTTP {answer.status}: {value}")
    return value["summaries"][0]


def load(
    address: tuple[str, int], order: list[str], clients: int, wanted: dict[str, dict], limit: float
) -> dict[str, object]:
    """Ask for the articles in order with many clients, and compare each answer with the wanted one."""
    places, seconds, lock = iter(range(len(order))), np.full(len(order), np.nan), threading.Lock()
    differing, failures, end = [], [], time.monotonic() + limit
    bar = tqdm(total=len(order), desc=f"{clients} clients", unit="request")

    def client() -> None:
        connection = http.client.HTTPConnection(*address, timeout=PATIENCE)
        try:
            while time.monotonic() < end:
                with lock:
                    place = next(places, None)
                if place is None:
                    return
                started = time.perf_counter()
                found = ask(connection, order[place])
                seconds[place] = time.perf_counter() - started
                with lock:
                    bar.update()
                    if found != wanted[order[place]]:
                        differing.append(place)
        except (OSError, http.client.HTTPException, RuntimeError, ValueError) as error:
            failures.append(f"{type(error).__name__}: {error}")
        finally:
            connection.close()

    started = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - started
    bar.close()
    for failure in failures[:3]:
        print(f"serving: {failure}", file=sys.stderr)
    answered = int(np.isfinite(seconds).sum())
    found = seconds[np.isfinite(seconds)] * 1_000
    quantiles = np.percentile(found, [50, 95, 99, 100]) if answered else [float("nan")] * 4
    return {
        "clients": clients,
        "requests": len(order),
        "answered": answered,
        "lost": len(failures),
        "differing": len(differing),
        "seconds": elapsed,
        "requests_per_second": answered / elapsed,
        "milliseconds": dict(zip(("p50", "p95", "p99", "max"), map(float, quantiles), strict=True)),
    }


def batches_so_far(address: tuple[str, int]) -> np.ndarray:
    """(articles, batches) that the model was given so far, from /metrics."""
    connection = http.client.HTTPConnection(*address, timeout=PATIENCE)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    pattern = r"^onesentence_batch_articles_{}\S* (\S+)$"
    return np.array([float(re.search(pattern.format(p), text, re.MULTILINE)[1]) for p in ("sum", "count")])


def line(entry: dict) -> str:
    """One load, in words."""
    times = entry["milliseconds"]
    return (
        f"serving: {entry['clients']} clients: {entry['answered']:,} of {entry['requests']:,} answered, "
        f"{entry['lost']} lost, {entry['differing']} unlike alone; {entry['requests_per_second']:.1f}/s; "
        f"latency {times['p50']:.0f} ms (median), {times['p99']:.0f} ms (99 %)"
    )


def measure(model: str | None, requests: int, clients: int, alone: int, limit: float) -> dict:
    """Everything that is written to the output."""
    summarizer = Summarizer.load(model)
    articles = articles_of(alone, seed=0)
    started = time.perf_counter()
    wanted = {
        article: json.loads(json.dumps(asdict(summarizer.summarize([article])[0])))
        for article in tqdm(articles, desc="alone", unit="article")
    }
    direct = time.perf_counter() - started
    rounds = itertools.islice(itertools.cycle(range(len(articles))), requests)
    order = [articles[k] for k in np.random.default_rng(1).permutation(list(rounds))]
    with service(model) as address:
        one = load(address, articles, 1, wanted, limit)
        print(line(one))
        before = batches_so_far(address)
        many = load(address, order, clients, wanted, limit)
        print(line(many))
        articles_given, batches = batches_so_far(address) - before
    return {
        "model": public_name(summarizer.name),
        "num_beams": summarizer.settings.generate.num_beams,
        "max_new_tokens": summarizer.settings.generate.max_new_tokens,
        "articles": len(articles),
        "distinct_summaries": len({summary["text"] for summary in wanted.values()}),
        "without_service_articles_per_second": len(articles) / direct,
        "one": one,
        "many": many,
        "mean_batch": articles_given / batches,
        "times_one": many["requests_per_second"] / one["requests_per_second"],
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model", help="as of `onesentence serve`; by default the tuned model of params.yaml"
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--alone", type=int, default=500, help="distinct articles")
    parser.add_argument("--limit", type=float, default=600, help="seconds of each of the two loads")
    parser.add_argument("--output", type=output_file)
    arguments = parser.parse_args()
    result = measure(arguments.model, arguments.requests, arguments.clients, arguments.alone, arguments.limit)
    print(
        f"serving: {result['times_one']:.2f}x the speed of one client; {result['mean_batch']:.1f} in a batch"
    )
    if arguments.output:
        write_json(arguments.output, result)


if __name__ == "__main__":
    errors.run(main)
