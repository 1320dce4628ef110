"""The declaration of a metric: its name for people, unit, direction, range and kind."""

from dataclasses import dataclass

KINDS = ("quality", "abstractiveness", "faithfulness", "behaviour")


@dataclass(frozen=True)
class Metric:
    """The declaration of a metric.

    title: its name in tables and plots. direction: which scores are better: higher, lower, or none for a mere
    description. low, high: its range; None is unbounded. kind: one of KINDS. corpus: whether the score is
    computed from statistics summed over the test set; otherwise it is the mean over articles.
    """

    title: str
    unit: str
    direction: str
    low: float | None
    high: float | None
    kind: str
    corpus: bool = False


def quality(title: str, unit: str, corpus: bool = False, low: float = 0.0) -> Metric:
    """Declare a metric of how good an output is: higher is better, 100 is best."""
    return Metric(title, unit, "higher", low, 100.0, "quality", corpus)


def percent(title: str, direction: str, kind: str) -> Metric:
    """Declare a share in percent."""
    return Metric(title, "%", direction, 0.0, 100.0, kind)
