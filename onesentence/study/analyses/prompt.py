"""How much does a prompt alone reach, and what is its length worth?"""

import numpy as np

from onesentence.core import plots
from onesentence.evaluation.metrics import HEADLINE
from onesentence.study import variance
from onesentence.study.analyses.analysis import Analysis
from onesentence.study.measured import Measured
from onesentence.study.phrases import between, trend_sentence
from onesentence.study.variants import Study


def sentences(found: dict) -> list[str]:
    """What a prompt alone reaches, and what its length is worth."""
    analysis = found["analysis"]
    if "gap" not in analysis:
        return []
    closed = analysis["percent_of_the_gap_closed_by_prompting"]
    said = [
        f"The untuned base's best prompt is {analysis['best_prompt_of_the_base']}. The model tuned "
        f"with {found['baseline']} is {between(analysis['gap'])} points above the untuned base under it."
    ]
    if closed["value"] is not None:
        said.append(
            f"The best prompt alone, chosen on one half of the articles and measured on the other, closes "
            f"{between(closed, '.1f')}% of that gap."
        )
    for label, entry in analysis["for_each_10_tokens_of_prompt"].items():
        said.append(trend_sentence(label, entry, "10 more tokens of prompt", found["confidence"]))
    return said


TOKENS = 10  # of a prompt, for which its price is given


def numbers(study: Study, measured: Measured, confidence: float) -> dict:
    """How far a prompt alone goes towards the tuned model, and what the prompt's length is worth."""
    names = [variant.name for variant in study.variants]
    start, tuned = measured.base[study.baseline], measured.headline(study.baseline)
    chosen = measured.chosen_elsewhere(measured.base_rows, names, None)
    gap = variance.difference(tuned, start, confidence)
    variance.adjust_holm([gap], confidence)
    with np.errstate(divide="ignore", invalid="ignore"):
        closed = 100 * (chosen.both - start.both) / (tuned.both - start.both)
    low, high = np.quantile(closed, [(1 - confidence) / 2, (1 + confidence) / 2])
    shown = gap["low"] > 0  # a share of nothing is no number
    x = np.array([measured.cost[name]["prompt_tokens"] for name in names]) / TOKENS
    lengths = {
        "untuned": variance.slope(x, [measured.base[name] for name in names], confidence, sampled=True),
        "tuned": variance.slope(x, [measured.headline(name) for name in names], confidence, sampled=True),
    }
    variance.adjust_holm(list(lengths.values()), confidence)
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


def draw_lengths(axis, found: dict) -> None:
    """ROUGE-1 against the tokens that a prompt adds, tuned and untuned."""
    for name, variant in found["variants"].items():
        tokens = variant["cost"]["prompt_tokens"]
        for kind, score in (("tuned", variant["scores"][HEADLINE]), ("lead", variant["base"][HEADLINE])):
            colour = plots.COLOURS["base" if kind == "tuned" and name == found["baseline"] else kind]
            axis.errorbar(
                [tokens], [score["value"]], yerr=plots.error_bars([score]), fmt="o", color=colour, capsize=2
            )
    axis.set(
        title="blue: tuned, grey: untuned", xlabel="tokens that the prompt adds", ylabel="ROUGE-1 (F1 x 100)"
    )


ANALYSIS = Analysis(numbers, sentences, panel=draw_lengths, shows_untuned=True)
