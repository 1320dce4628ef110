"""What runs the variants of a study: the places where they run, here or on other machines."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from tqdm import tqdm

from onesentence.study.clone import Clone
from onesentence.study.variants import Study

WORK = Path(".dvc/tmp/studies")
TAIL = 12  # lines of a failed variant's log
# Sections of params.yaml in the order in which the graph's stages read them.
READ_IN_ORDER = "pretrain data prompt model smoke lora train seed generate evaluate report export".split()
REDRAWN = 5  # seconds between two states of the progress bar: a log file stores every one


@dataclass(frozen=True)
class Ended:
    """A variant that has ended.

    state: "done" if its experiment is in this repository; "failed" if its log says why; "again" if the place
    was at fault and the variant must run once more. cost: of `costs`, where it was measured.
    """

    name: str
    state: Literal["done", "failed", "again"]
    cost: dict[str, Any] | None = None


class Pool(Protocol):
    """Places that run one variant each: clones on this machine, or workers of a scheduler."""

    def places(self) -> list[str]:
        """Places that can take a variant now."""

    def last(self, place: str) -> str:
        """The variant whose stages the clone of a place holds; "" if it holds none."""

    def held(self, place: str) -> set[str]:
        """Variants whose stages are in the clones of other places."""

    def start(self, place: str, name: str, values: dict[str, Any]) -> None:
        """Start a variant. values: by dotted key of params.yaml."""

    def ended(self) -> list[Ended]:
        """Variants that have ended since the last call."""

    def running(self) -> list[str]:
        """Variants that were started and have not ended."""

    def news(self) -> list[str]:
        """Sentences for the user since the last call, such as that a worker was lost."""

    def close(self) -> None:
        """End the variants that run. Their clones stay, so that a restarted study goes on in them."""

    def clone(self) -> Clone:
        """A clone on this machine in which the variants can be compared."""

    def drop(self) -> None:
        """Delete the clones: the study is complete."""


def log_of(name: str) -> Path:
    """The file with a variant's output."""
    return WORK / f"{name}.log"


def read_log(name: str) -> str:
    """The text of a variant's log. Bytes that are not UTF-8 are replaced: any program may print there."""
    return log_of(name).read_text(encoding="utf-8", errors="replace")


def tail_of(name: str) -> str:
    """The last lines of a variant's log, without progress bars."""
    lines = [line.rpartition("\r")[2].rstrip() for line in read_log(name).splitlines()]
    return "\n    ".join([line for line in lines if line][-TAIL:])


def failure_of(name: str) -> str:
    """The message about a variant that failed: the place of its log, and the log's end."""
    return f"study: {name} failed; its log {log_of(name)} ends with:\n    {tail_of(name)}"


def shared_stages(values: dict[str, object], others: dict[str, object]) -> int:
    """How far down the graph two variants are equal: the number of sections of params.yaml before one
    differs.
    """
    keys = {key for key in {**values, **others} if values.get(key) != others.get(key)}
    return min((READ_IN_ORDER.index(key.partition(".")[0]) for key in keys), default=len(READ_IN_ORDER))


def next_of(waiting: list[str], last: str, held: set[str], experiments: dict[str, dict[str, object]]) -> str:
    """The variant that a place runs next.

    It is the variant that was killed there; else the first of those that share most stages with the last one,
    whose outputs its clone still has. held: variants that were killed in other places' clones, where more of
    them is done; they come last.
    """
    if last in waiting:
        return last
    free = [name for name in waiting if name not in held] or waiting
    if last not in experiments:
        return free[0]
    return max(free, key=lambda name: shared_stages(experiments[name], experiments[last]))


def run_missing(
    study: Study,
    missing: dict[str, dict[str, Any]],
    pool: Pool,
    finished: Callable[[str, dict[str, Any] | None], None],
) -> list[str]:
    """Run experiments in a pool, as many at a time as it has places; returns the names of those that
    failed.

    finished: called with the name of each that succeeded, once its experiment is in this repository, and with
    its cost.
    """
    experiments = study.experiments()
    waiting: list[str] = list(missing)
    failed: list[str] = []
    bar = tqdm(
        total=len(experiments),
        initial=len(experiments) - len(missing),
        desc=f"study {study.name}",
        unit="variant",
        smoothing=0,
    )
    draw = redrawn(bar)
    try:
        while waiting or pool.running():
            for ended in pool.ended():
                if ended.state == "again":
                    waiting.insert(0, ended.name)
                    continue
                bar.update()
                if ended.state == "done":
                    finished(ended.name, ended.cost)
                if ended.state == "failed":
                    failed.append(ended.name)
                    bar.write(failure_of(ended.name))
            for place in pool.places() if waiting else ():
                if waiting:
                    name = next_of(waiting, pool.last(place), pool.held(place), experiments)
                    waiting.remove(name)
                    pool.start(place, name, missing[name])
            for sentence in pool.news():
                bar.write(sentence)
            draw(", ".join(pool.running()))
            time.sleep(0.5)
    finally:
        pool.close()
        bar.close()
    return failed


def redrawn(bar: "tqdm[Any]") -> Callable[[str], None]:
    """A function that sets what a bar shows, and draws it every REDRAWN seconds at most."""
    drawn = 0.0

    def draw(text: str) -> None:
        nonlocal drawn
        bar.set_postfix_str(text, refresh=False)
        if time.monotonic() - drawn >= REDRAWN:
            drawn = time.monotonic()
            bar.refresh()

    return draw
