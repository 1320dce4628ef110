"""Worker processes that work on chunks: results in order, few chunks in memory, nothing left behind.

The number of workers and the size of a chunk change no result. With little to do, or with one worker, the
same functions run in this process.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain
from multiprocessing.connection import wait
from types import TracebackType
from typing import TypeVar

from onesentence.core.errors import UserError

VARIABLE = "ONESENTENCE_WORKERS"
CHUNK_ROWS = 256
CHUNK_LETTERS = 2_000_000  # of text in a chunk; a single longer row is a chunk of its own
FEW = 16  # chunks: up to 4,096 rows, starting workers (a second, mostly imports) takes longer than it saves
AHEAD = 3  # chunks for each worker that wait, are worked on, or whose result is not yet taken

Item = TypeVar("Item")
Result = TypeVar("Result")


def worker_count() -> int:
    """The number of processes that work at once: ONESENTENCE_WORKERS, or one for each usable core.

    A core is usable if neither the process's affinity nor its control group (a container's limit) excludes
    it. Raises UserError unless the variable is a whole number of at least 1.
    """
    value = os.environ.get(VARIABLE, "").strip()
    if value:
        if not value.isdecimal() or int(value) < 1:
            raise UserError(
                f"{VARIABLE}: {value!r} is not a number of worker processes; expected a whole number of at "
                "least 1, or no such variable for one process for each usable core"
            )
        return int(value)
    from joblib import cpu_count

    return int(cpu_count())


def chunked(items: Iterable[Item], letters: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Yield lists of at most CHUNK_ROWS items, and of about CHUNK_LETTERS letters at most.

    letters: how many letters of text an item holds. If `items` raises an error, the items before it are
    yielded first, so that an error in one of them comes first, as it does in the text.
    """
    chunk: list[Item] = []
    size = 0
    try:
        for item in items:
            chunk.append(item)
            size += letters(item)
            if len(chunk) == CHUNK_ROWS or size >= CHUNK_LETTERS:
                yield chunk
                chunk, size = [], 0
    except Exception:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def start_worker() -> None:
    """Prepare a worker process: it leaves Ctrl-C to its parent, and ends when its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Each worker has one core. The tokenizer's own threads would compete with the other workers.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = multiprocessing.parent_process()
    assert parent is not None  # this function runs in a worker

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)  # a killed parent cannot end its workers, and they would wait for work for ever

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Start processes with OMP_NUM_THREADS=1; this process keeps its own setting."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


class Pool:
    """Worker processes, started at the first `map` that has more than a few chunks, ended by `with`.

    workers: their number; None is `worker_count()`. few: chunks that are not worth the start of workers.
    """

    def __init__(self, workers: int | None = None, few: int = FEW) -> None:
        self.workers = worker_count() if workers is None else workers
        self.few = few
        self._executor: ProcessPoolExecutor | None = None
        self._others: set[int | None] = set()  # processes that are not this pool's

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is None:
            return
        if kind is not None:  # do not wait for work that nobody will use
            self._executor.shutdown(wait=False, cancel_futures=True)
            for process in self._processes():
                process.kill()
        self._executor.shutdown(wait=True, cancel_futures=True)
        for process in self._processes():
            process.join()

    def _processes(self) -> list[multiprocessing.process.BaseProcess]:
        return [child for child in multiprocessing.active_children() if child.pid not in self._others]

    def map(self, function: Callable[[Item], Result], chunks: Iterable[Item]) -> Iterator[Result]:
        """Yield `function` of each chunk, in order. Only AHEAD chunks for each worker exist at once.

        function: at the top of a module, or a partial of one, so that workers can import it. An error in
        reading a chunk is raised after the results of the chunks before it.
        """
        iterator = iter(chunks)
        if self.workers == 1:
            yield from map(function, iterator)
            return
        if self._executor is None:
            first: list[Item] = []
            try:
                while len(first) <= self.few:
                    first.append(next(iterator))
            except StopIteration:
                yield from map(function, first)
                return
            except Exception:
                yield from map(function, first)
                raise
            iterator = chain(first, iterator)
        yield from self._in_workers(function, iterator)

    def _in_workers(self, function: Callable[[Item], Result], chunks: Iterator[Item]) -> Iterator[Result]:
        pending: deque[Future[Result]] = deque()
        failure: Exception | None = None
        more = True
        while more or pending:
            while more and len(pending) < AHEAD * self.workers:
                try:
                    chunk = next(chunks)
                except StopIteration:
                    more = False
                except Exception as error:  # noqa: BLE001  raised below, after the results before it
                    failure, more = error, False
                else:
                    pending.append(self._submit(function, chunk))
            if pending:
                yield self._result(pending.popleft())
        if failure is not None:
            raise failure

    def _submit(self, function: Callable[[Item], Result], chunk: Item) -> "Future[Result]":
        if self._executor is None:
            self._others = {child.pid for child in multiprocessing.active_children()}
            # Not forked: a fork copies the locks of threads that do not exist in the child.
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self.workers, context, start_worker)
        try:
            with _one_thread():
                return self._executor.submit(function, chunk)
        except BrokenProcessPool as error:
            raise _killed() from error

    def _result(self, future: "Future[Result]") -> Result:
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise _killed() from error


def _killed() -> UserError:
    return UserError(
        "a worker process was ended from outside, probably because the machine has too little free memory; "
        f"close other programs, or use fewer workers with {VARIABLE}=1, and run it again"
    )
