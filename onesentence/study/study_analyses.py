"""What a kind of study asks beyond its differences: a trend, a law, the best of each group, a front.

Every analysis takes the study, what was measured, and the confidence, and is of the headline metric, but for
`copying`, which is of what is copied. A series that is empty, since not every run is there, is passed over.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onesentence.evaluation.metrics import HEADLINE
from onesentence.evaluation.statistics import Sample
from onesentence.study import hierarchy
from onesentence.study.hierarchy import Resampled, Spread
from onesentence.study.studies import Study, Variant

CURVE_POINTS = 25  # of a fitted law and its band
COPYING = ("verbatim", "coverage", "novel_2")
TOKENS = 10  # of a prompt, for which its price is given


@dataclass(frozen=True)
class Measured:
    """Scores of every variant, by its name.

    tuned: by metric too; base: untuned, headline metric; tuned_rows, base_rows: headline metric [seeds, n]
    (of the base one row: no seed is in it); cost: as in the JSON; spread: between seeds, borrowed for studies
    of one seed; sample: the clusters of the articles.
    """

    tuned: dict[str, dict[str, Resampled]]
    base: dict[str, Resampled]
    tuned_rows: dict[str, np.ndarray]
    base_rows: dict[str, np.ndarray]
    cost: dict[str, dict[str, int]]
    spread: Spread | None
    resamples: int
    sample: Sample

    def headline(self, name: str) -> Resampled:
        """The headline metric of a variant, tuned."""
        return self.tuned[name][HEADLINE]

    def chosen_elsewhere(
        self, rows: dict[str, np.ndarray], names: list[str], spread: Spread | None
    ) -> Resampled:
        """The best of several as one more variant: each half of the articles is scored with the one that is
        best on the other half. The best on the same articles would owe part of its score to their choice; so
        would the best on others of the same clusters, which no half cuts.
        """
        table = np.stack([rows[name] for name in names])  # [variants, seeds, n]
        halves = self.sample.clusters % 2
        found = np.empty(table.shape[1:])
        for half in (0, 1):
            best = int(np.argmax(np.nanmean(table[:, :, halves != half], axis=(1, 2))))
            found[:, halves == half] = table[best][:, halves == half]
        return hierarchy.resampled(found, self.resamples, len(self.tuned), spread, self.sample)


def whole(study: Study) -> list[tuple[str, list[Variant]]]:
    """Label and members of the series of which every run is there."""
    return [(label, members) for label, members in study.series.items() if members]


def trend(study: Study, measured: Measured, confidence: float) -> dict:
    """Gain for each doubling of the key that the study follows."""
    found = {}
    for label, members in whole(study):
        x = np.log2([variant.values[study.along] for variant in members])
        found[label] = hierarchy.slope(x, [measured.headline(v.name) for v in members], confidence)
    hierarchy.family(list(found.values()), confidence)
    return {"for_each_doubling": found}


def best(study: Study, measured: Measured, confidence: float) -> dict:
    """The best of each series, or of all: by how much it beats the reference on articles that did not choose
    it, and which others are not distinguishable from it. One at an end of what was tried says so.
    """
    series = {label: [v.name for v in members] for label, members in whole(study)}
    if not study.series:
        series = {"": [variant.name for variant in study.variants]}
    # Other halves of the articles, and still the same seeds: their luck is chosen too.
    found, choices = {}, max((len(names) for names in series.values()), default=0)
    for label, names in series.items():
        first = max(names, key=lambda name: measured.headline(name).value)
        alike = hierarchy.not_worse(names.index(first), [measured.headline(n) for n in names], confidence)
        chosen = measured.chosen_elsewhere(measured.tuned_rows, names, measured.spread)
        ends = {names[0]: "lowest", names[-1]: "highest"} if study.along else {}
        found[label] = {
            "best": first,
            "at_the_end": f"{ends[first]} {study.along}" if first in ends else None,
            "not_distinguishable": [names[i] for i in alike],
            "over_reference": hierarchy.difference(
                chosen, measured.headline(study.reference), 1 - (1 - confidence) / choices
            ),
        }
    hierarchy.family([entry["over_reference"] for entry in found.values()], confidence, choices)
    return {"best": found}


def scaling(study: Study, measured: Measured, confidence: float) -> dict:
    """The law of each series with its curve: [points, 4] of x, value, low, high."""
    found = {}
    for label, members in whole(study):
        x = np.array([variant.values[study.along] for variant in members])
        drawn = [measured.headline(v.name) for v in members]
        found[label] = hierarchy.scaling(x, drawn, confidence)
        at = np.geomspace(x[0], x[-1], CURVE_POINTS)
        found[label]["curve"] = np.vstack([at, hierarchy.band(x, drawn, at, confidence)]).T.tolist()
    for part in ("miss", "growth"):
        hierarchy.family([law[part] for law in found.values()], confidence)
    return {"laws": found}


def pareto(study: Study, measured: Measured, confidence: float) -> dict:
    """Variants for which none takes less memory and scores better, and how often that is so over the
    draws.
    """
    names = [variant.name for variant in study.variants]
    cost = [measured.cost[name]["base_bytes"] for name in names]
    front = hierarchy.pareto_front(cost, [measured.headline(name).value for name in names])
    counts = np.zeros(len(names))
    for draw in np.stack([measured.headline(name).both for name in names], axis=1):
        counts[hierarchy.pareto_front(cost, draw.tolist())] += 1
    return {
        "pareto_front": [names[i] for i in front],
        "percent_of_draws_on_it": dict(zip(names, (100 * counts / measured.resamples).tolist(), strict=True)),
    }


def prompt(study: Study, measured: Measured, confidence: float) -> dict:
    """How far a prompt alone goes towards the tuned model, and what the prompt's length is worth."""
    names = [variant.name for variant in study.variants]
    start, tuned = measured.base[study.reference], measured.headline(study.reference)
    chosen = measured.chosen_elsewhere(measured.base_rows, names, None)
    gap = hierarchy.difference(tuned, start, confidence)
    hierarchy.family([gap], confidence)
    with np.errstate(divide="ignore", invalid="ignore"):
        closed = 100 * (chosen.both - start.both) / (tuned.both - start.both)
    low, high = np.quantile(closed, [(1 - confidence) / 2, (1 + confidence) / 2])
    shown = gap["low"] > 0  # a share of nothing is no number
    x = np.array([measured.cost[name]["prompt_tokens"] for name in names]) / TOKENS
    lengths = {
        "untuned": hierarchy.slope(x, [measured.base[name] for name in names], confidence, sampled=True),
        "tuned": hierarchy.slope(x, [measured.headline(name) for name in names], confidence, sampled=True),
    }
    hierarchy.family(list(lengths.values()), confidence)
    return {
        "best_prompt_of_the_base": max(names, key=lambda name: measured.base[name].value),
        "gap": gap,
        "percent_of_the_gap_closed_by_prompting": {
            "value": 100 * (chosen.value - start.value) / (tuned.value - start.value) if shown else None,
            "low": float(low) if shown else None,
            "high": float(high) if shown else None,
        },
        "for_each_10_tokens_of_prompt": lengths,
    }


def full(study: Study, measured: Measured, confidence: float) -> dict:
    """Percent below the reference, which trains every weight; the intervals hold for all variants at once
    (Bonferroni).
    """
    above = measured.headline(study.reference)
    found, each_confidence = {}, 1 - (1 - confidence) / (len(study.variants) - 1)
    for variant in study.variants:
        if variant.name != study.reference:
            each = measured.headline(variant.name)
            draws, value = 100 * (1 - each.both / above.both), 100 * (1 - each.value / above.value)
            entry = hierarchy.test_of(draws, value, each_confidence)
            found[variant.name] = {name: entry[name] for name in ("value", "low", "high")}
    return {"percent_below_full": found}


def copying(study: Study, measured: Measured, confidence: float) -> dict:
    """Differences in how much is copied."""
    found = {
        variant.name: {
            metric: hierarchy.difference(
                measured.tuned[variant.name][metric], measured.tuned[study.reference][metric], confidence
            )
            for metric in COPYING
        }
        for variant in study.variants
        if variant.name != study.reference
    }
    hierarchy.family([entry for each in found.values() for entry in each.values()], confidence)
    return {"copying": found}


def exchange(study: Study, measured: Measured, confidence: float) -> dict:
    """Each series with more data against the next one with less: from one size to the next, and to the last.

    Series stand in the order of their models' size, and have the same sizes of data. Beside one that is empty
    there is no next larger one.
    """
    found = []
    for smaller, larger in itertools.pairwise(study.series.values()):
        if not smaller:
            continue
        for less in range(len(larger) - 1):
            for more in sorted({less + 1, len(smaller) - 1}):
                names = smaller[more].name, larger[less].name
                entry = hierarchy.difference(*(measured.headline(name) for name in names), confidence)
                found.append({"smaller": names[0], "larger": names[1], **entry})
    hierarchy.family(found, confidence)
    return {"exchanges": found}


ANALYSES: dict[str, Callable[[Study, Measured, float], dict]] = {
    each.__name__: each for each in (trend, best, scaling, pareto, prompt, full, copying, exchange)
}
