"""How does quality grow with the data? A power law, held against the largest size."""

import numpy as np

from onesentence.evaluation.comparison import is_real
from onesentence.study import variance
from onesentence.study.analyses.analysis import Analysis
from onesentence.study.measured import Measured, whole
from onesentence.study.phrases import TITLE, between, would_show
from onesentence.study.variants import Study


def law_sentence(label: str, law: dict, confidence: float) -> str:
    """A power law, what it foretold, and how little data would do."""
    miss, near = law["miss"], law["within_one_point"]
    if not is_real(law["growth"], confidence) or law["growth"]["value"] < 0:
        return (
            f"{label + ': ' if label else ''}from the smallest size to the largest {between(law['growth'])} "
            f"points: no growth with the data was shown, {would_show(law['growth'])}, and there is no law "
            "to fit."
        )
    if law["saturates"]:
        form = (
            f"{TITLE} = {law['asymptote']['value']:.2f} - {law['factor']['value']:.3g} x "
            f"pairs^-{law['exponent']['value']:.2f}, fitted without the largest size; the asymptote "
            f"[{law['asymptote']['low']:.2f}, {law['asymptote']['high']:.2f}] is an extrapolation"
        )
    else:
        form = (
            "a power law fitted without the largest size does not tell whether scores saturate: how far more "
            "data would lead cannot be said"
        )
    if is_real(miss, confidence):
        held = "the measured score misses it"
    else:
        held = f"no miss was shown, {would_show(miss)}"
    interval = f"(interval {near['low']:,} to {near['high']:,})"
    if near["value"] == law["curve"][-1][0]:
        enough = f"Scores are within one point of the largest size's from that size on {interval}."
    else:
        enough = (
            f"Scores are within one point of the largest size's from {near['value']:,} pairs on {interval}."
        )
    said = (
        f"{form}. It foretold {between(law['predicted'], '.2f')} for the largest size, off by "
        f"{between(miss)}: {held}. {enough}"
    )
    return f"{label}: {said}" if label else said[0].upper() + said[1:]


CURVE_POINTS = 25  # of a fitted law and its band


def numbers(study: Study, measured: Measured, confidence: float) -> dict:
    """The law of each series with its curve: [points, 4] of x, value, low, high."""
    found = {}
    for label, members in whole(study):
        x = np.array([variant.values[study.along] for variant in members])
        drawn = [measured.headline(v.name) for v in members]
        found[label] = variance.scaling(x, drawn, confidence)
        at = np.geomspace(x[0], x[-1], CURVE_POINTS)
        found[label]["curve"] = np.vstack([at, variance.band(x, drawn, at, confidence)]).T.tolist()
    for part in ("miss", "growth"):
        variance.adjust_holm([law[part] for law in found.values()], confidence)
    return {"laws": found}


def sentences(found: dict) -> list[str]:
    """The law of each series."""
    laws = found["analysis"].get("laws", {})
    return [law_sentence(label, law, found["confidence"]) for label, law in laws.items()]


ANALYSIS = Analysis(numbers, sentences, follows_a_key=True)
