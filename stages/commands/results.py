"""Print the results of the last run as a table; with --readme, put plots/results.md into the README.

Run     python -m stages.commands.results [--readme]    (`make repro` ends with it)
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stages.common import errors
from stages.common.errors import UserError
from stages.common.files import read_json, write_text
from stages.common.results import METRICS, SYSTEM_NAMES, cell

EVALUATION = Path("metrics/evaluation.json")


README = Path("README.md")
RESULTS = Path("plots/results.md")
START, END = "<!-- results: written by make results -->\n", "<!-- end of results -->\n"


def update_readme() -> None:
    """Replace what stands between the README's markers by plots/results.md."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not end:
        raise UserError(f"{README}: the markers {START.strip()} and {END.strip()} are not there")
    write_text(README, before + START + RESULTS.read_text(encoding="utf-8") + END + after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--readme", action="store_true", help="also write the table into README.md")
    if parser.parse_args().readme:
        update_readme()
    evaluation = read_json(EVALUATION)
    table = Table(
        title=f"{evaluation['n']:,} {evaluation['split']} articles, "
        f"mean [{evaluation['confidence']:.0%} interval], a failed output scores 0"
    )
    table.add_column("system", no_wrap=True)
    for title in ("ROUGE-1", "ROUGE-2", "ROUGE-L", "success"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, title in SYSTEM_NAMES.items():
        found = evaluation["systems"][name]
        table.add_row(title, *(cell(found[m]) for m in METRICS), f"{found['success_rate']:.1%}")
    table.add_section()
    for name, found in evaluation["differences"].items():
        table.add_row(name.replace("-", " - "), *(cell(found[m], signed=True) for m in METRICS), "")
    Console(width=118).print(table)
    print("Plots: plots/rouge.svg, plots/length.svg, plots/loss.svg, plots/tokens.svg")
    print("Numbers: metrics/summary.json, metrics/evaluation.json; as a page: dvc plots show")


if __name__ == "__main__":
    errors.run(main)
