"""How far is an adapter from training every weight?"""

from onesentence.core.errors import UserError
from onesentence.study import variance
from onesentence.study.analyses.analysis import Analysis
from onesentence.study.measured import Measured
from onesentence.study.phrases import between
from onesentence.study.variants import Study

EXPECTED = 5  # percent below full fine-tuning that the original study expected LoRA to stay under


def full_sentence(name: str, entry: dict, baseline: str) -> str:
    """How far from training every weight, and whether that is under the 5 % that the study expected."""
    if entry["high"] < EXPECTED:
        held = f"under {EXPECTED}%"
    elif entry["low"] > EXPECTED:
        held = f"more than {EXPECTED}%"
    else:
        held = f"whether under {EXPECTED}% is open"
    above = ", that is above it" if entry["value"] < 0 else ""
    return f"{name} is {between(entry, '.1f')}% below {baseline}{above}: {held}."


def numbers(study: Study, measured: Measured, confidence: float) -> dict:
    """Percent below the baseline, which trains every weight; the intervals hold for all variants at once
    (Bonferroni).
    """
    above = measured.headline(study.baseline)
    found, each_confidence = {}, 1 - (1 - confidence) / (len(study.variants) - 1)
    for variant in study.variants:
        if variant.name != study.baseline:
            each = measured.headline(variant.name)
            draws, value = 100 * (1 - each.both / above.both), 100 * (1 - each.value / above.value)
            entry = variance.percentile_test(draws, value, each_confidence)
            found[variant.name] = {name: entry[name] for name in ("value", "low", "high")}
    return {"percent_below_full": found}


def sentences(found: dict) -> list[str]:
    """Each variant's distance."""
    below = found["analysis"].get("percent_below_full")
    if below is None:
        return []
    said = [full_sentence(name, entry, found["baseline"]) for name, entry in below.items()]
    return [*said, "The intervals of these percentages hold for all variants at once."]


def check(where: str, study: Study) -> None:
    """Raise a UserError unless the baseline trains every weight."""
    (baseline,) = (variant for variant in study.variants if variant.name == study.baseline)
    if baseline.values.get("train.method") != "full":
        raise UserError(
            f"{where}.baseline: the analysis `full` is of a baseline that sets train.method to full, "
            f"{study.baseline!r} does not; take the analysis out or name another"
        )


ANALYSIS = Analysis(numbers, sentences, check=check)
