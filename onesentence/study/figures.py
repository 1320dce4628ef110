"""Plots of a study."""

from pathlib import Path
from typing import Any

import numpy as np

from onesentence.core import plots
from onesentence.core.text import percent
from onesentence.evaluation.metrics import HEADLINE
from onesentence.study.analyses import ANALYSES
from onesentence.study.comparison import DESCRIBED, TESTED_METRICS
from onesentence.study.variants import Study

PLOTS = Path("plots/studies")
# From Okabe and Ito 2008, as all colours here; none is the baseline's.
CURVE_COLOURS = (plots.COLOURS["tuned"], "#CC79A7", plots.COLOURS["lead"], "#009E73")
APART = 1.06  # factor between curves along a logarithmic axis


def write_plots(study: Study, result: dict[str, Any]) -> None:
    """Write plots/studies/NAME.csv, a row for each variant, and NAME.svg."""
    header = ["variant"]
    for metric in TESTED_METRICS:
        header += [metric, f"{metric}_low", f"{metric}_high"]
    header += ["base_rouge1", *DESCRIBED, *next(iter(result["variants"].values()))["cost"]]
    rows = []
    for name, variant in result["variants"].items():
        cells = [name]
        for metric in TESTED_METRICS:
            score = variant["scores"][metric]
            cells += [score["value"], score["low"], score["high"]]
        cells.append(variant["base"][HEADLINE]["value"])
        cells += [variant["scores"][metric]["value"] for metric in DESCRIBED]
        rows.append([*cells, *variant["cost"].values()])
    plots.write_csv(PLOTS / f"{study.name}.csv", header, rows)
    names = list(result["variants"])
    kind = ANALYSES.get(study.analysis)
    # A result may be older than the study's present analysis: then it has no numbers to draw.
    panel = kind.panel if kind and kind.sentences(result) else None
    curves = any(study.series.values())  # one that lacks a run is empty, and so may all be
    beside = curves or panel is not None
    height = max(2.8, 0.28 * len(names) + 1.3)
    drawn, axes = plots.figure(width=10.0 if beside else 7.0, height=height, columns=2 if beside else 1)
    draw_variants(axes[0] if beside else axes, study, result)
    if curves:
        draw_series(axes[1], study, result)
    elif panel:
        panel(axes[1], result)
    plots.save(drawn, PLOTS / f"{study.name}.svg")


def draw_variants(axis: Any, study: Study, result: dict[str, Any]) -> None:
    """Draw ROUGE-1 of every variant with its interval, and with a thick line the interval of its paired
    difference to the baseline.

    The paired difference compares two scores; whether their own intervals overlap does not.
    """
    # In the order of the curves beside it, so that a variant that was declared later is next to its curve.
    ordered = [member.name for members in study.series.values() for member in members]
    names = list(dict.fromkeys([*ordered, *result["variants"]]))
    start = result["variants"][result["baseline"]]["scores"][HEADLINE]["value"]
    kind = ANALYSES.get(study.analysis)
    untuned = bool(kind and kind.shows_untuned)
    for place, name in enumerate(reversed(names)):
        variant = result["variants"][name]
        score = variant["scores"][HEADLINE]
        colour = plots.COLOURS["base"] if name == result["baseline"] else plots.COLOURS["tuned"]
        axis.errorbar(
            [score["value"]],
            [place],
            xerr=plots.error_bars([score]),
            fmt="o",
            color=colour,
            capsize=2,
            lw=0.8,
        )
        if name != result["baseline"]:
            entry = variant["difference"][HEADLINE]
            axis.plot(
                [start + entry["low"], start + entry["high"]], [place, place], color=colour, lw=4, alpha=0.5
            )
        if untuned:
            axis.plot([variant["base"][HEADLINE]["value"]], [place], "o", color=plots.COLOURS["lead"])
    axis.axvline(start, color="black", lw=0.6)
    axis.set_yticks(range(len(names)), list(reversed(names)))
    axis.set_ylim(-0.6, len(names) - 0.4)
    count = len(result["seeds"])
    grey = "; grey: untuned" if untuned else ""
    borrowed = f"articles and seeds (as in {result['spread_from']})" if result["spread_from"] else "articles"
    over = "seeds and articles" if count > 1 else borrowed
    seeds = f"{count} seed{'s' * (count > 1)}"
    axis.set(
        title=f"{study.name}: {result['n']:,} {result['split']} articles, {seeds}{grey}",
        xlabel=f"ROUGE-1 (F1 x 100), {percent(result['confidence'])} interval over {over};\n"
        "thick: interval of the paired difference to the baseline (orange, line)",
    )


def draw_series(axis: Any, study: Study, result: dict[str, Any]) -> None:
    """Draw ROUGE-1 along the key that the study follows.

    A law is dashed beyond the sizes that it was fitted to; the size that tests it is hollow. Without a law,
    curves are shifted a little, so that no error bar hides another.
    """
    apart = 1 if result["analysis"].get("laws") else APART
    for place, ((label, members), colour) in enumerate(
        zip(study.series.items(), CURVE_COLOURS, strict=False)
    ):
        if not members:  # runs of this curve are missing
            continue
        shift = apart ** (place - (len(study.series) - 1) / 2)
        x = [study.position(member) * shift for member in members]
        scores = [result["variants"][member.name]["scores"][HEADLINE] for member in members]
        bars = np.array([plots.error_bars([score]) for score in scores])[:, :, 0].T
        y = [score["value"] for score in scores]
        law = result["analysis"].get("laws", {}).get(label)
        line = "o" if law else "o-"
        axis.errorbar(x, y, yerr=bars, fmt=line, color=colour, capsize=2, label=label)
        if law:
            at, fit, low, high = np.array(law["curve"]).T
            inside, outside = at <= x[-2], at >= at[at <= x[-2]][-1]
            axis.plot(at[inside], fit[inside], color=colour, lw=1)
            axis.plot(at[outside], fit[outside], "--", color=colour, lw=1)
            axis.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
            axis.plot(x[-1], y[-1], "o", color=colour, markerfacecolor="white", zorder=3)
    if any(label for label, members in study.series.items() if members):
        axis.legend(frameon=False)
    if result["analysis"].get("laws"):
        axis.set_title("dashed and hollow: not used in the fit")
    places = sorted({study.position(member) for members in study.series.values() for member in members})
    logarithmic = places[0] > 0
    if logarithmic:
        axis.set_xscale("log", base=2)
    axis.set_xticks(places)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.tick_params(axis="x", rotation=45)
    axis.set(xlabel=f"{study.along}{' (log scale)' * logarithmic}", ylabel="ROUGE-1 (F1 x 100)")
