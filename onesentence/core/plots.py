"""Plots with the same bytes on every run, each readable on its own: title, axes, units, n.

The numbers of every plot are in a CSV file beside it, which `dvc plots` can draw.
"""

import csv
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onesentence.core import recorded
from onesentence.core.escaping import csv_cell
from onesentence.core.files import atomic_write, rounded, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours that colour-blind readers can tell apart, also in grey (Okabe and Ito 2008).
COLOURS = {"lead": "#999999", "base": "#E69F00", "tuned": "#0072B2"}


def figure(width: float = 7.0, height: float = 4.2, columns: int = 1) -> "tuple[Figure, Any]":
    """A figure in a fixed style, and its axes: one, or an array of `columns`."""
    import matplotlib

    matplotlib.rcdefaults()  # a matplotlibrc of the user would change the committed plots
    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "plots",  # without it, ids in the file are random
            "svg.fonttype": "path",
            "font.family": "DejaVu Sans",  # ships with matplotlib
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10,
        }
    )
    from matplotlib.figure import Figure

    plot = Figure(figsize=(width, height), layout="constrained")
    return plot, plot.subplots(1, columns)


def save(plot: "Figure", path: Path) -> None:
    """Write a figure as SVG without a date or a version, which would change its bytes."""
    buffer = io.StringIO()
    plot.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    # matplotlib ends lines of path data with blanks, which git marks as errors.
    write_text(path, "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n")


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    """Write rows as CSV, with rounded floats, None as an empty cell, and no text that is a formula."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(csv_cell, header))
        writer.writerows(["" if cell is None else csv_cell(cell) for cell in rounded(row)] for row in rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file that `write_csv` wrote, every cell as text."""
    recorded.require(path)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def error_bars(scores: list[dict[str, Any]]) -> list[list[float]]:
    """Lengths of the error bars below and above scores, [2, scores]; NaN draws no bar (no interval).

    An interval of a skewed score may leave the score out by a little: the bar on that side has no length.
    """
    return [
        [math.nan if score["low"] is None else max(0.0, score["value"] - score["low"]) for score in scores],
        [math.nan if score["high"] is None else max(0.0, score["high"] - score["value"]) for score in scores],
    ]
