"""The routes of the service, and its models, which are loaded and checked after it has begun to listen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from onesentence.core.errors import UserError
from onesentence.generation.smoke_test import BrokenModelError
from onesentence.serving import page
from onesentence.serving.batching import Batcher, QueueFullError
from onesentence.serving.guard import PAGE_POLICY, Guard, client_left, read_body
from onesentence.serving.limits import Limits
from onesentence.serving.requests import (
    Asked,
    RefusedError,
    check_max_tokens,
    read_completion,
    read_summarize,
)
from onesentence.serving.responses import completion_body, error_response, json_response, summaries_body
from onesentence.serving.telemetry import Telemetry

if TYPE_CHECKING:
    from onesentence.inference.models import ModelSource
    from onesentence.inference.summarizer import Summarizer, Summary

LEFT = 499  # nginx's status for a client that left before its answer; nobody receives it


@dataclass
class Served:
    """A model of the service. name: as clients know it."""

    name: str
    summarizer: Summarizer
    batcher: Batcher


def find_models(model: str | None, compare: bool) -> list[ModelSource]:
    """The model to serve, and its untuned base with `compare`; a UserError in this command's own options."""
    from onesentence.inference.models import find

    try:
        return [find(model, untuned) for untuned in ((False, True) if compare else (False,))]
    except UserError as error:
        text = str(error).replace("--untuned:", "--compare:").replace("--untuned", "--model FOLDER")
        raise UserError(text) from error


def public_name(name: str) -> str:
    """The name by which clients know a model: of an absolute path, its last part alone."""
    return Path(name).name if Path(name).is_absolute() else name


class Service:
    """The models and the routes. state: starting, ready or stopping. hosts: see `guard.Guard`.

    `load` may take minutes, and the routes answer 503 until then.
    """

    def __init__(self, limits: Limits, key: str | None = None, hosts: tuple[str, ...] | None = None) -> None:
        self.limits, self.key, self.state = limits, key, "starting"
        self.models: dict[str, Served] = {}
        self.telemetry = Telemetry()
        self.executor = ThreadPoolExecutor(1, "model")  # one: a batch uses every thread of torch
        routes = [
            Route("/", self.index, methods=["GET"]),
            Route("/assets/{name}", self.asset, methods=["GET"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/summarize", self.summarize, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/models", self.list_models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.get_model, methods=["GET"]),
        ]
        known = frozenset(route.path for route in routes if "{" not in route.path)
        self.app = Starlette(
            routes=routes,
            middleware=[Middleware(Guard, key=key, hosts=hosts, routes=known, telemetry=self.telemetry)],
            exception_handlers={HTTPException: http_error},
        )
        self.app.router.redirect_slashes = False

    async def load(self, model: str | None, compare: bool) -> None:
        """Load the model, with `compare` its untuned base too, and put both through the smoke test."""

        def loaded() -> list[Summarizer]:
            from onesentence.inference.summarizer import Summarizer  # takes seconds: not in the loop's thread

            summarizers = [Summarizer.of(source) for source in find_models(model, compare)]
            for summarizer in summarizers:
                summarizer.check()
            return summarizers

        for summarizer in await asyncio.get_running_loop().run_in_executor(self.executor, loaded):
            self.add(summarizer)
        self.state = "ready"

    def add(self, summarizer: Summarizer) -> None:
        """Serve a model."""
        name, telemetry = public_name(summarizer.name), self.telemetry
        if name in self.models:
            raise UserError(f"--compare: the model and its base are both named {name!r}; rename a folder")

        def observe(articles: int, seconds: float) -> None:
            telemetry.batch_articles.labels(name).observe(articles)
            telemetry.batch_seconds.labels(name).observe(seconds)

        batcher = Batcher(summarizer.summarize, self.executor, self.limits, observe)
        telemetry.watch_queue(name, batcher.__len__)
        self.models[name] = Served(name, summarizer, batcher)

    async def close(self) -> None:
        """End the work of every model. Call it when no request waits."""
        self.state = "stopping"
        for model in self.models.values():
            await model.batcher.close()
        # The executor's one thread may still be loading a model, which cannot be interrupted.
        await asyncio.to_thread(self.executor.shutdown, wait=True, cancel_futures=True)

    def chosen(self, name: str | None) -> Served:
        """The model of that name, or the first one."""
        if self.state != "ready":
            raise RefusedError(503, f"the service is {self.state}; ask again soon", retry=1)
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            known = ", ".join(self.models)
            raise RefusedError(404, f"model: not served here; expected {known}", "model")
        return self.models[name]

    async def answers(self, request: Request, model: Served, asked: Asked) -> list[Summary]:
        """The summaries of a request's articles. Work for a client that has left is dropped."""
        work = asyncio.create_task(model.batcher.submit(asked.articles))
        left = asyncio.create_task(client_left(request))
        try:
            await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientDisconnect
            summaries = work.result()
        except QueueFullError as error:
            raise RefusedError(503, str(error), retry=error.seconds) from error
        except BrokenModelError:
            raise  # the client's article is not at fault: 500, and the log says why
        except UserError as error:  # such as an article of one character that does not fit the prompt
            raise RefusedError(422, str(error)) from error
        finally:
            work.cancel()
            left.cancel()
        for summary in summaries:
            self.telemetry.summaries.labels(model.name, summary.status).inc()
            self.telemetry.tokens.labels(model.name, "read").inc(summary.input_tokens)
            self.telemetry.tokens.labels(model.name, "written").inc(summary.output_tokens)
        return summaries

    async def timed(
        self, request: Request, answer: Callable[[Request, bytes], Awaitable[Response]]
    ) -> Response:
        """What `answer` makes of the request and its body, within the time that a request has."""
        body, limit = None, self.limits.timeout
        try:
            async with asyncio.timeout(limit):
                body = await read_body(request, self.limits)
                return await answer(request, body)
        except ClientDisconnect:
            return Response(status_code=LEFT)
        except TimeoutError:
            if body is None:
                raise RefusedError(
                    408, f"body: expected its end within {limit:g} s; send it faster"
                ) from None
            raise RefusedError(
                504, f"no answer within {limit:g} s; send fewer articles or ask again", retry=1
            ) from None

    async def summarize(self, request: Request) -> Response:
        """POST /summarize."""
        return await self.timed(request, self.summaries)

    async def summaries(self, request: Request, body: bytes) -> Response:
        """The answer to a body of POST /summarize."""
        asked = read_summarize(body, self.limits)
        model = self.chosen(asked.model)
        summaries = await self.answers(request, model, asked)
        # Marks take time that grows with the article: not in the thread that answers everybody.
        return json_response(await asyncio.to_thread(summaries_body, model.name, asked, summaries))

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions, for programs that speak OpenAI's protocol."""
        return await self.timed(request, self.completed)

    async def completed(self, request: Request, body: bytes) -> Response:
        """The answer to a body of POST /v1/completions."""
        asked, max_tokens = read_completion(body, self.limits)
        model = self.chosen(asked.model)
        check_max_tokens(max_tokens, model.summarizer.settings.generate.max_new_tokens)
        return json_response(completion_body(model.name, await self.answers(request, model, asked)))

    async def list_models(self, request: Request) -> Response:
        """GET /v1/models."""
        self.chosen(None)
        return json_response({"object": "list", "data": [model_entry(name) for name in self.models]})

    async def get_model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        return json_response(model_entry(self.chosen(request.path_params["name"]).name))

    async def health(self, request: Request) -> Response:
        """GET /health: 200 once every model has passed the smoke test."""
        return json_response({"status": self.state}, 200 if self.state == "ready" else 503)

    async def metrics(self, request: Request) -> Response:
        """GET /metrics."""
        return Response(self.telemetry.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def index(self, request: Request) -> Response:
        """GET /: the page."""
        languages = {model.name: model.summarizer.language for model in self.models.values()}
        html = page.render(self.state, languages, self.limits, needs_key=self.key is not None)
        return Response(html, media_type="text/html", headers={"Content-Security-Policy": PAGE_POLICY})

    async def asset(self, request: Request) -> Response:
        """GET /assets/NAME: a style sheet or the script of the page."""
        name = request.path_params["name"]
        with suppress(KeyError):
            path, media = page.ASSETS[name]
            return Response(path.read_bytes(), media_type=media)
        raise HTTPException(404)


def model_entry(name: str) -> dict[str, Any]:
    """A model in OpenAI's form. created is 0: the service does not know when."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "onesentence"}


async def http_error(request: Request, error: Exception) -> Response:
    """An error of Starlette's routing: no such route, or another method."""
    assert isinstance(error, HTTPException)
    headers = error.headers or {}
    words = {404: "no such address", 405: f"expected {headers.get('Allow')}, found {request.method}"}
    response = error_response(RefusedError(error.status_code, words.get(error.status_code, error.detail)))
    response.headers.update(headers)
    return response
