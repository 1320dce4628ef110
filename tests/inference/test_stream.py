"""A stream in windows: in order, in little memory, and stopped early if the model writes nothing."""

import itertools
import weakref

import pytest

from onesentence.core.errors import UserError
from onesentence.inference.inputs import Item
from onesentence.inference.stream import FEWEST, WINDOWS, summarized, windows
from onesentence.inference.summarizer import Summarizer


@pytest.fixture(scope="module")
def summarizer(pipeline):
    return Summarizer.load(pipeline)


@pytest.fixture
def mute(pipeline):
    """A model that ends every summary before it begins."""
    import torch

    summarizer = Summarizer.load(pipeline)
    with torch.no_grad():
        summarizer.model.lm_head.bias[summarizer.tokenizer.eos_token_id] = 1e4
    return summarizer


def item(number: int, problem: str | None = None) -> Item:
    text = "" if problem else f"Article {number} says that {'word ' * (number % 7)}ends."
    return Item(f"a.txt, line {number}", str(number), text, problem)


def flat(parts) -> list:
    """The results of all parts."""
    return [result for part in parts for result in part]


def test_windows_grow_and_hold_every_item_once():
    found = list(windows(map(item, range(700))))
    assert [len(window) for window in found] == [16, 64, 256, 256, 108]
    assert [i.name for window in found for i in window] == list(map(str, range(700)))
    assert list(windows([])) == []
    assert [len(window) for window in windows(map(item, range(16)))] == [16]


def test_an_error_of_the_source_comes_after_the_items_before_it():
    def source():
        yield from map(item, range(20))
        raise UserError("line 21: broken")

    found = windows(source())
    assert (len(next(found)), len(next(found))) == (16, 4)
    with pytest.raises(UserError, match=r"^line 21: broken$"):
        next(found)


def test_no_more_than_a_window_is_read_ahead():
    taken = []

    def source():
        for number in itertools.count():
            taken.append(number)
            yield item(number)

    found = windows(source())
    for _ in range(3):
        next(found)
    assert len(taken) == sum(WINDOWS)


def test_items_that_were_written_are_not_kept(summarizer):
    alive = weakref.WeakSet()

    def source():
        for number in range(60):
            made = item(number, "no text" if number % 3 else None)
            alive.add(made)
            yield made

    most = 0
    for _ in summarized(summarizer, windows(source()), None):
        most = max(most, len(alive))
    assert most <= WINDOWS[1] + 2


def test_results_come_in_order_with_the_summaries_of_the_model(summarizer):
    articles = [item(number, "no text" if number in (0, 5, 39) else None) for number in range(40)]
    done = []
    ready = list(summarized(summarizer, windows(articles), 0.9, done.append))
    results = flat(ready)
    assert sum(done) == 40 and len(done) > 2
    assert [result.item for result in results] == articles
    assert [result.status for result in results if result.summary is None] == ["no_article"] * 3
    wanted = summarizer.summarize([article.text for article in articles if not article.problem])
    assert [result.summary for result in results if result.summary] == wanted


def test_a_model_that_writes_nothing_is_stopped_after_the_first_window(mute):
    taken = []

    def source():
        for number in range(1_000):
            taken.append(number)
            yield item(number)

    with pytest.raises(UserError) as error:
        list(summarized(mute, windows(source()), 0.9))
    assert len(taken) == WINDOWS[0]
    said = str(error.value)
    assert "tuned succeeded on 0% of the first 16 articles, smoke.min_success_rate is 90%" in said
    assert "a.txt, line 3: " in said and "output is empty" in said


def test_few_articles_and_an_untuned_base_are_never_stopped(mute):
    few = flat(summarized(mute, windows(map(item, range(FEWEST - 1))), 0.9))
    assert [result.status for result in few] == ["empty"] * (FEWEST - 1)
    untuned = flat(summarized(mute, windows(map(item, range(20))), None))
    assert [result.status for result in untuned] == ["empty"] * 20
