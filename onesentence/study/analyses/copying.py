"""How much is copied from the article?"""

from typing import Any

from onesentence.evaluation.comparison import is_significant
from onesentence.evaluation.metrics import METRICS
from onesentence.study import variance
from onesentence.study.analyses.analysis import Analysis
from onesentence.study.measured import Measured
from onesentence.study.phrases import between
from onesentence.study.variants import Study

COPYING = ("verbatim", "coverage", "novel_2")


def numbers(study: Study, measured: Measured, confidence: float) -> dict[str, Any]:
    """Differences from the baseline in how much is copied, not in the headline metric."""
    copying = {
        variant.name: {
            metric: variance.difference(
                measured.tuned[variant.name][metric], measured.tuned[study.baseline][metric], confidence
            )
            for metric in COPYING
        }
        for variant in study.variants
        if variant.name != study.baseline
    }
    variance.adjust_holm([entry for metrics in copying.values() for entry in metrics.values()], confidence)
    return {"copying": copying}


def sentences(result: dict[str, Any]) -> list[str]:
    """Each variant's differences."""
    lines = []
    for name, metrics in result["analysis"].get("copying", {}).items():
        differences = ", ".join(
            f"{METRICS[metric].title} {between(entry)} points"
            + ("" if is_significant(entry, result["confidence"]) else " (not significant)")
            for metric, entry in metrics.items()
            if entry["value"] is not None
        )
        lines.append(f"{name} against {result['baseline']}: {differences or 'undefined'}.")
    return lines


ANALYSIS = Analysis(numbers, sentences)
