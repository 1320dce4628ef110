"""A service with a real model that runs in this process, on loopback, and a client that counts on nothing."""

import http.client
import json
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from conftest import ROOT

from onesentence.core.files import write_json
from onesentence.serving.limits import Limits
from onesentence.serving.server import Serving, listen

PATIENCE = 60  # seconds until a test gives up on a service


@contextmanager
def running(model: Path | str, limits: Limits | None = None, key: str | None = None, compare: bool = False):
    """A Serving whose models are ready; it is stopped whatever happens."""
    serving = Serving(listen("127.0.0.1", 0), limits or Limits(), key)
    failures = []

    def run() -> None:
        try:
            serving.run(str(model), compare)
        except BaseException as error:  # noqa: BLE001 (raised below, in the test's own thread)
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        until = time.monotonic() + PATIENCE
        while serving.service.state == "starting" and thread.is_alive() and time.monotonic() < until:
            time.sleep(0.02)
        if serving.service.state != "ready":
            thread.join(PATIENCE)
            raise failures[0]
        serving.name = next(iter(serving.service.models))
        yield serving
    finally:
        serving.stop()
        thread.join(PATIENCE)
    assert not thread.is_alive() and failures == []


def request(
    serving: Serving, method: str, path: str, body: object = None, headers: dict | None = None
) -> SimpleNamespace:
    """The answer to one request: status, headers, text, and value. body: bytes, or what becomes JSON."""
    connection = http.client.HTTPConnection(*serving.address, timeout=PATIENCE)
    try:
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {} if headers is None else headers
        if sent is not None:
            headers = {"Content-Type": "application/json", **headers}
        connection.request(method, path, sent, headers)
        return read(connection)
    finally:
        connection.close()


def read(connection: http.client.HTTPConnection) -> SimpleNamespace:
    """The answer on a connection."""
    answer = connection.getresponse()
    text = answer.read().decode()
    is_json = answer.headers.get_content_type() == "application/json"
    value = json.loads(text) if is_json else None
    return SimpleNamespace(status=answer.status, headers=answer.headers, text=text, value=value)


def export_base(folder: Path, **generate) -> Path:
    """models/phi-tiny-64 in a new folder as stage `export` lays one out; outputs are at most 8 tokens long.

    generate: other settings of the decoding.
    """
    shutil.copytree(ROOT / "models/phi-tiny-64", folder)
    settings = {"max_new_tokens": 8, "num_beams": 2, "length_penalty": 1.0, "no_repeat_ngram_size": 0}
    settings |= {"max_batch_tokens": 1_500, **generate}
    prompt = {"template": "{article}\n\nTL;DR:", "before": "", "after": "\n\nTL;DR:", "blank": " "}
    write_json(
        folder / "summarization.json",
        {
            "format": 1,
            "target": "merged",
            "prompt": {**prompt, "chat": False, "max_input_tokens": 96},
            "language": "en",
            "model": {"dtype": "float32", "quantization": "none", "base": "phi-tiny-64", "revision": None},
            "generate": settings,
            "smoke": {"min_success_rate": 0.0},
        },
    )
    return folder


def mixed_articles(pairs: list[dict]) -> list[str]:
    """Articles of mixed lengths: some have a few words, some are cut to fit the prompt."""
    texts = [pair["document"] for pair in pairs[:40]]
    short = [text[:60] for text in texts[:10]]
    long = ["\n\n".join(texts[k : k + 6]) for k in range(0, 30, 6)]
    return [*texts, *short, *long]
