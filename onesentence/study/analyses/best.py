"""Which variant is best, and how certain is that?"""

from typing import Any

from onesentence.core.errors import UserError
from onesentence.evaluation.comparison import is_significant
from onesentence.study import variance
from onesentence.study.analyses.analysis import Analysis
from onesentence.study.measured import Measured, whole
from onesentence.study.phrases import VARIANTS_LISTED, between, mde_phrase
from onesentence.study.variants import Study


def seed_sentence(result: dict[str, Any]) -> str:
    """Whether the interval of a gain has the chance of seeds in it."""
    if len(result["seeds"]) > 1 or result["spread_from"]:
        return "The interval allows for the choice of a lucky seed."
    return "The interval makes no allowance for the choice of a lucky seed."


def best_sentence(label: str, entry: dict[str, Any], result: dict[str, Any]) -> str:
    """The best of a series, which others may be as good, and how much it gains over the baseline."""
    alike, over = entry["not_distinguishable"], entry["over_baseline"]
    listed = ", ".join(alike) if len(alike) <= VARIANTS_LISTED else f"{len(alike)} others"
    rest = f"not significantly worse: {listed}" if alike else "all others are significantly worse"
    first = f"{label}: the best is {entry['best']}" if label else f"The best is {entry['best']}"
    if not label and (sets := result["variants"][entry["best"]]["sets"]):
        first += f" ({', '.join(f'{key} {value}' for key, value in sets.items())})"
    if entry["at_the_end"]:
        first += f" (the {entry['at_the_end']} that was tried: a better one may lie beyond it)"
    if entry["best"] == result["baseline"]:
        return f"{first}, the baseline; {rest}."
    gain = (
        "" if is_significant(over, result["confidence"]) else f", not a significant gain ({mde_phrase(over)})"
    )
    return (
        f"{first}; {rest}. Chosen on one half of the articles and measured on the other, the best differs "
        f"from {result['baseline']} by {between(over)} points{gain}. {seed_sentence(result)}"
    )


def numbers(study: Study, measured: Measured, confidence: float) -> dict[str, Any]:
    """The best of each series, or of all variants: its gain over the baseline on articles that did not choose
    it, which others are not significantly worse, and whether it lies at an end of the values that were tried.
    """
    series = {label: [v.name for v in members] for label, members in whole(study)}
    if not study.series:
        series = {"": [variant.name for variant in study.variants]}
    best: dict[str, dict[str, Any]] = {}
    # The other half has other articles but the same seeds, so the choice still favours a lucky seed: the test
    # is corrected for as many choices as the longest series has members (Bonferroni).
    choices = max((len(names) for names in series.values()), default=0)
    for label, names in series.items():
        values = {name: measured.headline(name).value for name in names}
        first = max(names, key=lambda name: (values[name], name == study.baseline))
        alike = variance.not_worse(names.index(first), [measured.headline(n) for n in names], confidence)
        chosen = measured.chosen_elsewhere(measured.tuned_rows, names, measured.seed_variance)
        # No end of the values is best where another variant scores the same.
        alone = list(values.values()).count(values[first]) == 1
        ends = {names[0]: "lowest", names[-1]: "highest"} if study.along and alone else {}
        best[label] = {
            "best": first,
            "at_the_end": f"{ends[first]} {study.along}" if first in ends else None,
            "not_distinguishable": [names[i] for i in alike],
            "over_baseline": variance.difference(
                chosen, measured.headline(study.baseline), 1 - (1 - confidence) / choices
            ),
        }
    variance.adjust_holm([entry["over_baseline"] for entry in best.values()], confidence, choices)
    return {"best": best}


def sentences(result: dict[str, Any]) -> list[str]:
    """The best of each series."""
    best = result["analysis"].get("best", {})
    return [best_sentence(label, entry, result) for label, entry in best.items()]


def check(where: str, study: Study) -> None:
    """Raise a UserError where a series leaves no choice."""
    for label, members in study.series.items():
        if len(members) == 1:
            raise UserError(
                f"{where}.series.{label}: the analysis `best` needs 2 or more variants, found "
                f"{members[0].name} alone; add others, or remove the series"
            )


ANALYSIS = Analysis(numbers, sentences, check=check)
