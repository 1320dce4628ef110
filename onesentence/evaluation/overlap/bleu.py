"""BLEU (Papineni et al. 2002) with sacrebleu: of a whole test set, and as the mean of sentences."""

from importlib import metadata
from typing import ClassVar

import numpy as np

from onesentence.core.language import bleu_tokenizer
from onesentence.evaluation.metric import quality
from onesentence.evaluation.overlap.overlap_metric import OverlapMetric

ORDER = 4
STATISTICS = 2 + 2 * ORDER  # lengths of output and reference; matched n-grams; n-grams in the output


def corpus_bleu(sums: np.ndarray) -> np.ndarray:
    """Return corpus BLEU [...] from summed statistics [..., 10], as sacrebleu with exponential smoothing."""
    sums = np.asarray(sums, dtype=np.float64)
    length, reference_length = sums[..., 0], sums[..., 1]
    matches, totals = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
    with np.errstate(divide="ignore", invalid="ignore"):
        missed = np.cumsum(matches == 0, axis=-1)  # each further order without a match counts half as much
        precisions = np.where(matches > 0, matches / totals, 1 / (2.0**missed * totals))
        brevity = np.where(length < reference_length, np.exp(1 - reference_length / length), 1.0)
        scores = 100 * brevity * np.exp(np.log(precisions).mean(axis=-1))
    return np.where((matches.sum(axis=-1) > 0) & (totals > 0).all(axis=-1), scores, 0.0)


class Bleu(OverlapMetric):
    """Precision of 1- to 4-grams with a penalty for short outputs and exponential smoothing."""

    declared: ClassVar = {
        "bleu": quality("BLEU", "0 to 100, corpus", corpus=True),
        "sentence_bleu": quality("BLEU, mean of sentences", "0 to 100"),
    }
    corpus: ClassVar = {"bleu": (STATISTICS, corpus_bleu)}

    def __init__(self, language: str, meteor_synonyms: bool) -> None:
        from sacrebleu.metrics import BLEU

        self.language = language
        # Only for sentences: `corpus_bleu` computes the corpus score, without the effective order.
        self.bleu = BLEU(effective_order=True, tokenize=bleu_tokenizer(language))

    def scores(self, reference: str, output: str) -> dict[str, float | list[int]]:
        """Return the sentence's score, and the statistics for the corpus score."""
        result = self.bleu.sentence_score(output, [reference])
        statistics = [result.sys_len, result.ref_len, *result.counts, *result.totals]
        return {"bleu": statistics, "sentence_bleu": result.score}

    def signatures(self) -> dict[str, str]:
        """Name the tokens, the smoothing, and whether orders that a short output lacks are left out."""
        library = f"case:mixed|sacrebleu:{metadata.version('sacrebleu')}"
        options = f"lang:{self.language}|tokens:{bleu_tokenizer(self.language)}|smooth:exp|{library}"
        return {"bleu": f"effective_order:no|{options}", "sentence_bleu": f"effective_order:yes|{options}"}
