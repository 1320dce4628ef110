"""The plots of one run: each function writes an .svg into `folder`, and its numbers as .csv."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from onesentence.core import plots
from onesentence.core.plots import write_csv
from onesentence.core.text import percent
from onesentence.evaluation.metrics import METRICS, QUALITY
from onesentence.report.sentences import NAMES, clusters_phrase
from onesentence.report.tables import SYSTEMS

COLOURS = {**plots.COLOURS, "oracle": "#CC79A7", "reference": "#009E73"}
STUDY_GOAL = 35.0  # ROUGE-1 that the original XSum study aimed at
NOVEL = ("novel_1", "novel_2", "novel_3", "novel_4")
COVERAGE_EDGES = np.linspace(0, 100, 11)  # %
DENSITY_EDGES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 1e9])  # words; the last cell has no upper end


def draw_loss(train: dict[str, Any], folder: Path) -> None:
    """Draw training and validation loss against the step, from loss.csv in `folder`."""
    rows = plots.read_csv(folder / "loss.csv")
    drawn, axis = plots.figure()
    for column, label, style in (
        ("loss", "training (with dropout, mean since the last point)", {"color": "#0072B2"}),
        ("validation_loss", "validation (no dropout)", {"color": "#E69F00", "marker": "o"}),
    ):
        points = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
        if points:
            axis.plot(*zip(*points, strict=True), label=label, **style)
    axis.set(
        title=f"Loss on the summary tokens, {train['steps']:,} steps, "
        f"{train['trainable_parameters']:,} trained parameters",
        xlabel="optimizer step",
        ylabel="cross-entropy (nats per token)",
    )
    axis.legend(frameon=False)
    plots.save(drawn, folder / "loss.svg")


def subtitle(evaluation: dict[str, Any]) -> str:
    """The split, the number of articles and the confidence of the intervals, for the title of a plot."""
    return (
        f"{evaluation['split']}: {clusters_phrase(evaluation)}, {percent(evaluation['confidence'])} intervals"
    )


def draw_metrics(evaluation: dict[str, Any], published: str, folder: Path) -> None:
    """Draw every quality metric of each system with its interval.

    published: `report.published` of params.yaml.
    """
    drawn, axis = plots.figure(width=7.5, height=5.6)
    names = [name for name in QUALITY if name in evaluation["systems"]["tuned"]]
    rows = []
    for k, system in enumerate(SYSTEMS):
        entries = [evaluation["systems"][system][name] for name in names]
        heights = np.arange(len(names)) + 0.18 * (k - 1.5)  # systems side by side, so that no bar hides one
        axis.errorbar(
            [e["value"] for e in entries], heights, xerr=plots.error_bars(entries),
            fmt="o", markersize=4, capsize=2, label=NAMES[system], color=COLOURS[system],
        )  # fmt: skip
        for name, e in zip(names, entries, strict=True):
            bar = f"{system} {METRICS[name].title}"  # unique: dvc plots would stack bars of one name
            rows.append([bar, system, name, e["value"], e["low"], e["high"]])
    if published == "xsum":
        axis.plot([STUDY_GOAL] * 2, [-0.45, 0.45], color="black", linestyle="--", linewidth=1)
        axis.text(STUDY_GOAL, -0.5, "the study's goal", ha="center", va="bottom", fontsize=8)
    axis.set_yticks(range(len(names)), [METRICS[name].title for name in names])
    axis.invert_yaxis()
    axis.grid(axis="x", linewidth=0.4, alpha=0.5)
    axis.set(
        title=f"Quality by system; a failed output scores 0\n({subtitle(evaluation)})",
        xlabel="score (0 to 100, higher is better)",
    )
    axis.legend(frameon=False, loc="best")
    plots.save(drawn, folder / "metrics.svg")
    write_csv(folder / "metrics.csv", ["bar", "system", "metric", "value", "low", "high"], rows)


def draw_novelty(evaluation: dict[str, Any], folder: Path) -> None:
    """Draw the share of novel 1- to 4-grams of each system and of the references."""
    drawn, axis = plots.figure(width=7.5)
    rows = []
    for k, system in enumerate((*SYSTEMS, "reference")):
        entries = [evaluation["systems"][system][name] for name in NOVEL]
        defined = [(i, e) for i, e in enumerate(entries) if e["value"] is not None]
        axis.errorbar(
            [i + 0.08 * (k - 2) for i, _ in defined],
            [e["value"] for _, e in defined],
            plots.error_bars([e for _, e in defined]),
            fmt="o-", markersize=4, capsize=2, linewidth=1, color=COLOURS[system], label=NAMES[system],
        )  # fmt: skip
        for n, e in enumerate(entries, start=1):
            rows.append([f"{system} {n}-grams", system, n, e["value"], e["low"], e["high"]])
    axis.set_xticks(range(4), [f"{n}-grams" for n in (1, 2, 3, 4)])
    axis.set(
        title=f"Novel n-grams of the outputs ({subtitle(evaluation)})",
        xlabel="length of the n-gram (words)",
        ylabel="distinct n-grams not in the article (%)",
        ylim=(-3, 103),
    )
    axis.legend(frameon=False)
    plots.save(drawn, folder / "novelty.svg")
    write_csv(folder / "novelty.csv", ["bar", "system", "n", "value", "low", "high"], rows)


def draw_extraction(evaluation: dict[str, Any], tables: dict[str, pa.Table], folder: Path) -> None:
    """Draw the share of outputs by extractive coverage and density (as Grusky et al. 2018, figure 4)."""
    drawn, axes = plots.figure(width=9.5, height=3.6, columns=4)
    header = ["system", "coverage_from", "coverage_to", "density_from", "density_to", "percent_of_outputs"]
    rows = []
    for axis, system in zip(axes, ("reference", "base", "tuned", "lead"), strict=True):
        coverage, density = (tables[system][name].drop_null().to_numpy() for name in ("coverage", "density"))
        shares = np.histogram2d(coverage, density, bins=(COVERAGE_EDGES, DENSITY_EDGES))[0]
        shares = 100 * shares / max(1, len(coverage))  # percent; 0 where no output has a word
        axis.pcolormesh(
            COVERAGE_EDGES, np.arange(len(DENSITY_EDGES)), shares.T, cmap="Blues", vmin=0, vmax=25
        )
        for i, j in zip(*np.nonzero(shares >= 5), strict=True):  # smaller shares would only be clutter
            axis.text(
                5 + 10 * i, j + 0.5, f"{shares[i, j]:.0f}", ha="center", va="center", fontsize=7,
                color="white" if shares[i, j] > 12 else "black",
            )  # fmt: skip
        axis.set_yticks(np.arange(len(DENSITY_EDGES)), [*(f"{e:g}" for e in DENSITY_EDGES[:-1]), ""])
        axis.set_title(f"{NAMES[system]}\n(n = {len(coverage):,})", fontsize=9)
        for i, j in zip(*np.nonzero(shares), strict=True):
            ends = [*COVERAGE_EDGES[i : i + 2], *DENSITY_EDGES[j : j + 2]]
            cells = [float(end) if end < 1e9 else None for end in ends]
            rows.append([system, *cells, float(shares[i, j])])
    axes[0].set_ylabel("density (words: mean length of\nthe copied span around a word)")
    drawn.supxlabel("coverage (% of the output's words that are in copied spans)", fontsize=9)
    drawn.suptitle(
        f"How much outputs copy from their articles: % of outputs in each cell ({evaluation['split']} split)",
        fontsize=10,
    )
    plots.save(drawn, folder / "extraction.svg")
    write_csv(folder / "extraction.csv", header, rows)


def draw_length(rows: list[dict[str, Any]], evaluation: dict[str, Any], folder: Path) -> None:
    """Draw success rate and ROUGE-1 of each system by document length. rows: of `subgroups.group_rows`."""
    drawn, (left, right) = plots.figure(width=9.0, height=3.8, columns=2)
    positions = np.arange(len(rows))
    for k, name in enumerate(SYSTEMS):
        style = {"color": COLOURS[name], "label": NAMES[name], "marker": "o", "markersize": 4}
        entries = [row[name] for row in rows]
        x = positions + 0.06 * (k - 1.5)  # shifted, so that no point hides another
        left.plot(x, [row[f"{name}_success"] for row in rows], **style)
        right.errorbar(x, [e["value"] for e in entries], plots.error_bars(entries), capsize=2, **style)
    labels = [f"{row['group'].replace(' to ', '-')}\n(n = {row['n']})" for row in rows]
    for axis, title, unit in (
        (left, "Success rate by document length", "outputs that are a summary (%)"),
        (
            right,
            f"ROUGE-1 by document length ({percent(evaluation['confidence'])} intervals)",
            "ROUGE-1 (F1 x 100)",
        ),
    ):
        axis.set_xticks(range(len(rows)), labels, fontsize=8)
        axis.set(title=title, xlabel="document length (words)", ylabel=unit)
    left.set_ylim(-3, 103)
    right.set_ylim(bottom=0)
    left.legend(frameon=False, fontsize=8)
    plots.save(drawn, folder / "length.svg")
    header = ["words", "n"]
    for name in SYSTEMS:
        header += [f"{name}_success_percent", f"{name}_rouge1", f"{name}_low", f"{name}_high"]
    cells = [
        [row["group"], row["n"]]
        + [
            cell
            for name in SYSTEMS
            for cell in (row[f"{name}_success"], *(row[name][key] for key in ("value", "low", "high")))
        ]
        for row in rows
    ]
    write_csv(folder / "length.csv", header, cells)
