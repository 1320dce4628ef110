"""The head of a study on several machines: it gives variants to the workers of a Dask scheduler."""

import hashlib
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from distributed import Client, Future, Variable
from distributed.scheduler import KilledWorker

from onesentence.core.errors import UserError
from onesentence.study import guard, remotes, worker
from onesentence.study.clone import Clone, ref_of
from onesentence.study.experiments import git, make_the_only, pipeline_here
from onesentence.study.jobs import Job, drop_clones
from onesentence.study.pool import Ended, log_of
from onesentence.study.remote_run import Assignment
from onesentence.study.remotes import Remotes, patiently

RETRIES = 2  # of a variant whose worker or remote was at fault
LOSSES = 3  # workers that may be lost under a variant, as distributed.scheduler.allowed-failures has it
RENEWED = 2.0  # seconds between two signs of this head
CONNECT = 15  # seconds that the scheduler has to answer
ASKED_TO_WAIT = 60.0  # seconds without a worker after which the sentence comes once more
# What a client raises whose scheduler is gone: no connection, a closed client, or nothing to ask it by.
LOST = (OSError, RuntimeError, ValueError, AttributeError)
Result = TypeVar("Result")


def connect(address: str) -> Client:
    """A client of the scheduler at an address, or of the one whose file `address` is; a UserError where none
    answers.

    TLS certificates are those of Dask's configuration (distributed.comm.tls).
    """
    place: dict[str, Any] = {"address": address}
    if address.endswith(".json"):
        if not Path(address).is_file():
            raise UserError(
                f"--scheduler: {address}: not found; expected the file that `dask scheduler "
                "--scheduler-file` writes, or an address such as tcp://HOST:8786"
            )
        place = {"scheduler_file": address}
    elif "://" not in address:
        raise UserError(
            f"--scheduler: expected an address such as tcp://HOST:8786 or tls://HOST:8786, or the file "
            f"(.json) that `dask scheduler --scheduler-file` writes, found {address!r}"
        )
    try:
        return Client(**place, timeout=CONNECT, set_as_default=False, name="onesentence-study")
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"--scheduler: no Dask scheduler answers at {address} ({_first_line(error)}); start one with "
            "`dask scheduler`, and check the address and, for tls://, the certificates in Dask's settings"
        ) from error


def _first_line(error: BaseException) -> str:
    """The first line of an error's message, or its name where it has none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def identity() -> tuple[str, str]:
    """Name and e-mail of the user for the commits of experiments."""
    name, _, rest = git("var", "GIT_AUTHOR_IDENT").strip().partition(" <")
    return name, rest.partition(">")[0]


def host_of(address: str) -> str:
    """The host of a worker's address, such as tcp://10.0.0.2:34567."""
    return address.partition("://")[2].rpartition(":")[0]


def lost_workers(count: int, last: str) -> str:
    """The log of a variant that no worker survived."""
    return (
        f"{count} workers died while they ran this variant, the last of them {last}; a machine's memory may "
        "be too small for it\n"
    )


class Workers:
    """The pool of a Dask scheduler: each of its workers runs one variant at a time.

    Experiments come back through the git remote, scores through DVC's.
    """

    def __init__(self, address: str, study: str, commit: str, git_remote: str | None) -> None:
        self.remotes: Remotes = remotes.find(git_remote, commit)
        self.address, self.study, self.commit = address, study, commit
        self.profile = worker.own_profile()
        self.identity = identity()
        self.client = connect(address)
        self.futures: dict[str, Future] = {}
        self.given: dict[str, str] = {}  # the place that a variant was given to
        self.lasts: dict[str, str] = {}
        self.unfit: dict[str, str] = {}
        self.sentences: list[str] = []
        self.tries: Counter[str] = Counter()
        self.alone_since = time.monotonic()
        own = hashlib.sha256(f"{socket.gethostname()}:{Path.cwd()}".encode()).hexdigest()[:12]
        self.lease = worker.Lease(f"onesentence-study-{own}", uuid.uuid4().hex)
        self.variable = Variable(self.lease.name, client=self.client)
        self.over = threading.Event()
        self.renewing = threading.Thread(target=self._renew, daemon=True)

    def open(self) -> None:
        """Take over the lease, so that variants of a killed head end, and check every worker.

        Raises UserError where a worker cannot run variants as this machine would.
        """
        self._ask(lambda: self.variable.set([self.lease.head, 0]))
        self.renewing.start()
        if self.remotes.kept_back:
            self.sentences.append(
                f"study: workers do not get {', '.join(self.remotes.kept_back)} of DVC's remote "
                f"{self.remotes.storage}; each needs its own way in (docs/scaling.md)"
            )
        found = self._check(list(self._workers()))
        if found:
            self.close()
            raise UserError("study: " + "; ".join(found))
        if not self._workers():
            self.sentences.append(self._no_worker())

    def _no_worker(self) -> str:
        """The sentence about a scheduler without workers."""
        return (
            f"study: no worker is connected to {self.address} yet; start some with "
            f"`dask worker {self.address} --nthreads 1` (docs/scaling.md)"
        )

    def _check(self, places: list[str]) -> list[str]:
        """Check workers, and mark those that cannot run variants; returns a sentence for each of them."""
        if not places:
            return []
        pins = tuple(self.profile.packages)
        url, options = self.remotes.url, self.remotes.options
        reports = self._ask(
            lambda: self.client.run(worker.report, pins, url, options, workers=places, on_error="return")
        )
        found = []
        for place, report in reports.items():
            if isinstance(report, worker.Report):
                difference = self.profile.difference(report.profile)
                reasons = [f"it has {difference}"] * bool(difference) + list(report.problems)
                self.lasts[place] = next(iter(report.lasts), "")
            else:
                reasons = [
                    f"it cannot run this project ({_first_line(report)}); start it in this environment"
                ]
            if reasons:
                self.unfit[place] = "; ".join(reasons)
                found.append(f"worker {place}: {self.unfit[place]}")
        return found

    def _workers(self) -> set[str]:
        """The addresses of the connected workers.

        `Client.scheduler_info` would be wrong now and then: the client replaces what it has just fetched by
        the answer without workers that it asks for every 2 seconds (2026.8.0).
        """
        return set(self._ask(self.client.nthreads))

    def _ask(self, action: Callable[[], Result]) -> Result:
        """The answer of the scheduler; a UserError where it is gone."""
        try:
            return action()
        except LOST as error:
            raise UserError(
                f"study: the scheduler at {self.address} is lost ({_first_line(error)}); start it again, "
                "then the same command: finished runs are kept"
            ) from error

    def _renew(self) -> None:
        """Renew the lease until `close`. Where the scheduler is lost, the main thread notices."""
        beat = 0
        while not self.over.wait(RENEWED):
            beat += 1
            try:
                self.variable.set([self.lease.head, beat], timeout=RENEWED * 5)
            except LOST:
                continue

    def refs(self, names: list[str]) -> list[str]:
        """The refs of experiments of this commit."""
        return [ref_of(self.commit, name) for name in names]

    def fetch_finished(self, names: list[str]) -> None:
        """Fetch the experiments that a killed head's workers have finished, or another machine has."""
        for ref in remotes.held(self.remotes.git, self.refs(names)):
            self._take(ref)

    def _take(self, ref: str) -> None:
        """Fetch an experiment and its scores. The ref comes last: what has one here is complete."""
        commit = patiently(lambda: remotes.fetch_commit(self.remotes.git, ref))
        patiently(lambda: remotes.fetch_scores(commit, self.remotes.storage))
        git("update-ref", ref, commit)
        make_the_only(ref)

    def _busy(self) -> set[str]:
        """Workers that run a variant, or were given one and have not taken it yet."""
        processing: dict[str, Any] = self._ask(self.client.processing)
        taken = {str(key) for keys in processing.values() for key in keys}
        given = {self.given[name] for name, future in self.futures.items() if future.key not in taken}
        return {place for place, keys in processing.items() if keys} | given

    def places(self) -> list[str]:
        workers = self._workers()
        self.lasts = {place: name for place, name in self.lasts.items() if place in workers}
        new = [place for place in workers if place not in self.lasts and place not in self.unfit]
        if new:
            self.sentences += [f"study: left out: {sentence}" for sentence in self._check(new)]
        if workers:
            self.alone_since = time.monotonic()
        elif time.monotonic() - self.alone_since > ASKED_TO_WAIT and self.alone_since:
            self.sentences.append(self._no_worker())
            self.alone_since = 0.0  # once
        busy = self._busy()
        return [place for place in workers if place not in busy and place not in self.unfit]

    def last(self, place: str) -> str:
        return self.lasts.get(place, "")

    def held(self, place: str) -> set[str]:
        return {last for other, last in self.lasts.items() if other != place}

    def start(self, place: str, name: str, values: dict[str, Any]) -> None:
        neighbours = sum(host_of(each) == host_of(place) for each in self._workers())
        task = Assignment(
            name=name,
            values=values,
            commit=self.commit,
            url=self.remotes.url,
            storage=self.remotes.storage,
            options=self.remotes.options,
            identity=self.identity,
            pipeline=pipeline_here(),
        )
        self.tries[name] += 1
        self.futures[name] = self._ask(
            lambda: self.client.submit(
                worker.run_variant,
                task,
                self.lease,
                self.profile,
                self.last(place),
                neighbours,
                key=f"{self.study}-{name}-{self.lease.head[:8]}-{self.tries[name]}",
                pure=False,
                retries=RETRIES,
                workers=[place],
                allow_other_workers=True,  # where this one is lost
            )
        )
        self.given[name] = place
        self.lasts[place] = name

    def ended(self) -> list[Ended]:
        done = [self._end(name) for name, future in list(self.futures.items()) if future.done()]
        return done + [self._give_up(name) for name in self._stranded()]

    def _stranded(self) -> list[str]:
        """Variants whose worker was lost when there was no other one.

        Dask gives a variant of a lost worker to another that is connected. It does not give it to one that
        connects later (2026.8.0: tasks that prefer a worker wait for that very one).
        """
        if not self.futures:
            return []
        taken = {str(key) for keys in self._ask(self.client.processing).values() for key in keys}
        workers = self._workers()
        return [
            name
            for name, future in self.futures.items()
            if not future.done() and future.key not in taken and self.given[name] not in workers
        ]

    def _give_up(self, name: str) -> Ended:
        """Take a variant back from the scheduler: it must run again, unless too many workers were lost."""
        future, place = self.futures.pop(name), self.given.pop(name)
        self._ask(lambda: self.client.cancel([future]))
        if self.tries[name] <= LOSSES:
            return Ended(name, "again")
        log_of(name).write_text(lost_workers(self.tries[name], place), encoding="utf-8")
        return Ended(name, "failed")

    def _end(self, name: str) -> Ended:
        """Take the result of a variant whose future is done."""
        future = self.futures.pop(name)
        del self.given[name]
        if future.status == "finished":
            outcome: worker.Outcome = self._ask(future.result)
            if outcome.state == "unfit":
                self.unfit[outcome.place] = outcome.text
                self.sentences.append(f"study: left out: worker {outcome.place}: it has {outcome.text}")
            log_of(name).write_text(outcome.text, encoding="utf-8")
            if outcome.state == "done":
                self._take(ref_of(self.commit, name))
                return Ended(name, "done", outcome.cost)
            return Ended(name, "failed" if outcome.state == "failed" else "again")
        if future.status == "error":
            log_of(name).write_text(self._reason(future.exception()), encoding="utf-8")
            return Ended(name, "failed")
        raise UserError(
            f"study: the scheduler at {self.address} has lost {name}; start it again, then the same command: "
            "finished runs are kept"
        )

    def _reason(self, error: BaseException | None) -> str:
        """Why a variant has no result, for its log."""
        if isinstance(error, KilledWorker):
            return lost_workers(error.allowed_failures + 1, getattr(error.last_worker, "address", ""))
        return f"{type(error).__name__}: {error}\n"

    def running(self) -> list[str]:
        return list(self.futures)

    def news(self) -> list[str]:
        sentences, self.sentences = self.sentences, []
        return sentences

    def close(self) -> None:
        """End the variants on the workers, and wait for their end. Clones and checkpoints stay there."""
        self.over.set()
        if self.renewing.is_alive():
            self.renewing.join(timeout=RENEWED * 5)
        try:
            self.variable.set(["", 0], timeout=RENEWED * 5)
            deadline = time.monotonic() + guard.PATIENCE + 10
            while time.monotonic() < deadline and not all(each.done() for each in self.futures.values()):
                time.sleep(0.2)
            if self.futures:
                self.client.cancel(list(self.futures.values()))
        except LOST:
            pass  # the scheduler is lost: the workers end their variants when the lease has run out

    def clone(self) -> Clone:
        """A clone on this machine."""
        return Job(0, self.commit, 1, inputs=False)

    def drop(self) -> None:
        drop_clones()
        try:
            self.client.run(worker.drop, self.remotes.url, on_error="ignore")
            self.variable.delete()
        except LOST:
            pass  # what stays is used by the next study
        self.client.close()
