"""Figures of docs/explanation, drawn from the committed metrics of the default.

Run     python -m docs.figures       after a change of metrics/evaluation.json
"""

from pathlib import Path

import numpy as np

from onesentence.core import plots
from onesentence.core.files import read_json

EVALUATION = Path(__file__).resolve().parent.parent / "metrics/evaluation.json"
# At these sizes of a test set the articles a cluster stay as many as in the default's.
SIZES = np.geomspace(100, 12_000, 100)


def draw_paired(evaluation: dict, path: Path) -> None:
    """Three differences in ROUGE-1, each with its paired interval and with that of separate test sets."""
    drawn, axis = plots.figure(width=6.5, height=2.6)
    pairs = [("tuned", "base"), ("tuned", "lead"), ("tuned", "oracle")]
    for place, (left, right) in enumerate(pairs):
        paired = evaluation["comparisons"][f"{left}-{right}"]["rouge1"]
        scores = [evaluation["systems"][name]["rouge1"] for name in (left, right)]
        # Independent errors add up in squares.
        half = float(np.hypot(*((score["high"] - score["low"]) / 2 for score in scores)))
        separate = {
            "value": paired["value"],
            "low": paired["value"] - half,
            "high": paired["value"] + half,
        }
        for shift, entry, colour, label in (
            (-0.12, paired, plots.COLOURS["tuned"], "paired: the same articles"),
            (0.12, separate, plots.COLOURS["lead"], "as if each system had articles of its own"),
        ):
            axis.errorbar(
                entry["value"], place + shift, xerr=plots.error_bars([entry]), fmt="o", markersize=4,
                capsize=3, color=colour, label=label if place == 0 else None,
            )  # fmt: skip
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(
        title=f"Differences on {evaluation['n']:,} test articles, {evaluation['confidence']:.0%} intervals",
        xlabel="difference in ROUGE-1 (points of F1 x 100)",
    )
    axis.set_yticks(range(len(pairs)), [f"{left} - {right}" for left, right in pairs])
    axis.invert_yaxis()
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.14, 1.03))
    plots.save(drawn, path)


def draw_mde(evaluation: dict, path: Path) -> None:
    """The minimum detectable effect against the articles, clustered as they are and as if independent."""
    drawn, axis = plots.figure(width=6.5, height=3.2)
    found = evaluation["comparisons"]["tuned-lead"]["rouge1"]
    mde = found["mde"]
    # A standard error falls with the square root of the number of articles.
    curve = mde * np.sqrt(evaluation["n"] / SIZES)
    axis.plot(SIZES, curve, color=plots.COLOURS["tuned"], label="articles in source files, as they are")
    axis.plot(
        SIZES, curve / np.sqrt(found["design_effect"]), color=plots.COLOURS["lead"],
        label="if every article were drawn alone",
    )  # fmt: skip
    axis.plot(evaluation["n"], mde, "o", color=plots.COLOURS["tuned"])
    axis.annotate(
        f"{evaluation['n']:,} articles: {mde:.1f} points",
        (evaluation["n"], mde), xytext=(8, 6), textcoords="offset points",
    )  # fmt: skip
    axis.set(
        title="Smallest true difference that one test detects in 80% of cases (tuned - lead)",
        xlabel="articles in the test set",
        ylabel="MDE (points of ROUGE-1)",
        xscale="log",
        ylim=(0, None),
    )
    ticks = (100, 300, 1_000, 3_000, 10_000)
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    axis.legend(frameon=False)
    plots.save(drawn, path)


def draw(folder: Path) -> None:
    """Write paired.svg and mde.svg into a folder."""
    evaluation = read_json(EVALUATION)
    folder.mkdir(parents=True, exist_ok=True)
    draw_paired(evaluation, folder / "paired.svg")
    draw_mde(evaluation, folder / "mde.svg")


if __name__ == "__main__":
    draw(Path(__file__).resolve().parent / "explanation")
