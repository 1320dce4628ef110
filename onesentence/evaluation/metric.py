"""What is declared of a metric."""

from dataclasses import dataclass

KINDS = ("quality", "abstractiveness", "faithfulness", "behaviour")


@dataclass(frozen=True)
class Metric:
    """What is declared of a metric.

    title: for people; direction: higher, lower, or none (a description); low, high: of its range, None =
    unbounded; kind: one of KINDS; corpus: computed from the test set's summed statistics, not a mean.
    """

    title: str
    unit: str
    direction: str
    low: float | None
    high: float | None
    kind: str
    corpus: bool = False


def quality(title: str, unit: str, corpus: bool = False, low: float = 0.0) -> Metric:
    """A metric of how good an output is: higher is better, 100 is the best."""
    return Metric(title, unit, "higher", low, 100.0, "quality", corpus)


def percent(title: str, direction: str, kind: str) -> Metric:
    """A share of something, in percent."""
    return Metric(title, "%", direction, 0.0, 100.0, kind)
