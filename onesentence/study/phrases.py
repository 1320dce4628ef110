"""Parts of a study's sentences."""

from onesentence.evaluation.comparison import is_real
from onesentence.evaluation.metrics import HEADLINE, METRICS
from onesentence.evaluation.resampling import POWER

TITLE = METRICS[HEADLINE].title
NAMED = 8  # variants that a sentence lists; beyond, it counts them and the plot names them


def between(found: dict, spec: str = "+.2f") -> str:
    """value [low, high]."""
    return f"{found['value']:{spec}} [{found['low']:{spec}}, {found['high']:{spec}}]"


def would_show(entry: dict) -> str:
    """What a test that showed nothing would have shown."""
    if entry["mde"] is None:
        return "and nothing varies, so that no minimum detectable effect can be given"
    return f"where one of {entry['mde']:.2f} would have been in {POWER:.0%} of cases"


def trend_sentence(label: str, entry: dict, unit: str, confidence: float) -> str:
    """A slope in words."""
    found = f"{label + ': ' if label else ''}{between(entry)} points of {TITLE} for {unit}"
    if is_real(entry, confidence):
        verb = "grows" if entry["value"] > 0 else "falls"
        return f"{found} (p = {entry['p_holm']:.4f}): quality {verb} with it."
    return f"{found} (p = {entry['p_holm']:.4f}): no trend was shown, {would_show(entry)}."
