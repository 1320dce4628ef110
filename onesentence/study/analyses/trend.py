"""Does a score grow with the key that a study follows? A slope for each doubling."""

import numpy as np

from onesentence.study import variance
from onesentence.study.analyses.analysis import Analysis
from onesentence.study.measured import Measured, whole
from onesentence.study.phrases import trend_sentence
from onesentence.study.variants import Study


def numbers(study: Study, measured: Measured, confidence: float) -> dict:
    """Gain for each doubling of the key that the study follows."""
    found = {}
    for label, members in whole(study):
        x = np.log2([variant.values[study.along] for variant in members])
        found[label] = variance.slope(x, [measured.headline(v.name) for v in members], confidence)
    variance.adjust_holm(list(found.values()), confidence)
    return {"for_each_doubling": found}


def sentences(found: dict) -> list[str]:
    """Each series' slope."""
    slopes = found["analysis"].get("for_each_doubling", {})
    return [
        trend_sentence(label, entry, "each doubling", found["confidence"]) for label, entry in slopes.items()
    ]


ANALYSIS = Analysis(numbers, sentences, follows_a_key=True)
