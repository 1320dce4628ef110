"""chrF2 (Popovic 2015) with sacrebleu: of a whole test set, and as the mean of sentences."""

from importlib import metadata
from typing import ClassVar

import numpy as np

from onesentence.evaluation.metric import quality
from onesentence.evaluation.overlap.overlap_metric import OverlapMetric

ORDER = 6  # the longest n-gram of characters
BETA = 2  # recall counts BETA times as much as precision


def corpus_chrf(sums: np.ndarray) -> np.ndarray:
    """Return corpus chrF2 [...] from summed statistics [..., 3 x orders], as sacrebleu computes it.

    An order counts if both sides have n-grams of it.
    """
    sums = np.asarray(sums, dtype=np.float64)
    output, reference, matched = (sums[..., k::3] for k in range(3))
    counts = (output > 0) & (reference > 0)
    orders = np.maximum(counts.sum(axis=-1), 1)
    precision = np.where(counts, matched / np.maximum(output, 1), 0).sum(axis=-1) / orders
    recall = np.where(counts, matched / np.maximum(reference, 1), 0).sum(axis=-1) / orders
    weighted = BETA**2 * precision + recall
    return np.where(
        weighted > 0, 100 * (1 + BETA**2) * precision * recall / np.where(weighted > 0, weighted, 1), 0.0
    )


class Chrf(OverlapMetric):
    """F2 of character n-grams."""

    declared: ClassVar = {
        "chrf": quality("chrF2", "0 to 100, corpus", corpus=True),
        "sentence_chrf": quality("chrF2, mean of sentences", "0 to 100"),
    }
    # For each order: n-grams in the output, in the reference, matched.
    corpus: ClassVar = {"chrf": (3 * ORDER, corpus_chrf)}
    word_order: ClassVar[int] = 0

    def __init__(self, language: str, meteor_synonyms: bool) -> None:
        from sacrebleu.metrics import CHRF

        self.chrf = CHRF(char_order=ORDER, word_order=self.word_order, beta=BETA)

    def scores(self, reference: str, output: str) -> dict[str, float | list[int]]:
        """Return the statistics for the corpus score, and the sentence's score."""
        # Private functions of sacrebleu: the public `sentence_score` does not return the statistics.
        statistics = self.chrf._extract_corpus_statistics([output], [[reference]])[0]
        return dict(zip(self.declared, (statistics, self.chrf._compute_f_score(statistics)), strict=True))

    def signatures(self) -> dict[str, str]:
        """Name the orders of characters and words, and the weight of recall."""
        library = f"case:mixed|sacrebleu:{metadata.version('sacrebleu')}"
        options = f"chars:{ORDER}|words:{self.word_order}|beta:{BETA}|space:no|{library}"
        return dict.fromkeys(self.declared, options)
