"""Numbers for Prometheus, at GET /metrics."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ARTICLES = (1, 2, 4, 8, 16, 32, 64)


class Telemetry:
    """The metrics of one service."""

    def __init__(self) -> None:
        # Without a second line for each number, with the time of its creation.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "onesentence_requests",
            "Requests by route and HTTP status.",
            ("route", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "onesentence_request_seconds",
            "Time from a request to its answer.",
            ("route",),
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_articles = Histogram(
            "onesentence_batch_articles",
            "Articles that were given to the model at once.",
            ("model",),
            buckets=ARTICLES,
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "onesentence_batch_seconds",
            "Time that the model took for a batch.",
            ("model",),
            buckets=SECONDS,
            registry=registry,
        )
        self.waiting = Gauge(
            "onesentence_queue_articles", "Articles that wait for the model.", ("model",), registry=registry
        )
        self.tokens = Counter(
            "onesentence_tokens", "Tokens read and written.", ("model", "direction"), registry=registry
        )
        self.summaries = Counter(
            "onesentence_summaries", "Summaries by status.", ("model", "status"), registry=registry
        )

    def watch_queue(self, model: str, length: Callable[[], int]) -> None:
        """Read the length of a model's queue whenever the metrics are asked for."""
        self.waiting.labels(model).set_function(length)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)
