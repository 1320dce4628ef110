"""Serve summaries over HTTP, with the pipeline's own prompt, decoding and smoke test.

POST /summarize takes {"article": TEXT} or {"articles": [TEXT, ...]}. POST /v1/completions takes OpenAI's
form, where `prompt` is the article. GET / is a page to try it. /health answers 200 once the model has passed
the smoke test. /metrics is for Prometheus. Articles of several requests are summarized together; no text
depends on that.

Without --model, the tuned model of params.yaml's pipeline is served. --compare serves its untuned base too.
With a key, clients send `Authorization: Bearer KEY`; only the page and /health need none. SIGTERM stops the
service once every accepted request is answered.
The packages that it needs: pip install -r onesentence/serving/requirements.txt (docs/serving.md).

Run     onesentence serve
        onesentence serve --model models/exported --port 8080
        onesentence serve --compare --api-key-file key.txt --host 0.0.0.0
"""

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from onesentence.commands import documented
from onesentence.core.errors import UserError
from onesentence.serving.limits import Limits

REQUIREMENTS_FILE = "onesentence/serving/requirements.txt"
PACKAGES = ("starlette", "uvicorn", "prometheus_client")
VARIABLE = "ONESENTENCE_API_KEY"
SHORTEST = 16  # characters of a key
DEFAULT = Limits()


def read_key(file: Path | None) -> str | None:
    """The API key of a file or of the environment; None where neither gives one."""
    given = os.environ.get(VARIABLE)
    if file is None:
        return None if given is None else checked_key(given, VARIABLE)
    if given is not None:
        raise UserError(f"--api-key-file: expected one key, found another in {VARIABLE}; use one of them")
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"--api-key-file: {file}: {error.strerror}; name the file that holds the key"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"--api-key-file: {file}: expected a text, found bytes that are not UTF-8") from error
    return checked_key(text, f"--api-key-file: {file}")


def checked_key(text: str, where: str) -> str:
    """A key that a header can carry and nobody guesses; otherwise a UserError, which does not show it."""
    key = text.strip()
    if len(key) < SHORTEST or not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(
            f"{where}: expected a key of at least {SHORTEST} ASCII characters without blanks, found another "
            f"({len(key)} characters); make one: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return key


def exposure(address: str, key: str | None) -> str | None:
    """A warning where other machines can use the service without a key; otherwise None."""
    from onesentence.serving.server import is_loopback

    if key is not None or is_loopback(address):
        return None
    return (
        f"serve: warning: --host: {address} is open to other machines, and whoever reaches it can use the "
        "service; set a key with --api-key-file"
    )


def limit(name: str, text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option of a bound of `Limits`."""
    value = getattr(DEFAULT, name)
    return click.option(
        f"--{name.replace('_', '-')}", type=type(value), default=value, show_default=True, help=text
    )


@documented(__doc__)
@click.option("--model", help="An exported folder, a tuned model, an adapter with its base, or a base model.")
@click.option("--compare", is_flag=True, help="Serve the untuned base too; the page shows both.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8000, show_default=True, help="0: any free port."
)
@click.option("--api-key-file", type=Path, help=f"A file with the key; or set {VARIABLE}.")
@limit("max_batch", "Articles given to the model at once.")
@limit("max_wait_ms", "How long an article waits for others while the model is idle.")
@limit("timeout", "Seconds until a request gets 504.")
@limit("queue", "Articles that may wait; more get 503.")
@limit("max_body_bytes", "A larger request gets 413.")
@limit("max_articles", "A request with more gets 413.")
@limit("max_characters", "A longer article gets 413.")
def command(
    model: str | None,
    compare: bool,
    host: str,
    port: int,
    api_key_file: Path | None,
    **bounds: Any,
) -> None:
    limits, key = Limits(**bounds), read_key(api_key_file)
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"serve: {', '.join(missing)} not installed; run `pip install -r {REQUIREMENTS_FILE}`"
        )
    from onesentence.serving.server import Serving, listen

    bound = listen(host, port)
    if warning := exposure(bound.getsockname()[0], key):
        print(warning, file=sys.stderr)
    Serving(bound, limits, key).run(model, compare)
