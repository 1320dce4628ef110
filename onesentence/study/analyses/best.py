"""Which variant is best, and how sure is that?"""

from onesentence.evaluation.comparison import is_real
from onesentence.study import variance
from onesentence.study.analyses.analysis import Analysis
from onesentence.study.measured import Measured, whole
from onesentence.study.phrases import NAMED, between, would_show
from onesentence.study.variants import Study


def best_sentence(label: str, entry: dict, found: dict) -> str:
    """The best of a series, what it may be confused with, and what its choice is worth."""
    open_, over = entry["not_distinguishable"], entry["over_baseline"]
    shown = ", ".join(open_) if len(open_) <= NAMED else f"{len(open_)} others"
    rest = f"not distinguishable from it: {shown}" if open_ else "all others are worse"
    first = f"{label + ': ' if label else ''}best is {entry['best']}"
    if not label and (sets := found["variants"][entry["best"]]["sets"]):
        first += f" ({', '.join(f'{key} {value}' for key, value in sets.items())})"
    if entry["at_the_end"]:
        first += f" (the {entry['at_the_end']} that was tried: a better one may lie beyond)"
    if entry["best"] == found["baseline"]:
        return f"{first}, the baseline; {rest}."
    worth = "" if is_real(over, found["confidence"]) else f": no gain was shown, {would_show(over)}"
    return (
        f"{first}; {rest}. Chosen on one half of the articles and measured on the other, the best is "
        f"{between(over)} from {found['baseline']}{worth}; the interval allows for the luck of a seed that "
        "was chosen too."
    )


def numbers(study: Study, measured: Measured, confidence: float) -> dict:
    """The best of each series, or of all: by how much it beats the baseline on articles that did not choose
    it, and which others are not distinguishable from it. One at an end of what was tried says so.
    """
    series = {label: [v.name for v in members] for label, members in whole(study)}
    if not study.series:
        series = {"": [variant.name for variant in study.variants]}
    # Other halves of the articles, and still the same seeds: their luck is chosen too.
    found, choices = {}, max((len(names) for names in series.values()), default=0)
    for label, names in series.items():
        first = max(names, key=lambda name: measured.headline(name).value)
        alike = variance.not_worse(names.index(first), [measured.headline(n) for n in names], confidence)
        chosen = measured.chosen_elsewhere(measured.tuned_rows, names, measured.spread)
        ends = {names[0]: "lowest", names[-1]: "highest"} if study.along else {}
        found[label] = {
            "best": first,
            "at_the_end": f"{ends[first]} {study.along}" if first in ends else None,
            "not_distinguishable": [names[i] for i in alike],
            "over_baseline": variance.difference(
                chosen, measured.headline(study.baseline), 1 - (1 - confidence) / choices
            ),
        }
    variance.adjust_holm([entry["over_baseline"] for entry in found.values()], confidence, choices)
    return {"best": found}


def sentences(found: dict) -> list[str]:
    """The best of each series."""
    return [best_sentence(label, entry, found) for label, entry in found["analysis"].get("best", {}).items()]


ANALYSIS = Analysis(numbers, sentences)
