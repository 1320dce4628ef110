"""Tables on the terminal, 118 columns wide."""

from collections.abc import Collection, Sequence
from typing import Any

from onesentence.core.escaping import visible
from onesentence.core.text import percent
from onesentence.report.sentences import clusters_phrase
from onesentence.report.tables import comparison_rows, score_rows

WIDTH = 118  # columns of text
HEIGHT = 100  # lines; a longer table is printed whole


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], narrow: Collection[str] = ()
) -> None:
    """Print a table; the columns named in `narrow` may wrap. No text is markup, or steers the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def literal(text: str) -> Text:
        # Text, not str: rich reads brackets in a str as its markup, and intervals have brackets.
        return Text(visible(text, keep="\n"))

    table = Table(title=literal(title))
    for column in columns:
        table.add_column(
            literal(column),
            justify="left" if column == columns[0] else "right",
            no_wrap=column not in narrow,
            overflow="fold" if column in narrow else "ellipsis",  # what may wrap is never cut
        )
    for row in rows:
        table.add_row(*map(literal, row))
    # With a height, rich takes the width of any terminal as given: for TERM=dumb it would take 80 columns.
    Console(width=WIDTH, height=HEIGHT).print(table)


def print_scores(evaluation: dict[str, Any]) -> None:
    """Print the metrics by system, with intervals and units. evaluation: as in metrics/evaluation.json."""
    title = (
        f"{clusters_phrase(evaluation)}, value [{percent(evaluation['confidence'])} interval of "
        f"{evaluation['resamples']:,} resamples], a failed output scores 0"
    )
    print_table(title, **score_rows(evaluation, {}), narrow=("unit",))


def print_comparisons(evaluation: dict[str, Any]) -> None:
    """Print a table of each paired comparison. evaluation: as in metrics/evaluation.json."""
    for pair in evaluation["comparisons"]:
        table = comparison_rows(evaluation, pair)
        # With both intervals the table is wider than WIDTH.
        indices = [k for k, column in enumerate(table["columns"]) if column != "BCa interval"]
        print_table(
            f"{pair.replace('-', ' - ')}, the same {clusters_phrase(evaluation)}",
            [table["columns"][k] for k in indices],
            [[row[k] for k in indices] for row in table["rows"]],
            narrow=("metric",),
        )
