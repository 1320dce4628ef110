"""Tables on the terminal, 118 columns wide."""

from onesentence.report.sentences import clusters_phrase
from onesentence.report.tables import comparison_rows, score_rows


def print_table(title: str, columns: list[str], rows: list[list[str]], narrow: str = "") -> None:
    """A table on the terminal; the column named `narrow` may wrap. No text is taken for markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title))
    for column in columns:
        table.add_column(
            Text(column), justify="left" if column == columns[0] else "right", no_wrap=column != narrow
        )
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=118).print(table)


def print_scores(found: dict) -> None:
    """A table of metrics by system, with intervals and units. found: as metrics/evaluation.json."""
    title = f"{clusters_phrase(found)}, value [{found['confidence']:.0%} interval of {found['resamples']:,} "
    print_table(title + "resamples], a failed output scores 0", **score_rows(found, {}), narrow="unit")


def print_comparisons(found: dict) -> None:
    """A table of every paired difference. found: as metrics/evaluation.json."""
    for pair in found["comparisons"]:
        shown = comparison_rows(found, pair)
        kept = [k for k, column in enumerate(shown["columns"]) if column != "BCa interval"]  # 118 columns
        print_table(
            f"{pair.replace('-', ' - ')}, the same {clusters_phrase(found)}",
            [shown["columns"][k] for k in kept],
            [[row[k] for k in kept] for row in shown["rows"]],
            narrow="metric",
        )
