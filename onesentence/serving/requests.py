"""What a client asks for: the bodies of POST /summarize and POST /v1/completions, checked.

Every fault is a RefusedError with an HTTP status and a message that names the key. Nothing is ignored: an
unknown key, or a parameter that would change the decoding, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from onesentence.core.files import distinct_keys

if TYPE_CHECKING:
    from onesentence.serving.limits import Limits

SUMMARIZE_KEYS = ("article", "articles", "model", "marks")


class RefusedError(Exception):
    """A request that gets no summary. status: of HTTP; key: of the body, that is wrong; retry: seconds."""

    def __init__(self, status: int, message: str, key: str | None = None, retry: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.key, self.retry = status, message, key, retry


@dataclass(frozen=True)
class Asked:
    """The articles to summarize. model: its name, None for the first; marks: whether to mark the texts."""

    articles: list[str]
    model: str | None
    marks: bool = False


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body; a RefusedError (400) if it is anything else."""
    try:
        # utf-8-sig: some clients write a byte order mark.
        value = json.loads(
            body.decode("utf-8-sig"), parse_constant=_refuse_constant, object_pairs_hook=distinct_keys
        )
    except UnicodeDecodeError as error:
        raise RefusedError(
            400, f"body: expected UTF-8, found another encoding at byte {error.start}"
        ) from None
    except RecursionError:
        raise RefusedError(400, "body: expected JSON, found too many nested brackets") from None
    except ValueError as error:
        raise RefusedError(400, f"body: expected JSON, found an error in it ({error})") from None
    if not isinstance(value, dict):
        raise RefusedError(400, f"body: expected a JSON object, found {kind(value)}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def kind(value: object) -> str:
    """What a JSON value is, for an error."""
    names = {bool: "true or false", str: "a string", list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), "a number")


def read_summarize(body: bytes, limits: Limits) -> Asked:
    """The request of POST /summarize: `article` or `articles`; `model` and `marks` where wanted."""
    value = read_object(body)
    for key in value:
        if key not in SUMMARIZE_KEYS:
            raise unknown_key(key, SUMMARIZE_KEYS)
    if ("article" in value) == ("articles" in value):
        found = "both" if "article" in value else "neither"
        raise RefusedError(422, f"article: expected either `article` or `articles`, found {found}", "article")
    if "article" in value:
        articles = [article_of(value["article"], "article", limits)]
    else:
        articles = articles_of(value["articles"], "articles", limits)
    marks = value.get("marks", False)
    if not isinstance(marks, bool):
        raise RefusedError(422, f"marks: expected true or false, found {kind(marks)}", "marks")
    return Asked(articles, model_of(value), marks)


def unknown_key(key: str, known: tuple[str, ...]) -> RefusedError:
    """The error for a key that the service does not know."""
    near = get_close_matches(key, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; expected {', '.join(known)}"
    return RefusedError(422, f"{short(key)}: unknown key{hint}", short(key))


def short(text: str) -> str:
    """The start of a client's text in ASCII, for an error."""
    return ascii(text[:40])[1:-1]


def model_of(value: dict[str, Any]) -> str | None:
    """The name of the model, None where the request names none."""
    model = value.get("model")
    if model is not None and not isinstance(model, str):
        raise RefusedError(422, f"model: expected a name, found {kind(model)}", "model")
    return model


def articles_of(values: Any, key: str, limits: Limits) -> list[str]:
    """The articles of a list."""
    if not isinstance(values, list) or not values:
        found = "an empty list" if values == [] else kind(values)
        raise RefusedError(422, f"{key}: expected a list of at least one article, found {found}", key)
    if len(values) > limits.max_articles:
        raise RefusedError(
            413,
            f"{key}: expected at most {limits.max_articles} articles, found {len(values)}; send fewer",
            key,
        )
    return [article_of(value, f"{key}[{i}]", limits) for i, value in enumerate(values)]


def article_of(value: Any, key: str, limits: Limits) -> str:
    """One article: a text that is not blank, not too long, and that UTF-8 can encode."""
    if not isinstance(value, str):
        raise RefusedError(422, f"{key}: expected a text, found {kind(value)}", key)
    if not value.strip():
        raise RefusedError(422, f"{key}: expected an article, found an empty text", key)
    if len(value) > limits.max_characters:
        limit = f"{limits.max_characters:,} characters"
        raise RefusedError(413, f"{key}: expected at most {limit}, found {len(value):,}; shorten it", key)
    if (place := value.find("\0")) >= 0:
        raise RefusedError(422, f"{key}: expected a text, found NUL at character {place}; remove it", key)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RefusedError(
            422,
            f"{key}: expected a text, found half of a surrogate pair at character {error.start}; remove it",
            key,
        ) from None
    return value


def _is_number(value: object, wanted: float) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and value == wanted


# Parameters of OpenAI's completions that change nothing where they have these values: the service writes one
# deterministic completion, by the decoding that was measured.
NEUTRAL: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "best_of": ("1", lambda value: _is_number(value, 1)),
    "echo": ("false", lambda value: value is False),
    "frequency_penalty": ("0", lambda value: _is_number(value, 0)),
    "logit_bias": ("{}", lambda value: value == {}),
    "n": ("1", lambda value: _is_number(value, 1)),
    "presence_penalty": ("0", lambda value: _is_number(value, 0)),
    "stop": ("[]", lambda value: value == []),
    "stream": ("false", lambda value: value is False),
    "suffix": ("''", lambda value: value == ""),
    "temperature": ("0", lambda value: _is_number(value, 0)),
    "top_p": ("1", lambda value: _is_number(value, 1)),
    # No text depends on them.
    "seed": ("an integer", lambda value: type(value) is int),
    "user": ("a string", lambda value: isinstance(value, str)),
}
COMPLETION_KEYS = ("model", "prompt", "max_tokens", *NEUTRAL, "logprobs", "stream_options")


def read_completion(body: bytes, limits: Limits) -> tuple[Asked, int | None]:
    """(the request of POST /v1/completions, max_tokens): `prompt` is an article, or a list of articles."""
    value = read_object(body)
    for key, found in value.items():
        if key not in COMPLETION_KEYS:
            raise unknown_key(key, COMPLETION_KEYS)
        if key in NEUTRAL and found is not None and not NEUTRAL[key][1](found):
            raise RefusedError(422, f"{key}: expected {NEUTRAL[key][0]} or none, {FIXED}", key)
        if key in ("logprobs", "stream_options") and found is not None:
            raise RefusedError(422, f"{key}: expected none, {FIXED}", key)
    if "prompt" not in value:
        raise RefusedError(422, "prompt: missing; expected an article, or a list of articles", "prompt")
    prompt = value["prompt"]
    if isinstance(prompt, list):
        if prompt and isinstance(prompt[0], int | list):
            raise RefusedError(422, "prompt: expected the article's text, found token ids", "prompt")
        articles = articles_of(prompt, "prompt", limits)
    else:
        articles = [article_of(prompt, "prompt", limits)]
    return Asked(articles, model_of(value)), value.get("max_tokens")


FIXED = "because the service decodes as it was measured"


def check_max_tokens(found: Any, most: int) -> None:
    """Raise a RefusedError for a max_tokens that would cut an output. most: what the model may write."""
    if found is None:
        return
    if type(found) is not int or found < most:
        raise RefusedError(422, f"max_tokens: expected at least {most} or none, {FIXED}", "max_tokens")
