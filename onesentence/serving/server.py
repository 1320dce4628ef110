"""Listen, serve and stop: the HTTP server around a Service."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Generator

import uvicorn

from onesentence.core.errors import UserError
from onesentence.serving.app import Service
from onesentence.serving.guard import LOOPBACK
from onesentence.serving.limits import Limits

CONNECTIONS = 1_000  # at once; more get 503
GRACE = 5  # seconds beyond a request's own time-out, until a stop gives up on it


class Server(uvicorn.Server):
    """uvicorn's server; a signal that stops it leaves exit code 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take SIGTERM and SIGINT; uvicorn would raise them again once it has stopped."""
        if threading.current_thread() is not threading.main_thread():  # no other can take signals
            yield
            return
        before = {
            number: signal.signal(number, self.handle_exit) for number in uvicorn.server.HANDLED_SIGNALS
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound; a UserError if the address is taken or not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise UserError(
            f"--host: {host!r}: expected a name or an address of this machine, found neither"
        ) from error
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise UserError(f"--port: {host} {port}: {error.strerror}; choose another port or host") from error
    return bound


def url_of(bound: socket.socket) -> str:
    """The address of a socket, for a browser."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Serving:
    """A Service that listens at a bound socket."""

    def __init__(self, bound: socket.socket, limits: Limits, key: str | None = None) -> None:
        host = bound.getsockname()[0]
        # With a key, another site's script cannot use the service, whatever name a browser finds it by.
        hosts = tuple(dict.fromkeys((host, *LOOPBACK))) if is_loopback(host) and key is None else None
        self.bound, self.address, self.url = bound, bound.getsockname()[:2], url_of(bound)
        self.service = Service(limits, key, hosts)
        config = uvicorn.Config(
            self.service.app,
            http="h11",
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # a client's malformed request is no event of ours
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=int(limits.timeout) + GRACE,
        )
        self.server = Server(config)

    def run(self, model: str | None = None, compare: bool = False) -> None:
        """Serve until SIGTERM, SIGINT or `stop`: then no connection is accepted, and accepted requests are
        answered.

        Raises a UserError if a model cannot be loaded or fails the smoke test.
        """
        asyncio.run(self._run(model, compare))

    def stop(self) -> None:
        """End `run`, from any thread."""
        self.server.should_exit = True

    async def _run(self, model: str | None, compare: bool) -> None:
        print(f"serve: {self.url} listens; the model is being loaded", flush=True)
        loading = asyncio.create_task(self._load(model, compare))
        try:
            await self.server.serve(sockets=[self.bound])
            if loading.done():
                loading.result()  # raises what went wrong
        finally:
            loading.cancel()
            # Left by a second Ctrl-C, or by the time-out of the graceful end.
            dropped = bool(self.server.server_state.tasks)
            # For each of them uvicorn would print a traceback; one sentence follows.
            logging.getLogger("uvicorn.error").disabled = dropped
            await self.service.close()
        if dropped:
            raise UserError("serve: stopped before every accepted request was answered")
        print("serve: stopped; every accepted request was answered", flush=True)

    async def _load(self, model: str | None, compare: bool) -> None:
        try:
            await self.service.load(model, compare)
        except BaseException:
            self.stop()
            raise
        names = ", ".join(self.service.models)
        print(f"serve: {self.url} is ready, with {names}; Ctrl-C stops it", flush=True)
