"""The interface of a metric of overlap with the reference."""

from typing import ClassVar

from onesentence.evaluation.metric import Metric
from onesentence.evaluation.resampling import Aggregate


class OverlapMetric:
    """Metrics of an output against its reference that share their work, such as all of ROUGE.

    To add one, write its class in a module of this folder, add it to `OVERLAP_METRICS` (workers.py), and test
    it against its library. Tables, plots, tests and signatures follow.

    declared: the declaration of each metric, by name. corpus: for metrics computed from sums over the test
    set, how many whole numbers a pair gives, and the function from their sums [..., k] to scores [...].
    optional: whether to compute it only if asked for by name, since every metric adds a test to correct for.
    """

    declared: ClassVar[dict[str, Metric]]
    corpus: ClassVar[dict[str, tuple[int, Aggregate]]] = {}
    optional: ClassVar[bool] = False

    def __init__(self, language: str, meteor_synonyms: bool) -> None:
        """language: ISO 639, or und; meteor_synonyms: evaluate.meteor_synonyms."""

    def scores(self, reference: str, output: str) -> dict[str, float | list[int]]:
        """Return by name the score of one output (0 to 100, "" if it failed), or a corpus metric's counts."""
        raise NotImplementedError

    def signatures(self) -> dict[str, str]:
        """Return by name all that a score depends on besides the texts: `option:value|...`."""
        raise NotImplementedError
