"""One run in several processes, on one machine or on several, as `accelerate launch` starts them.

`accelerate launch` starts a stage in each process and numbers the processes from 0. Each one works on its
share of the rows. The first one (number 0) alone writes outputs, prints, and shows progress.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import io
import logging
import os
import secrets
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from onesentence.core import stopping
from onesentence.core.checkpoints import ROOT, claimed
from onesentence.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # not in its __all__

LAUNCH = "ONESENTENCE_LAUNCH"  # environment variable: options of `accelerate launch`
# Options of `accelerate launch` that it would warn about if they were missing; the user's own come later.
USUAL = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
ANY_PORT = ["--main_process_port", "0"]  # of this machine, so that two runs do not meet
END_SECONDS = "50"  # that a process has, once it is asked to end, before it is killed
BEAT_SECONDS = 2.0  # between two signs of life of a process
SILENT_SECONDS = 45.0  # without a sign of life, after which a process counts as lost
PATIENCE = 5.0  # seconds in which the first process may fail for the same reason, and say it
# At the end of a stage the fastest process may wait for hours. `_Beats` finds processes that are lost.
LONGEST_WAIT = timedelta(days=30)
ENDED, FAILED = "ended", "failed"
YES = ("1", "true", "yes")

Item = TypeVar("Item")


class _State:
    """What `join` has found out."""

    sharded = False


def count() -> int:
    """The number of processes of this run: 1 unless a launcher has started it."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else 1


def index() -> int:
    """The number of this process, from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def neighbours() -> int:
    """The number of processes that share this machine's memory: one for each GPU has its own."""
    import torch

    return 1 if torch.cuda.is_available() else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def first() -> bool:
    """Whether this process writes the outputs of the run."""
    return index() == 0


def sharded() -> bool:
    """Whether each process holds only a part of the model (FSDP: fully sharded data parallel).

    Known once the processes have joined.
    """
    return _State.sharded


def share(items: Sequence[Item]) -> Sequence[Item]:
    """This process's part of a sequence: every `count()`-th item."""
    return items[index() :: count()] if count() > 1 else items


def kind() -> str:
    """How many processes compute, for a fingerprint: other numbers add up in another order."""
    return f"{count()} processes{', sharded' if sharded() else ''}" if count() > 1 else "1 process"


def to_launch() -> bool:
    """Whether the user asks for several processes and this is none of them yet."""
    return bool(os.environ.get(LAUNCH, "").strip()) and count() == 1


def launch(module: str, arguments: Sequence[str]) -> None:
    """Run a stage in several processes and wait for their end.

    module: the stage's, such as "stages.train"; arguments: of its command line. The options in
    ONESENTENCE_LAUNCH go to `accelerate launch`. Raises UserError for options that it does not take, or if a
    process was killed. Exits with 1 if a process failed, which has then said why.
    """
    # The agent of torch.distributed logs what it does, and each failure again. The stage says it once.
    logging.disable(logging.ERROR)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch reads it when it is imported
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", END_SECONDS)
    from accelerate.commands.launch import launch_command
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    options = _options(module, arguments)
    try:
        launch_command(options)
    except SignalException as error:
        # The first process has said how far it came.
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        # Another process may have noticed the lost connection, and have ended, before the launcher looked.
        killed = [(rank, -failed.exitcode) for rank, failed in error.failures.items() if failed.exitcode < 0]
        if not killed:
            sys.exit(1)
        rank, number = killed[0]
        raise UserError(
            f"process {rank} of {options.num_processes} was ended by {signal.Signals(number).name}, and the "
            "others with it; run the same command again: it goes on from its last checkpoint, if it has one"
        ) from error


def _options(module: str, arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed options of `accelerate launch`; a UserError if it does not take them."""
    from accelerate.commands.launch import launch_command_parser

    given = os.environ[LAUNCH]
    try:
        words = shlex.split(given)
    except ValueError as error:
        raise UserError(f"{LAUNCH}: {given!r}: {error}; close the quotation") from error
    usual = [*USUAL, *ANY_PORT, *([] if "--use_fsdp" in words else ["--multi_gpu"])]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            options = launch_command_parser().parse_args([*usual, *words, "-m", module, *arguments])
    except SystemExit as error:
        reason = said.getvalue().strip().rpartition("error: ")[2] or "not options of accelerate launch"
        raise UserError(
            f"{LAUNCH}: {given!r}: {reason}; expected options of `accelerate launch`, such as "
            "'--num_processes 2'"
        ) from error
    if options.training_script != module or (options.num_processes or 0) < 2:
        raise UserError(
            f"{LAUNCH}: {given!r}: expected options of `accelerate launch` with --num_processes of at least "
            "2 and no program; for one process, unset the variable"
        )
    assert isinstance(options, argparse.Namespace)
    if options.num_machines > 1 and not (options.main_process_ip and options.main_process_port):
        raise UserError(
            f"{LAUNCH}: {given!r}: several machines need --main_process_ip and --main_process_port, the same "
            "on each, and a --machine_rank of their own"
        )
    return options


def run(main: Callable[[], None]) -> None:
    """Call a stage's `main` in one of several processes; only the first one prints.

    A process that fails tells the others, which end.
    """
    if not first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  open until the end
    ending = FAILED
    try:
        main()
        ending = ENDED
    except UserError:
        if not first():
            # Bad input fails everywhere. The first process says so, and its end ends this one.
            try:
                time.sleep(PATIENCE)
            except stopping.Stopped as stopped:
                sys.exit(stopped.exit_code)
        raise
    except stopping.Stopped as stopped:
        if not first():
            sys.exit(stopped.exit_code)
        raise
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        raise UserError(
            "the connection to another process of this run was lost, most likely because it has ended; run "
            "the same command again on every machine: it goes on from its last checkpoint, if it has one"
        ) from error
    finally:
        # The launcher may ask this process to end while Python ends it, where nothing can handle a signal.
        for number in stopping.SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        _beats.end(ending)


def leave_after(work: Callable[[], None]) -> NoReturn:
    """Call `work` and end this process of several with its exit code, whether it returns, exits or fails.

    The interpreter is not torn down. Threads of Gloo may still hold tensors of the last exchange. If they let
    go of them while Python ends, they wait for the interpreter's lock, and that aborts the process
    (pytorch/pytorch, issue 190489). A run that has written all its outputs would then count as killed.
    """
    code = 0
    try:
        work()
    except SystemExit as ending:
        if isinstance(ending.code, str):  # what Python does with a message
            print(ending.code, file=sys.stderr)
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException as error:  # noqa: BLE001  it is shown, as Python would
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # the reader of a pipe has gone
            stream.flush()
    os._exit(code)


def _is_lost_connection(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()


def join(sharding: bool) -> None:
    """Connect the processes of a run. Call it after `set_up`; nothing happens in a run of one process.

    sharding: whether this stage can divide a model among the processes; otherwise each holds all of it.
    """
    if count() == 1:
        return
    # accelerate must not divide the model a second time.
    _State.sharded = os.environ.pop("ACCELERATE_USE_FSDP", "").lower() in YES and sharding
    for name, what in (("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron-LM")):
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in YES:
            raise UserError(f"accelerate launch: {what} is not supported; use --multi_gpu or --use_fsdp")
    if sharded() and os.environ.get("FSDP_OFFLOAD_PARAMS", "").lower() in YES:
        raise UserError("accelerate launch: --fsdp_offload_params is not supported; use more processes")
    import torch
    from accelerate import PartialState

    if (interface := _interface()) is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    with _quiet_gloo():
        PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)
        gathered("")
    _beats.start()


def _interface() -> str | None:
    """The network interface by which this machine reaches the first one.

    Gloo would take the address of the machine's name, which is often 127.0.1.1.
    """
    import psutil

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))  # sends nothing
        except OSError:  # an address of another kind; Gloo finds its own
            return None
        own = probe.getsockname()[0]
    found = psutil.net_if_addrs().items()
    return next((name for name, given in found if own in {address.address for address in given}), None)


@contextmanager
def _quiet_gloo() -> Iterator[None]:
    """Inside, what C++ code prints on stdout is dropped: Gloo prints a line for each process it finds."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)


def _device() -> torch.device:
    """Where the tensors are that processes exchange."""
    import torch

    return torch.device("cuda" if torch.distributed.get_backend() == "nccl" else "cpu")


def gathered(text: str) -> list[str]:
    """What each process passes, in their order. It waits until every process calls it."""
    if count() == 1:
        return [text]
    import torch

    data = text.encode()
    lengths = [torch.zeros(1, dtype=torch.int64, device=_device()) for _ in range(count())]
    torch.distributed.all_gather(lengths, torch.tensor([len(data)], device=_device()))
    longest = max(1, *(int(length) for length in lengths))
    padded = torch.tensor(list(data.ljust(longest)), dtype=torch.uint8, device=_device())
    parts = [torch.empty_like(padded) for _ in range(count())]
    torch.distributed.all_gather(parts, padded)
    return [bytes(part[: int(length)].tolist()).decode() for part, length in zip(parts, lengths, strict=True)]


def summed(*numbers: float) -> list[float]:
    """The sum of each number over all processes."""
    if count() == 1:
        return list(numbers)
    import torch

    values = torch.tensor(numbers, dtype=torch.float64, device=_device())
    torch.distributed.all_reduce(values)
    return [float(value) for value in values.tolist()]


def wait_for_all() -> None:
    """Return once every process has called this."""
    gathered("")


def stop_requested() -> int | None:
    """The signal that asked a process of the run to stop, the same answer in each; None if none has come.

    Every process must call it at the same place.
    """
    number = stopping.requested()
    if count() == 1:
        return number
    received = [int(text) for text in gathered(str(number or 0))]
    return next((other for other in [number or 0, *received] if other), None)


@contextmanager
def claimed_together(stage: str, key: str) -> Iterator[Path]:
    """As `checkpoints.claimed`: the first process claims the folder, and all of them use it.

    Raises UserError if the processes differ in what determines the result, or do not see the same folder.
    """
    if count() == 1:
        with claimed(stage, key) as folder:
            yield folder
        return
    keys = gathered(key)
    other = next((number for number, found in enumerate(keys) if found != keys[0]), None)
    if other is not None:
        raise UserError(
            f"{stage}: process {other} has other data, settings, code, packages or devices than process 0; "
            "use the same commit, the same environment and the same `dvc pull` on every machine"
        )
    if not first():
        folder = _others_folder(stage)
        yield folder
        wait_for_all()
        return
    with claimed(stage, key) as folder:
        # A file with a word that only this run knows: another machine may have a folder of the same name.
        mark = folder / "seen-by-all"
        mark.write_text(word := secrets.token_hex(8), encoding="utf-8")
        gathered(f"{word} {folder}")
        blind = [number for number, seen in enumerate(gathered("yes")) if seen != "yes"]
        mark.unlink()
        if blind:
            raise _not_shared(stage, blind[0], folder)
        yield folder
        wait_for_all()


def _others_folder(stage: str) -> Path:
    """The folder that the first process has claimed; a UserError unless this one sees it."""
    word, _, name = gathered("")[0].partition(" ")
    folder = Path(name)
    try:
        sees = (folder / "seen-by-all").read_text(encoding="utf-8") == word
    except OSError:
        sees = False
    gathered("yes" if sees else "no")
    if not sees:
        raise _not_shared(stage, index(), folder)
    return folder


def _not_shared(stage: str, number: int, folder: Path) -> UserError:
    return UserError(
        f"{stage}: process {number} does not see the folder of checkpoints {folder}; name a folder that "
        f"every machine sees in {ROOT}"
    )


class _Beats:
    """Signs of life: each process counts up in a store that all reach, and looks at the others' numbers.

    A process that waits for a killed one, or for a machine that is gone, would wait until `LONGEST_WAIT`. It
    may sit in compiled code, where no Python signal handler runs. So a thread ends it.
    """

    def __init__(self) -> None:
        self._store: PrefixStore | None = None
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()  # the work is done, or has failed
        self._known = threading.Event()  # the others know it
        self._answered = 0.0  # when the store answered last (time.monotonic)

    def start(self) -> None:
        """Begin to give signs of life and to watch the others. Call it once, in every process."""
        from torch.distributed import (  # type: ignore[attr-defined]  # not in its __all__
            PrefixStore,
            TCPStore,
        )

        # The launcher's store, at the address at which the processes found each other. It serves one stage.
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._store = PrefixStore("onesentence", TCPStore(address, port, None, False))
        self._store.set(str(index()), "0")
        self._answered = time.monotonic()
        for work in (self._watch, self._watch_store):
            thread = threading.Thread(target=work, name="signs-of-life", daemon=True)
            self._threads.append(thread)
            thread.start()

    def end(self, how: str) -> None:
        """Tell the others that this process has ended, and how (ENDED or FAILED).

        The threads end too: Python would end them by an exception in compiled code, which aborts the process.
        """
        self._over.set()
        for thread in self._threads[:1]:
            thread.join(timeout=2 * BEAT_SECONDS)
        if self._store is not None:
            with contextlib.suppress(RuntimeError):  # the store is gone with its machine
                self._store.set(str(index()), how)
        self._known.set()
        for thread in self._threads:
            thread.join(timeout=2 * BEAT_SECONDS)

    def _watch(self) -> None:
        assert self._store is not None
        others = {number: ("", time.monotonic()) for number in range(count()) if number != index()}
        number = 0
        while not self._over.wait(BEAT_SECONDS):
            number += 1
            try:
                self._store.set(str(index()), str(number))
                found = {other: self._store.get(str(other)).decode() for other in others}
            except RuntimeError:
                self._leave("the machine that started this run does not answer")
                return
            self._answered = now = time.monotonic()
            for other, value in found.items():
                before, since = others[other]
                if value != before:
                    others[other] = (value, now)
                if value == FAILED or (value != ENDED and now - since > SILENT_SECONDS):
                    # A failing process says why, and its launcher ends the others on its machine.
                    time.sleep(PATIENCE if value == FAILED else 0)
                    how = "has ended" if value == FAILED else "does not answer any more"
                    self._leave(f"process {other} of {count()} {how}")

    def _watch_store(self) -> None:
        # A question to a machine that is gone, or behind a cut network, is not answered at all.
        while not self._known.wait(BEAT_SECONDS):
            if time.monotonic() - self._answered > SILENT_SECONDS:
                self._leave("the machine that started this run does not answer")

    def _leave(self, what: str) -> None:
        if self._known.is_set():
            return
        sys.stderr.write(
            f"\nerror: {what}; run the same command again on every machine: it goes on from its last "
            "checkpoint, if it has one\n"
        )
        sys.stderr.flush()
        os._exit(1)


_beats = _Beats()
