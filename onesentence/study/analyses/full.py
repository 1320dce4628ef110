"""How far is an adapter from full fine-tuning?"""

from typing import Any

import numpy as np

from onesentence.core.errors import UserError
from onesentence.study import variance
from onesentence.study.analyses.analysis import Analysis
from onesentence.study.measured import Measured
from onesentence.study.phrases import distance
from onesentence.study.variants import Study

MARGIN = 5  # percent below full fine-tuning that the original study expected LoRA to stay within


def full_sentence(name: str, entry: dict[str, Any]) -> str:
    """How far a variant is from full fine-tuning, and whether that is within the margin."""
    if entry["value"] is None:
        return f"{name}: no percentage, since full fine-tuning scores 0."
    if entry["high"] < MARGIN:
        within = entry["low"] > -MARGIN
        verdict = f"within the {MARGIN}% margin" if within else f"not more than {MARGIN}% below"
    elif entry["low"] > MARGIN:
        verdict = f"outside the {MARGIN}% margin"
    else:
        verdict = f"the interval does not decide on the {MARGIN}% margin"
    where = distance(entry, "below full fine-tuning", "above full fine-tuning", ".1f", "%")
    return f"{name} scores {where}: {verdict}."


def numbers(study: Study, measured: Measured, confidence: float) -> dict[str, Any]:
    """Percent below the baseline, which trains every weight; the intervals hold for all variants at once
    (Bonferroni).
    """
    full = measured.headline(study.baseline)
    below, each_confidence = {}, 1 - (1 - confidence) / (len(study.variants) - 1)
    for variant in study.variants:
        if variant.name != study.baseline:
            adapter = measured.headline(variant.name)
            with np.errstate(divide="ignore", invalid="ignore"):  # every output of the baseline failed
                draws = 100 * (1 - adapter.both / full.both)
                value = float(100 * (1 - np.divide(adapter.value, full.value)))
            entry = variance.percentile_test(draws, value, each_confidence, adapter.df)
            below[variant.name] = {name: entry[name] for name in ("value", "low", "high")}
    return {"percent_below_full": below}


def sentences(result: dict[str, Any]) -> list[str]:
    """Each variant's distance."""
    below = result["analysis"].get("percent_below_full")
    if below is None:
        return []
    lines = [full_sentence(name, entry) for name, entry in below.items()]
    return [*lines, "The intervals of these percentages hold for all variants at once."]


def check(where: str, study: Study) -> None:
    """Raise a UserError unless the baseline trains every weight."""
    (baseline,) = (variant for variant in study.variants if variant.name == study.baseline)
    if baseline.values.get("train.method") != "full":
        raise UserError(
            f"{where}.baseline: the analysis `full` needs a baseline with train.method full (found "
            f"{study.baseline!r}); name another baseline, or remove the analysis"
        )


ANALYSIS = Analysis(numbers, sentences, check=check)
