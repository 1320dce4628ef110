"""chrF++ (Popovic 2017) with sacrebleu: chrF2 with 1- and 2-grams of words added."""

from typing import ClassVar

from onesentence.evaluation.metric import quality
from onesentence.evaluation.overlap.chrf import ORDER, Chrf, corpus_chrf

WORD_ORDER = 2


class ChrfPlus(Chrf):
    """F2 of character and word n-grams."""

    declared: ClassVar = {
        "chrf_plus": quality("chrF2++", "0 to 100, corpus", corpus=True),
        "sentence_chrf_plus": quality("chrF2++, mean of sentences", "0 to 100"),
    }
    corpus: ClassVar = {"chrf_plus": (3 * (ORDER + WORD_ORDER), corpus_chrf)}
    optional = True
    word_order = WORD_ORDER
