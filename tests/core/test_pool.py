"""Workers give results in order, hold few chunks, and leave nothing behind, however they end."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from onesentence.core import pool
from onesentence.core.errors import UserError
from onesentence.core.pool import AHEAD, Pool, chunked, worker_count

REPO = Path(__file__).parents[2]


def squared(number: int) -> tuple[int, int]:
    """The square, and the process that computed it; earlier chunks take longer."""
    time.sleep(0.02 if number % 3 == 0 else 0)
    return number * number, os.getpid()


def failing_at(bad: int, number: int) -> int:
    if number == bad:
        raise UserError(f"row {number} is wrong")
    return number


def killed_at(bad: int, number: int) -> int:
    if number == bad:
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
    return number


def loaded(module: str, _: int) -> bool:
    return module in sys.modules


@pytest.fixture(autouse=True)
def _others(monkeypatch):
    """Processes that other tests have left, such as a browser, are none of the pool's."""
    monkeypatch.setattr(sys.modules[__name__], "OTHERS", everyone())


OTHERS: set[int] = set()


def everyone() -> set[int]:
    """Processes of this one that run; a resource tracker of the standard library is none of the pool's."""
    return {
        child.pid
        for child in psutil.Process().children(recursive=True)
        if "resource_tracker" not in " ".join(child.cmdline())
    }


def children() -> set[int]:
    """Processes that this test has started and that still run."""
    return everyone() - OTHERS


def test_results_come_in_order_from_several_processes():
    with Pool(2, few=0) as workers:
        results = list(workers.map(squared, iter(range(40))))
        assert [square for square, _ in results] == [number * number for number in range(40)]
        processes = {process for _, process in results}
        assert len(processes) == 2 and os.getpid() not in processes
        # The same processes go on with other work.
        assert {process for _, process in workers.map(squared, range(4))} <= processes
    assert children() == set()


@pytest.mark.parametrize(("workers", "few"), [(1, 0), (3, 40)])
def test_one_worker_or_little_to_do_needs_no_process(workers, few):
    with Pool(workers, few) as local:
        assert {process for _, process in local.map(squared, range(few or 40))} == {os.getpid()}
        assert children() == set()


def test_few_chunks_are_read_ahead_of_the_result_that_is_taken():
    read = []

    def chunks():
        for number in range(100):
            read.append(number)
            yield number

    with Pool(2, few=0) as workers:
        for taken, (square, _) in enumerate(workers.map(squared, chunks())):
            assert square == taken * taken
            assert len(read) - taken <= 2 * AHEAD + 1
    assert len(read) == 100


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_error_of_a_worker_is_raised_after_the_results_before_it(workers):
    taken = []
    with pytest.raises(UserError, match=r"^row 7 is wrong$"), Pool(workers, few=0) as several:
        for number in several.map(partial(failing_at, 7), range(1_000_000)):
            taken.append(number)
    assert taken == list(range(7))
    assert children() == set()


@pytest.mark.parametrize(("workers", "few"), [(1, 0), (2, 0), (2, 40)])
def test_an_error_in_reading_comes_after_the_results_of_what_was_read(workers, few):
    def chunks():
        yield from range(5)
        raise UserError("line 6 is wrong")

    taken = []
    with pytest.raises(UserError, match=r"^line 6 is wrong$"), Pool(workers, few) as several:
        for number in several.map(partial(failing_at, -1), chunks()):
            taken.append(number)
    assert taken == list(range(5))
    # An earlier row's error in a worker is the one that is raised.
    with pytest.raises(UserError, match=r"^row 3 is wrong$"), Pool(workers, few) as several:
        list(several.map(partial(failing_at, 3), chunks()))
    assert children() == set()


def test_a_worker_that_the_kernel_kills_is_one_sentence():
    with pytest.raises(UserError) as raised, Pool(2, few=0) as workers:
        list(workers.map(partial(killed_at, 11), range(10_000)))
    message = str(raised.value)
    assert "a worker process was ended from outside" in message and "ONESENTENCE_WORKERS=1" in message
    assert "\n" not in message and children() == set()


def test_workers_have_one_thread_and_this_process_keeps_its_setting(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with Pool(1) as local, Pool(2, few=0) as workers:
        assert set(workers.map(partial(os.getenv), ["OMP_NUM_THREADS"] * 3)) == {"1"}
        assert set(workers.map(os.getenv, ["TOKENIZERS_PARALLELISM"])) == {"false"}
        assert set(local.map(os.getenv, ["OMP_NUM_THREADS"])) == {"2"}
    assert os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.delenv("OMP_NUM_THREADS")
    with Pool(2, few=0) as workers:
        assert set(workers.map(os.getenv, ["OMP_NUM_THREADS"] * 3)) == {"1"}
    assert "OMP_NUM_THREADS" not in os.environ


PROGRAM = """
import os, sys, time
from onesentence.core.pool import Pool

def slow(number):
    with open(sys.argv[1], "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(0.3)

if __name__ == "__main__":
    with Pool(2, few=0) as workers:
        for _ in workers.map(slow, range(10_000)):
            pass
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_program_leaves_no_process(tmp_path, number):
    """Ctrl-C reaches the whole group, as from a terminal; a kill reaches the main process alone."""
    (tmp_path / "program.py").write_text(PROGRAM)
    seen = tmp_path / "seen"
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(seen)],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while not (seen.exists() and len({*seen.read_text().split()}) == 2) and time.monotonic() < until:
        time.sleep(0.05)
    workers = [int(pid) for pid in {*seen.read_text().split()}]
    assert len(workers) == 2
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    if number == signal.SIGINT:  # the program's own KeyboardInterrupt, and none of a worker
        assert errors.count("Traceback (most recent call last)") == 1 and "KeyboardInterrupt" in errors
    while any(psutil.pid_exists(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert [pid for pid in workers if psutil.pid_exists(pid)] == []


def test_chunks_are_bounded_in_rows_and_in_letters(monkeypatch):
    monkeypatch.setattr(pool, "CHUNK_ROWS", 3)
    monkeypatch.setattr(pool, "CHUNK_LETTERS", 10)
    assert list(chunked(["a"] * 7, len)) == [["a"] * 3, ["a"] * 3, ["a"]]
    assert list(chunked(["a" * 6, "b" * 6, "c" * 50, "d"], len)) == [["a" * 6, "b" * 6], ["c" * 50], ["d"]]
    assert list(chunked([], len)) == []

    def broken():
        yield from "ab"
        raise UserError("line 3")

    chunks = chunked(broken(), len)
    assert next(chunks) == ["a", "b"]
    with pytest.raises(UserError, match="line 3"):
        next(chunks)


def test_the_number_of_workers(monkeypatch):
    monkeypatch.delenv("ONESENTENCE_WORKERS", raising=False)
    assert 1 <= worker_count() <= len(os.sched_getaffinity(0))
    for value, count in (("1", 1), (" 3 ", 3), ("64", 64)):
        monkeypatch.setenv("ONESENTENCE_WORKERS", value)
        assert worker_count() == Pool().workers == count
    for value in ("0", "-1", "two", "1.5", "2 3"):
        monkeypatch.setenv("ONESENTENCE_WORKERS", value)
        with pytest.raises(UserError, match=r"ONESENTENCE_WORKERS: .* whole number of at least 1"):
            worker_count()


def test_the_affinity_of_the_process_limits_the_workers(tmp_path):
    program = "from onesentence.core.pool import worker_count; print(worker_count())"
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    environment.pop("ONESENTENCE_WORKERS", None)
    core = min(os.sched_getaffinity(0))
    result = subprocess.run(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{core}]); {program}"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "1"
