"""What a metric of overlap is made of."""

from typing import ClassVar

from onesentence.evaluation.metric import Metric
from onesentence.evaluation.resampling import Aggregate


class OverlapMetric:
    """Metrics of an output against its reference that share their work, such as all of ROUGE.

    To add one: write its class in a module of this folder, name it in `OVERLAP_METRICS` (workers.py), and
    test it against the library that it is from. Tables, plots, tests and signatures follow.

    declared: what is said of each metric, by name. corpus: of those that are computed from sums over the test
    set, how many whole numbers a pair gives, and what turns their sums [..., k] into scores [...]. optional:
    computed where it is asked for by name alone, since every metric is one more test of an evaluation.
    """

    declared: ClassVar[dict[str, Metric]]
    corpus: ClassVar[dict[str, tuple[int, Aggregate]]] = {}
    optional: ClassVar[bool] = False

    def __init__(self, language: str, meteor_synonyms: bool) -> None:
        """language: ISO 639, or und; meteor_synonyms: evaluate.meteor_synonyms."""

    def scores(self, reference: str, output: str) -> dict[str, float | list[int]]:
        """By name: the score (0 to 100) of one output ("": it failed), or statistics of a corpus metric."""
        raise NotImplementedError

    def signatures(self) -> dict[str, str]:
        """By name, all that a score depends on but the texts: `option:value|...`."""
        raise NotImplementedError
