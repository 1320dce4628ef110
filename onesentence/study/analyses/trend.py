"""Does a score grow with the key that a study follows? A slope for each doubling."""

from typing import Any

import numpy as np

from onesentence.study import variance
from onesentence.study.analyses.analysis import Analysis, require_points
from onesentence.study.measured import Measured, whole
from onesentence.study.phrases import trend_sentence
from onesentence.study.variants import Study


def numbers(study: Study, measured: Measured, confidence: float) -> dict[str, Any]:
    """Gain for each doubling of the key that the study follows."""
    slopes = {}
    for label, members in whole(study):
        x = np.log2([study.position(variant) for variant in members])
        slopes[label] = variance.slope(x, [measured.headline(v.name) for v in members], confidence)
    variance.adjust_holm(list(slopes.values()), confidence)
    return {"for_each_doubling": slopes}


def sentences(result: dict[str, Any]) -> list[str]:
    """Each series' slope."""
    slopes = result["analysis"].get("for_each_doubling", {})
    return [
        trend_sentence(label, entry, "each doubling", result["confidence"]) for label, entry in slopes.items()
    ]


def check(where: str, study: Study) -> None:
    """Raise a UserError where a series has no slope."""
    require_points(where, study, 2, "trend")


ANALYSIS = Analysis(numbers, sentences, follows_a_key=True, check=check)
