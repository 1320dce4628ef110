"""How much does a prompt alone reach, and what does its length change?"""

from typing import Any

import numpy as np

from onesentence.core import plots
from onesentence.evaluation.metrics import HEADLINE
from onesentence.study import variance
from onesentence.study.analyses.analysis import Analysis
from onesentence.study.measured import Measured
from onesentence.study.phrases import between, trend_sentence
from onesentence.study.variants import Study

TOKENS = 10  # of a prompt: the step that a slope is given for


def sentences(result: dict[str, Any]) -> list[str]:
    """What a prompt alone reaches, and what its length changes."""
    analysis = result["analysis"]
    if "gap" not in analysis:
        return []
    closed = analysis["percent_of_the_gap_closed_by_prompting"]
    scores = {variant["base"][HEADLINE]["value"] for variant in result["variants"].values()}
    best = (
        f"best with {analysis['best_prompt_of_the_base']}" if len(scores) > 1 else "the same with each prompt"
    )
    lines = [
        f"The untuned base scores {best}. With {result['baseline']}, the tuned model differs from the "
        f"untuned base by {between(analysis['gap'])} points."
    ]
    if closed["value"] is not None:
        lines.append(
            f"The best prompt alone, chosen on one half of the articles and measured on the other, closes "
            f"{between(closed, '.1f')}% of that gap."
        )
    for label, entry in analysis["for_each_10_tokens_of_prompt"].items():
        lines.append(trend_sentence(label, entry, "10 more tokens of prompt", result["confidence"]))
    return lines


def numbers(study: Study, measured: Measured, confidence: float) -> dict[str, Any]:
    """The share of the gap to the tuned model that a prompt alone closes, and slopes over its length."""
    names = [variant.name for variant in study.variants]
    start, tuned = measured.base[study.baseline], measured.headline(study.baseline)
    chosen = measured.chosen_elsewhere(measured.base_rows, names, None)
    gap = variance.difference(tuned, start, confidence)
    variance.adjust_holm([gap], confidence)
    with np.errstate(divide="ignore", invalid="ignore"):
        closed = 100 * (chosen.both - start.both) / (tuned.both - start.both)
    low, high = np.quantile(closed, [(1 - confidence) / 2, (1 + confidence) / 2])
    has_gap = gap["low"] > 0  # a share of a gap that may be 0 is no number
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
            "value": 100 * (chosen.value - start.value) / (tuned.value - start.value) if has_gap else None,
            "low": float(low) if has_gap else None,
            "high": float(high) if has_gap else None,
        },
        "for_each_10_tokens_of_prompt": lengths,
    }


def draw_lengths(axis: Any, result: dict[str, Any]) -> None:
    """ROUGE-1 against the tokens that a prompt adds, tuned and untuned."""
    for name, variant in result["variants"].items():
        tokens = variant["cost"]["prompt_tokens"]
        for kind, score in (("tuned", variant["scores"][HEADLINE]), ("lead", variant["base"][HEADLINE])):
            colour = plots.COLOURS["base" if kind == "tuned" and name == result["baseline"] else kind]
            axis.errorbar(
                [tokens], [score["value"]], yerr=plots.error_bars([score]), fmt="o", color=colour, capsize=2
            )
    axis.set(
        title="blue: tuned (orange: baseline), grey: untuned",
        xlabel="tokens that the prompt adds",
        ylabel="ROUGE-1 (F1 x 100)",
    )


ANALYSIS = Analysis(numbers, sentences, panel=draw_lengths, shows_untuned=True)
