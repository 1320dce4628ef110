"""Summarize a stream of articles in windows: results come in the order of the articles, in little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onesentence.core.errors import UserError

if TYPE_CHECKING:
    from onesentence.inference.inputs import Item
    from onesentence.inference.summarizer import Summarizer, Summary

# Articles that are read before they are summarized, the longest first: a window of rows of similar length
# fills its batches. The first windows are small, so that the first summaries appear early.
WINDOWS = (16, 64, 256)
FEWEST = 10  # articles for a smoke test; of fewer, each failure is reported and nothing is stopped
NO_ARTICLE = "no_article"  # the status of an item that cannot be summarized


@dataclass(frozen=True)
class Result:
    """An article and its summary; None if there was no article to summarize."""

    item: Item
    summary: Summary | None

    @property
    def status(self) -> str:
        return NO_ARTICLE if self.summary is None else self.summary.status


def windows(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield items in lists of WINDOWS; an error of the source is raised after the items before it."""
    source = iter(items)
    sizes = iter(WINDOWS)
    size = next(sizes)
    failure: UserError | None = None
    while failure is None:
        window: list[Item] = []
        try:
            while len(window) < size:
                window.append(next(source))
        except StopIteration:
            if window:
                yield window
            return
        except UserError as error:
            failure = error
        if window:
            yield window
        size = next(sizes, size)
    raise failure


def summarized(
    summarizer: Summarizer,
    groups: Iterable[list[Item]],
    min_success_rate: float | None,
    progress: Callable[[int], object] | None = None,
) -> Iterator[list[Result]]:
    """Yield the results of all items, in order, as soon as every earlier one is known.

    groups: from `windows`. The first is the smoke test: where it has at least FEWEST articles and fewer than
    `min_success_rate` of them get a summary, a UserError lists the others and nothing is yielded.
    progress: is called with the number of items that are done, in whatever order.
    """
    for number, window in enumerate(groups):
        results = _in_order(summarizer, window, progress or (lambda _: None))
        if number == 0 and min_success_rate is not None:
            first = [result for ready in results for result in ready]
            require_success(first, min_success_rate, summarizer.name)
            results = iter([first])
        yield from results


def _in_order(
    summarizer: Summarizer, window: list[Item], progress: Callable[[int], object]
) -> Iterator[list[Result]]:
    texts = [(k, item) for k, item in enumerate(window) if item.problem is None]
    done: dict[int, Summary | None] = {k: None for k, item in enumerate(window) if item.problem is not None}
    place = 0

    def ready() -> list[Result]:
        nonlocal place
        start = place
        while place in done:
            place += 1
        return [Result(window[k], done.pop(k)) for k in range(start, place)]

    progress(len(done))
    batches = summarizer.summarize_in_batches([item.text for _, item in texts], [i.place for _, i in texts])
    for batch, summaries in batches:
        done |= {texts[k][0]: summary for k, summary in zip(batch, summaries, strict=True)}
        progress(len(batch))
        yield ready()
    yield ready()  # what has no article, where nothing was summarized


def require_success(results: list[Result], min_success_rate: float, who: str) -> None:
    """Raise a UserError if too few of the first articles got a summary; of fewer than FEWEST, never."""
    summaries = [(result.item, result.summary) for result in results if result.summary is not None]
    if len(summaries) < FEWEST:
        return
    failed = [(item, summary) for item, summary in summaries if summary.status != "ok"]
    rate = 1 - len(failed) / len(summaries)
    if rate < min_success_rate:
        lines = [
            f"\n  {item.place}: {summary.input_tokens} prompt tokens, output is {summary.status}"
            for item, summary in failed
        ]
        raise UserError(
            f"smoke test: {who} succeeded on {rate:.0%} of the first {len(summaries)} articles, "
            f"smoke.min_success_rate is {min_success_rate:.0%}; no summary was written. Check the model and "
            f"the articles, or add --keep-going. Failed:{''.join(lines)}"
        )
