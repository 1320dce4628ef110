"""A queue in front of the model: articles of many requests are summarized together.

Batches are formed here, and the Summarizer groups a batch by length as the pipeline does. An article's tokens
do not depend on what it is batched with.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onesentence.inference.summarizer import Summary
    from onesentence.serving.limits import Limits

RECENT = 0.2  # weight of the last batch in the mean seconds of an article
FIRST_GUESS = 0.1  # seconds of an article, before one was summarized


class QueueFullError(Exception):
    """Too many articles wait. seconds: when it is worth asking again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full; ask again in {seconds} s")
        self.seconds = seconds


@dataclass
class Waiting:
    """An article in the queue, and where its summary goes. since: monotonic seconds."""

    article: str
    future: asyncio.Future[Summary]
    since: float = field(default_factory=monotonic)


class Batcher:
    """The queue of one model.

    summarize: the summary of each article, in order. It runs in `executor`, whose one thread several models
    may share. observe: called with the articles and the seconds of each batch.
    """

    def __init__(
        self,
        summarize: Callable[[list[str]], list[Summary]],
        executor: Executor,
        limits: Limits,
        observe: Callable[[int, float], None] = lambda articles, seconds: None,
    ) -> None:
        self.summarize, self.executor, self.limits, self.observe = summarize, executor, limits, observe
        self.waiting: deque[Waiting] = deque()
        self.arrived = asyncio.Event()
        self.seconds = FIRST_GUESS
        self.task = asyncio.create_task(self._work())

    async def submit(self, articles: list[str]) -> list[Summary]:
        """The summary of each article, in order; raises QueueFullError unless all of them fit in the queue.

        If the caller is cancelled (a time-out, a client that left), articles still in the queue are dropped.
        """
        self._forget_done()
        if len(self.waiting) + len(articles) > self.limits.queue:
            raise QueueFullError(max(1, math.ceil(self.seconds * len(self.waiting))))
        loop = asyncio.get_running_loop()
        entries = [Waiting(article, loop.create_future()) for article in articles]
        self.waiting.extend(entries)
        self.arrived.set()
        try:
            return list(await asyncio.gather(*(entry.future for entry in entries)))
        finally:
            for entry in entries:  # of the others, where one failed
                entry.future.cancel()

    def __len__(self) -> int:
        """How many articles wait."""
        return sum(not entry.future.done() for entry in self.waiting)

    async def close(self) -> None:
        """End the work. What still waits is cancelled."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        for entry in self.waiting:
            entry.future.cancel()

    def _forget_done(self) -> None:
        """Take articles out of the queue that nobody waits for any more."""
        self.waiting = deque(entry for entry in self.waiting if not entry.future.done())

    async def _work(self) -> None:
        while True:
            batch = await self._next_batch()
            if batch:
                await self._answer(batch)

    async def _next_batch(self) -> list[Waiting]:
        """The next articles in order of arrival, once there are enough or the first has waited enough."""
        while not self.waiting:
            self.arrived.clear()
            await self.arrived.wait()
        until = self.waiting[0].since + self.limits.max_wait_ms / 1_000
        while len(self.waiting) < self.limits.max_batch and (rest := until - monotonic()) > 0:
            self.arrived.clear()
            try:
                await asyncio.wait_for(self.arrived.wait(), rest)
            except TimeoutError:
                break
        self._forget_done()
        return [self.waiting.popleft() for _ in range(min(len(self.waiting), self.limits.max_batch))]

    async def _answer(self, batch: list[Waiting]) -> None:
        """Give each article of a batch its summary, or the error that it alone causes."""
        loop, started = asyncio.get_running_loop(), monotonic()
        articles = [entry.article for entry in batch]
        try:
            summaries = await loop.run_in_executor(self.executor, self.summarize, articles)
            pairs = list(zip(batch, summaries, strict=True))
        except Exception as error:  # noqa: BLE001 (whatever it is, the requests that wait must hear of it)
            if len(batch) > 1:  # one bad article must not fail the others
                for entry in batch:
                    if not entry.future.done():
                        await self._answer([entry])
            elif not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        seconds = monotonic() - started
        self.seconds += RECENT * (seconds / len(batch) - self.seconds)
        self.observe(len(batch), seconds)
        for entry, summary in pairs:
            if not entry.future.done():
                entry.future.set_result(summary)
