"""How much data is a larger model worth?"""

import itertools
from typing import Any

from onesentence.core.errors import UserError
from onesentence.evaluation.comparison import is_significant
from onesentence.study import variance
from onesentence.study.analyses.analysis import Analysis
from onesentence.study.measured import Measured
from onesentence.study.phrases import between, mde_phrase
from onesentence.study.variants import Study


def numbers(study: Study, measured: Measured, confidence: float) -> dict[str, Any]:
    """Each series with more data against the next one with less: one size more, and the largest size.

    Series are declared from the smallest model to the largest. A larger model may lack sizes that the smaller
    one has. An empty series has no partner.
    """
    exchanges: list[dict[str, Any]] = []
    for smaller, larger in itertools.pairwise(study.series.values()):
        for less in larger:
            more = [other.name for other in smaller if study.position(other) > study.position(less)]
            for left in dict.fromkeys([*more[:1], *more[-1:]]):
                entry = variance.difference(measured.headline(left), measured.headline(less.name), confidence)
                exchanges.append({"smaller": left, "larger": less.name, **entry})
    variance.adjust_holm(exchanges, confidence)
    return {"exchanges": exchanges}


def sentences(result: dict[str, Any]) -> list[str]:
    """How many comparisons are significant, and each of them."""
    exchanges, confidence = result["analysis"].get("exchanges", []), result["confidence"]
    if not exchanges:
        return []
    decided = [entry["value"] > 0 for entry in exchanges if is_significant(entry, confidence)]
    lines = [
        f"Comparisons of a model with more data and the next larger model with less: {len(exchanges)}. "
        f"Significantly better: the larger model in {decided.count(False)}, the smaller model in "
        f"{decided.count(True)}. Not significant: {len(exchanges) - len(decided)}."
    ]
    for entry in exchanges:
        if is_significant(entry, confidence):
            better = "smaller model with more data" if entry["value"] > 0 else "larger model"
            end = f"the {better} is better"
        else:
            end = f"not significant ({mde_phrase(entry)})"
        lines.append(f"{entry['smaller']} against {entry['larger']}: {between(entry)}, {end}.")
    return lines


def check(where: str, study: Study) -> None:
    """Raise a UserError unless every series has its sizes from the one of the next smaller model."""
    sizes = {label: [study.position(member) for member in members] for label, members in study.series.items()}
    for smaller, larger in itertools.pairwise(sizes):
        for size in sizes[larger]:
            if size not in sizes[smaller]:
                raise UserError(
                    f"{where}.series.{larger}: {study.along} {size} is not in {smaller}, the series before "
                    "it; the analysis `exchange` compares the sizes that both have"
                )


ANALYSIS = Analysis(numbers, sentences, follows_a_key=True, check=check)
