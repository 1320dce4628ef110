"""The outer layer of the service: who may ask, how much they may send, and what every answer carries."""

from __future__ import annotations

import asyncio
import hmac
import logging
from time import monotonic
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

from onesentence.serving.requests import RefusedError
from onesentence.serving.responses import error_response

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from onesentence.serving.limits import Limits
    from onesentence.serving.telemetry import Telemetry

LOGGER = logging.getLogger(__name__)
OPEN = ("/", "/health")  # routes that need no key: a browser cannot send one with the page's address
ASSETS = "/assets/"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_POLICY = f"{POLICY}; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """ASGI middleware. hosts: names that the Host header may have; None: any."""

    def __init__(
        self,
        app: ASGIApp,
        key: str | None,
        hosts: tuple[str, ...] | None,
        routes: frozenset[str],
        telemetry: Telemetry,
    ) -> None:
        self.app, self.key, self.hosts, self.routes, self.telemetry = app, key, hosts, routes, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request, with an error in JSON whatever happens."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = monotonic(), 0
        path = scope["path"]
        route = path if path in self.routes else "other"  # a client must not invent labels

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self.check(Headers(scope=scope), path)
            await self.app(scope, receive, sending)
        except RefusedError as error:
            await error_response(error)(scope, receive, sending)
        except Exception:  # an error of the code: the log has its traceback, and the client must not
            LOGGER.exception("%s %s failed", scope["method"], route)
            if not status:  # nothing was sent yet
                await error_response(RefusedError(500, "the service failed; its log says why"))(
                    scope, receive, sending
                )
        finally:
            self.telemetry.requests.labels(route, str(status)).inc()
            self.telemetry.seconds.labels(route).observe(monotonic() - started)

    def check(self, headers: Headers, path: str) -> None:
        """Raise a RefusedError without the key, or for another site in a browser (DNS rebinding)."""
        if self.hosts is not None and host_of(headers.get("host", "")) not in self.hosts:
            names = ", ".join(self.hosts)
            raise RefusedError(
                421, f"Host: expected one of {names}; open the service under that name", "Host"
            )
        if self.key is None or path in OPEN or path.startswith(ASSETS):
            return
        scheme, _, found = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(found.strip().encode("utf-8", "replace"), self.key.encode())
        if scheme.lower() != "bearer" or not same:
            raise RefusedError(
                401, "Authorization: expected `Bearer KEY` with the service's API key", "Authorization"
            )


def host_of(header: str) -> str:
    """The name or address in a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body of a request, which must be JSON within the limits."""
    media, _, rest = request.headers.get("content-type", "").partition(";")
    charset = rest.replace(" ", "").lower().removeprefix("charset=").strip('"')
    if media.strip().lower() != "application/json" or charset not in ("", "utf-8"):
        raise RefusedError(415, "Content-Type: expected application/json in UTF-8", "Content-Type")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RefusedError(
            415, "Content-Encoding: expected none; send the body uncompressed", "Content-Encoding"
        )
    too_large = RefusedError(
        413, f"body: expected at most {limits.max_body_bytes:,} bytes; send less at once"
    )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limits.max_body_bytes:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limits.max_body_bytes:
            raise too_large
        parts.append(part)
    return b"".join(parts)


async def client_left(request: Request) -> None:
    """Return once the client has closed the connection. Call it after the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        await asyncio.sleep(0)
