"""What the service answers, as JSON in ASCII without <, > and &, so that no text can be read as markup."""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from onesentence.evaluation.extraction import Article, output_marks, segments
from onesentence.report.render import data_block

if TYPE_CHECKING:
    from onesentence.inference.summarizer import Summary
    from onesentence.serving.requests import Asked, RefusedError

TYPES = {401: "authentication_error", 404: "not_found_error", 503: "overloaded_error", 504: "timeout_error"}


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A value as JSON."""
    return Response(data_block(value) + "\n", status, headers, media_type="application/json")


def error_response(error: RefusedError) -> Response:
    """A refusal in OpenAI's form, which every route uses."""
    kind = TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    headers = {} if error.retry is None else {"Retry-After": str(error.retry)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 408:
        headers["Connection"] = "close"  # what else the client sends is not read
    body = {"message": error.message, "type": kind, "param": error.key, "code": None}
    return json_response({"error": body}, error.status, headers)


def marked(article: str, text: str) -> dict[str, Any]:
    """Article and summary, cut into [text, kinds] where marks begin and end, as in the report."""
    source = Article(article)
    marks, copied = output_marks(source, text)
    return {"document": segments(article, {"copied": copied}), "text": segments(text, marks)}


def summaries_body(name: str, asked: Asked, summaries: list[Summary]) -> dict[str, Any]:
    """The answer to POST /summarize."""
    entries = [asdict(summary) for summary in summaries]
    if asked.marks:
        for entry, article in zip(entries, asked.articles, strict=True):
            entry["marks"] = marked(article, entry["text"])
    return {"model": name, "summaries": entries}


def completion_body(name: str, summaries: list[Summary]) -> dict[str, Any]:
    """The answer to POST /v1/completions: OpenAI's text_completion, with what else a summary says."""
    read, written = (sum(getattr(s, key) for s in summaries) for key in ("input_tokens", "output_tokens"))
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": name,
        "choices": [
            {
                "index": index,
                "text": summary.text,
                "logprobs": None,
                "finish_reason": "stop" if summary.stopped else "length",
                "status": summary.status,
                "document_tokens_cut": summary.document_tokens_cut,
                "unsupported": list(summary.unsupported),
            }
            for index, summary in enumerate(summaries)
        ],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }
