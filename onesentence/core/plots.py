"""Plots that are the same bytes on every run and can be read alone: title, axes, units, n.

Every plot has its numbers beside it as CSV, which `dvc plots` draws.
"""

import csv
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onesentence.core.files import atomic_write, rounded, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours that stay apart for colour-blind readers and in grey (Okabe and Ito 2008).
COLOURS = {"lead": "#999999", "base": "#E69F00", "tuned": "#0072B2"}


def figure(width: float = 7.0, height: float = 4.2, columns: int = 1) -> "tuple[Figure, Any]":
    """A figure and its axes (one, or a list of `columns`), in a fixed style."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "plots",  # ids in the file would be random
            "svg.fonttype": "path",
            "font.family": "DejaVu Sans",  # ships with matplotlib
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10,
        }
    )
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    return drawn, drawn.subplots(1, columns)


def save(drawn: "Figure", path: Path) -> None:
    """Write a figure as SVG without a date or a version in it."""
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    # The path data ends lines with blanks, which git would mark.
    write_text(path, "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n")


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    """Write rounded numbers as CSV; None is an empty cell."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(["" if cell is None else cell for cell in rounded(row)] for row in rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV that `write_csv` wrote, all cells as text."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def error_bars(scores: list[dict[str, Any]]) -> list[list[float]]:
    """Lengths of error bars below and above scores, [2, scores]; NaN, no bar, where there is no interval."""
    return [
        [math.nan if e["low"] is None else e["value"] - e["low"] for e in scores],
        [math.nan if e["high"] is None else e["high"] - e["value"] for e in scores],
    ]
