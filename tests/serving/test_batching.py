"""The queue in front of the model: order, sizes, waiting and failures."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from onesentence.serving.batching import Batcher, QueueFullError
from onesentence.serving.limits import Limits


def run(use, limits: Limits, summarize=None):
    """Run `use(batcher, batches)` in a loop; batches: what the model was given, batch by batch."""
    batches = []

    def upper(articles: list[str]) -> list[str]:
        batches.append(articles)
        return (summarize or (lambda texts: [text.upper() for text in texts]))(articles)

    async def main():
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(upper, executor, limits)
            try:
                return await asyncio.wait_for(use(batcher, batches), 20)
            finally:
                await batcher.close()

    return asyncio.run(main())


def test_requests_share_batches_no_larger_than_the_limit_in_order_of_arrival():
    async def use(batcher, batches):
        requests = [[f"{k}a", f"{k}b"] for k in range(5)]
        answers = await asyncio.gather(*(batcher.submit(articles) for articles in requests))
        assert answers == [[text.upper() for text in articles] for articles in requests]
        assert [len(batch) for batch in batches] == [4, 4, 2]
        assert [text for batch in batches for text in batch] == [text for part in requests for text in part]

    run(use, Limits(max_batch=4, max_wait_ms=200))


def test_a_full_batch_does_not_wait_and_a_lone_article_waits_no_longer_than_it_must():
    async def use(batcher, batches):
        started = time.monotonic()
        await batcher.submit(["a", "b"])
        assert time.monotonic() - started < 1
        await batcher.submit(["c"])
        assert 1.9 < time.monotonic() - started < 10

    run(use, Limits(max_batch=2, max_wait_ms=2_000))


def test_all_articles_of_a_request_fit_or_none_is_taken():
    async def use(batcher, batches):
        first = asyncio.create_task(batcher.submit(["a"] * 3))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match="ask again in 1 s"):
            await batcher.submit(["b"] * 2)
        assert len(batcher) == 3
        assert await asyncio.gather(first, batcher.submit(["c"])) == [["A"] * 3, ["C"]]

    run(use, Limits(queue=4, max_articles=4, max_wait_ms=100))


def test_an_article_that_fails_is_tried_alone_and_fails_alone():
    def summarize(articles: list[str]) -> list[str]:
        if "bad" in articles:
            raise ValueError("bad article")
        return articles

    async def use(batcher, batches):
        requests = (["one"], ["bad"], ["two", "bad"], ["three"])
        tasks = [asyncio.create_task(batcher.submit(articles)) for articles in requests]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert answers[0] == ["one"] and answers[3] == ["three"]
        assert [str(answers[k]) for k in (1, 2)] == ["bad article"] * 2
        assert await batcher.submit(["later"]) == ["later"]

    run(use, Limits(max_wait_ms=50), summarize)


def test_a_model_that_returns_too_few_summaries_fails_its_requests_and_the_queue_goes_on():
    async def use(batcher, batches):
        with pytest.raises(ValueError, match="zip"):
            await batcher.submit(["a"])
        batcher.summarize = lambda articles: articles
        assert await batcher.submit(["b"]) == ["b"]

    run(use, Limits(max_wait_ms=0), lambda articles: [])


def test_what_a_cancelled_request_left_in_the_queue_is_not_computed():
    async def use(batcher, batches):
        tasks = [asyncio.create_task(batcher.submit([text, text])) for text in "abc"]
        await asyncio.sleep(0)
        assert len(batcher) == 6
        tasks[1].cancel()
        await asyncio.sleep(0)
        assert len(batcher) == 4
        await asyncio.gather(tasks[0], tasks[2])
        assert batches == [["a", "a", "c", "c"]]

    run(use, Limits(max_wait_ms=100))


def test_the_time_to_ask_again_grows_with_the_queue_and_the_time_of_an_article():
    async def use(batcher, batches):
        for _ in range(40):
            await batcher.submit(["a"])
        blocked = asyncio.create_task(batcher.submit(["b"] * 60))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError) as raised:
            await batcher.submit(["c"])
        assert (
            raised.value.seconds == pytest.approx(60 * batcher.seconds, abs=1) and raised.value.seconds >= 2
        )
        await blocked

    def slow(articles: list[str]) -> list[str]:
        time.sleep(0.05)
        return articles

    run(use, Limits(queue=60, max_articles=60, max_batch=60, max_wait_ms=0), slow)
