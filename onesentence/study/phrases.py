"""Parts of a study's sentences."""

from typing import Any

from onesentence.evaluation.comparison import is_significant
from onesentence.evaluation.metrics import HEADLINE, METRICS
from onesentence.report.formatting import formatted, mde_text, p_text

TITLE = METRICS[HEADLINE].title
VARIANTS_LISTED = 8  # variants that a sentence lists; it counts more than these, and the plot names them


def between(entry: dict[str, Any], spec: str = "+.2f") -> str:
    """value [low, high]."""
    value, low, high = (formatted(entry[key], spec) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def distance(entry: dict[str, Any], above: str, below: str, spec: str = ".2f", unit: str = "") -> str:
    """A difference as a size and a direction: `0.45 higher [-0.25, +1.12]`.

    The interval counts in the direction of the word: above 0 is more of what it says.
    """
    positive = float(f"{entry['value']:{spec}}") >= 0
    size = f"{abs(entry['value']):{spec}}{unit} {above if positive else below}"
    ends = (entry["low"], entry["high"]) if positive else (-entry["high"], -entry["low"])
    return f"{size} [{formatted(ends[0], f'+{spec}')}, {formatted(ends[1], f'+{spec}')}]"


def mde_phrase(entry: dict[str, Any]) -> str:
    """The minimum detectable effect of a test that was not significant."""
    return "no MDE: nothing varies" if entry["mde"] is None else f"MDE {mde_text(entry['mde'])}"


def trend_sentence(label: str, entry: dict[str, Any], unit: str, confidence: float) -> str:
    """A slope in words."""
    start = f"{label}: " if label else ""
    if entry["value"] is None:
        return f"{start}no trend over {unit}: all variants have the same, or no score."
    slope = f"{start}{between(entry)} points of {TITLE} for {unit} ({p_text(entry['p_holm'])})"
    if is_significant(entry, confidence):
        return f"{slope}: a significant {'gain' if entry['value'] > 0 else 'loss'}."
    return f"{slope}: no significant trend ({mde_phrase(entry)})."
