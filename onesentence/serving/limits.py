"""The bounds of the service, each with the option of `onesentence serve` that sets it."""

from dataclasses import dataclass, fields

from onesentence.core.errors import UserError


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how many may wait.

    max_batch: articles given to the model at once. max_wait_ms: how long the first of a batch waits for
    others while the model is idle. timeout: seconds from the head of a request to its answer. queue: articles
    that may wait for the model. max_body_bytes, max_articles: of a request. max_characters: of an article.
    """

    max_batch: int = 16
    max_wait_ms: int = 10
    timeout: float = 60.0
    queue: int = 256
    max_body_bytes: int = 1_000_000
    max_articles: int = 64
    max_characters: int = 100_000

    def __post_init__(self) -> None:
        """Raise a UserError for a bound that would refuse every request, or never be reached."""
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "max_wait_ms" else 1
            if not value >= least:  # NaN too
                raise UserError(f"{option(field.name)}: expected at least {least}, found {value}")
        if self.timeout > MOST_SECONDS:
            raise UserError(f"--timeout: expected at most {MOST_SECONDS:,} seconds, found {self.timeout}")
        if self.queue < self.max_articles:
            raise UserError(
                f"--queue: expected at least --max-articles ({self.max_articles}), found {self.queue}; "
                "a request with that many articles would never be accepted"
            )


MOST_SECONDS = 86_400  # a day; a stop waits as long for the requests that it accepted


def option(name: str) -> str:
    """The command-line option that sets a bound."""
    return f"--{name.replace('_', '-')}"
