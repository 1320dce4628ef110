"""How much is copied from the article?"""

from onesentence.evaluation.comparison import is_real
from onesentence.evaluation.metrics import METRICS
from onesentence.study import variance
from onesentence.study.analyses.analysis import Analysis
from onesentence.study.measured import Measured
from onesentence.study.phrases import between
from onesentence.study.variants import Study

COPYING = ("verbatim", "coverage", "novel_2")


def numbers(study: Study, measured: Measured, confidence: float) -> dict:
    """Differences in how much is copied, not in the headline metric."""
    found = {
        variant.name: {
            metric: variance.difference(
                measured.tuned[variant.name][metric], measured.tuned[study.baseline][metric], confidence
            )
            for metric in COPYING
        }
        for variant in study.variants
        if variant.name != study.baseline
    }
    variance.adjust_holm([entry for each in found.values() for entry in each.values()], confidence)
    return {"copying": found}


def sentences(found: dict) -> list[str]:
    """Each variant's differences."""
    said = []
    for name, metrics in found["analysis"].get("copying", {}).items():
        shown = ", ".join(
            f"{METRICS[metric].title} {between(entry)} points"
            + ("" if is_real(entry, found["confidence"]) else " (not distinguishable)")
            for metric, entry in metrics.items()
            if entry["value"] is not None
        )
        said.append(f"{name} against {found['baseline']}: {shown or 'undefined'}.")
    return said


ANALYSIS = Analysis(numbers, sentences)
