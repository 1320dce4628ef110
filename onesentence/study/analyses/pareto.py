"""Which variants are worth their memory? Those on the Pareto front of memory and score."""

from typing import Any

import numpy as np

from onesentence.core import plots
from onesentence.evaluation.metrics import HEADLINE
from onesentence.study import variance
from onesentence.study.analyses.analysis import Analysis
from onesentence.study.measured import Measured
from onesentence.study.phrases import TITLE
from onesentence.study.variants import Study

WRITES = "generate.quantization"  # of a variant that writes with another format than it was trained with


def numbers(study: Study, measured: Measured, confidence: float) -> dict[str, Any]:
    """Variants on the Pareto front of memory and score, and the percentage of draws with each on it.

    The memory is that of the base in training. A variant that writes with another format than the
    baseline is not compared: it has another size there.
    """
    written = {variant.name: variant.values.get(WRITES) for variant in study.variants}
    names = [name for name, way in written.items() if way == written[study.baseline]]
    cost = [measured.cost[name]["base_bytes"] for name in names]
    front = variance.pareto_front(cost, [measured.headline(name).value for name in names])
    counts = np.zeros(len(names))
    for draw in np.stack([measured.headline(name).both for name in names], axis=1):
        counts[variance.pareto_front(cost, draw.tolist())] += 1
    return {
        "pareto_front": [names[i] for i in front],
        "percent_of_draws_on_it": dict(zip(names, (100 * counts / measured.resamples).tolist(), strict=True)),
    }


def draw_memory(axis: Any, result: dict[str, Any]) -> None:
    """Quality against the base's size."""
    ordered = sorted(result["variants"].items(), key=lambda item: item[1]["cost"]["base_bytes"])
    for place, (name, variant) in enumerate(ordered):
        score, size = variant["scores"][HEADLINE], variant["cost"]["base_bytes"] / 1e6
        on_front = name in result["analysis"]["pareto_front"]
        colour = plots.COLOURS["tuned" if on_front else "lead"]
        axis.errorbar(
            [size], [score["value"]], yerr=plots.error_bars([score]), fmt="o", color=colour, capsize=2
        )
        # Names alternate above and below their bars: sizes may be close to each other.
        end, shift, side = ("low", -4, "top") if place % 2 else ("high", 4, "bottom")
        axis.annotate(
            name, (size, score[end]), (0, shift), textcoords="offset points", ha="center", va=side, fontsize=8
        )
    axis.margins(0.1, 0.12)
    axis.set(
        title="blue: on the Pareto front, grey: not",
        xlabel="base in memory in training (MB)",
        ylabel="ROUGE-1 (F1 x 100)",
    )


def sentences(result: dict[str, Any]) -> list[str]:
    """The variants on the front."""
    analysis, variants = result["analysis"], result["variants"]
    if "pareto_front" not in analysis:
        return []
    front = ", ".join(
        f"{name} ({variants[name]['cost']['base_bytes'] / 1e6:,.1f} MB, {TITLE} "
        f"{variants[name]['scores'][HEADLINE]['value']:.2f}, in "
        f"{analysis['percent_of_draws_on_it'][name]:.0f}% of the resamples)"
        for name in analysis["pareto_front"]
    )
    lines = [f"Pareto front of memory and {TITLE}: {front}."]
    apart = [name for name in variants if name not in analysis["percent_of_draws_on_it"]]
    if apart:
        listed = ", ".join(apart)
        lines.append(f"Not compared in memory, because the base has another format when it writes: {listed}.")
    return lines


ANALYSIS = Analysis(numbers, sentences, panel=draw_memory)
