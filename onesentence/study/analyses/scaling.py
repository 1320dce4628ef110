"""How does quality grow with the data? A power law, tested on the largest size."""

from typing import Any

import numpy as np

from onesentence.core.errors import UserError
from onesentence.evaluation.comparison import is_significant
from onesentence.study import variance
from onesentence.study.analyses.analysis import Analysis, place_of, require_points
from onesentence.study.measured import Measured, whole
from onesentence.study.phrases import TITLE, between, distance, mde_phrase
from onesentence.study.variants import Study

CURVE_POINTS = 25  # of a fitted law and its band
PAIRS = "data.train_size"


def needed_phrase(goal: str, more: dict[str, int | None]) -> str:
    """How many pairs a goal would take, in two significant digits: it is an extrapolation."""

    def rounded(pairs: int | None) -> str:
        return f"more than {variance.BEYOND:,}" if pairs is None else f"{float(f'{pairs:.2g}'):,.0f}"

    if more["low"] is None:
        return f"{goal} is out of reach"
    if more["value"] is None:
        return f"{goal} is out of reach (interval from {rounded(more['low'])} pairs on)"
    return (
        f"{goal} would take about {rounded(more['value'])} pairs [{rounded(more['low'])}, "
        f"{rounded(more['high'])}]"
    )


def further_sentence(further: dict[str, Any]) -> str:
    """What the law through all sizes says of more data."""
    parts = [f"{between(at, '.2f')} with {at['pairs']:,} pairs" for at in further["predicted"]]
    parts.append(needed_phrase("one point more than the largest size's", further["one_more_point"]))
    if "goal" in further:
        parts.append(needed_phrase(f"{TITLE} {further['goal']['score']:g}", further["goal"]))
    listed = (
        ", ".join(parts[:-1]) + f"{',' if len(parts) > 2 else ''} and {parts[-1]}" if parts[1:] else parts[0]
    )
    return f"The law through all sizes, an extrapolation: {listed}."


def law_sentence(label: str, law: dict[str, Any], confidence: float) -> str:
    """A power law, what it predicts for the largest size, and how little data is enough."""
    start = f"{label}: " if label else ""
    miss, near, growth = law["miss"], law["within_one_point"], law["growth"]
    if not is_significant(growth, confidence) or growth["value"] < 0:
        text = (
            f"from the smallest to the largest size the score changes by {between(growth)} points: no "
            f"significant growth ({mde_phrase(growth)}), so no law is given."
        )
        return start + text if label else text[0].upper() + text[1:]
    if law["saturates"]:
        form = (
            f"{TITLE} = {law['asymptote']['value']:.2f} - {law['factor']['value']:.3g} x "
            f"pairs^-{law['exponent']['value']:.2f}; the asymptote [{law['asymptote']['low']:.2f}, "
            f"{law['asymptote']['high']:.2f}] is an extrapolation"
        )
    else:
        form = "the fitted power law does not show whether scores saturate, so no asymptote is given"
    if is_significant(miss, confidence):
        verdict = "a significant deviation"
    else:
        verdict = f"not a significant deviation ({mde_phrase(miss)})"
    only = near["value"] == law["curve"][-1][0]
    start_of_plateau = (
        "No smaller size scores within one point of the largest"
        if only
        else f"Scores are within one point of the largest size's from {near['value']:,} pairs on"
    )
    text = (
        f"{form}. Fitted without the largest size, the law predicts {between(law['predicted'], '.2f')} "
        f"there; the measured score is {distance(miss, 'higher', 'lower')}, {verdict}. "
        f"{start_of_plateau} (interval {near['low']:,} to {near['high']:,})."
    )
    if "further" in law:  # results of an earlier version lack it
        text += f" {further_sentence(law['further'])}"
    return start + text if label else text[0].upper() + text[1:]


def numbers(study: Study, measured: Measured, confidence: float) -> dict[str, Any]:
    """The law of each series with its curve: [points, 4] of x, value, low, high."""
    laws = {}
    for label, members in whole(study):
        x = np.array([study.position(variant) for variant in members])
        drawn = [measured.headline(v.name) for v in members]
        laws[label] = variance.scaling(x, drawn, confidence)
        laws[label]["further"] = variance.extrapolated(x, drawn, confidence, study.goal)
        at = np.geomspace(x[0], x[-1], CURVE_POINTS)
        laws[label]["curve"] = np.vstack([at, variance.band(x, drawn, at, confidence)]).T.tolist()
    for part in ("miss", "growth"):
        variance.adjust_holm([law[part] for law in laws.values()], confidence)
    return {"laws": laws}


def sentences(result: dict[str, Any]) -> list[str]:
    """The law of each series."""
    laws = result["analysis"].get("laws", {})
    return [law_sentence(label, law, result["confidence"]) for label, law in laws.items()]


def check(where: str, study: Study) -> None:
    """Raise a UserError unless each series has sizes of the data, enough to fit a law and to test it."""
    if study.along != PAIRS:
        raise UserError(
            f"{where}.along: the analysis `scaling` fits a law of {PAIRS}, found {study.along}; follow that "
            "key, or use the analysis `trend`"
        )
    # The law has three parameters, and the largest size is left out of its fit.
    require_points(where, study, 4, "scaling")
    for label, members in study.series.items():
        sizes = [study.position(member) for member in members]
        if len(set(sizes)) < len(sizes):
            raise UserError(
                f"{place_of(where, label)}: the analysis `scaling` needs another {PAIRS} in each variant, "
                f"found {', '.join(f'{size:g}' for size in sizes)}; remove a variant"
            )


ANALYSIS = Analysis(numbers, sentences, follows_a_key=True, check=check)
