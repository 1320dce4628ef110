"""Print the results of the last run as a table; with --readme, write them into the README too.

Reads   metrics/evaluation.json; with --readme also those of every preset whose own pipeline was run
        (presets/NAME/), and data/prepared, data/predictions and data/scores for the example.
Writes  with --readme: the results and the example of README.md, between their markers.

Run     onesentence results             (`make repro` ends with it)
        onesentence results --readme    (make results)
"""

from pathlib import Path

import click

from onesentence.commands import documented
from onesentence.commands.preset import PRESETS
from onesentence.core import params
from onesentence.core.escaping import visible
from onesentence.core.files import read_as_written_now, read_json, write_text
from onesentence.core.text import percent
from onesentence.evaluation.metrics import METRICS
from onesentence.report.readme import (
    EVALUATION,
    README,
    example_block,
    read_page,
    results_block,
    with_between,
)
from onesentence.report.sentences import summarize_evaluation
from onesentence.report.tables import SYSTEMS, cell
from onesentence.report.terminal import print_table

DATA = Path("data")
TERMINAL_METRICS = ("rouge1", "rouge2", "rougeL", "bertscore")
START, END = "<!-- results: written by make results -->\n", "<!-- end of results -->\n"
QUOTED = "docstrings"  # data.source of articles that the README may quote; others may be private
NO_EXAMPLE = "The articles of this run are not quoted here: `plots/report.html` shows examples.\n"
EXAMPLE_START, EXAMPLE_END = "<!-- example: written by make results -->\n", "<!-- end of example -->\n"


def pipelines() -> list[Path]:
    """Folders of the pipelines that were run: the default's, then each preset's."""
    return [Path(), *sorted(path.parent.parent for path in PRESETS.glob(f"*/{EVALUATION}"))]


@documented(__doc__)
@click.option("--readme", is_flag=True, help="Also write results and an example into README.md.")
def command(readme: bool) -> None:
    evaluation = read_json(EVALUATION)
    with read_as_written_now(EVALUATION):
        systems = evaluation["systems"]
        title = (
            f"{evaluation['n']:,} {evaluation['split']} articles, value [{percent(evaluation['confidence'])} "
            "interval], a failed output scores 0"
        )
        rows = [
            [
                name,
                *(cell(systems[name][m]) for m in TERMINAL_METRICS),
                f"{systems[name]['success_rate']['value']:.1%}",
            ]
            for name in SYSTEMS
        ]
        sentences = summarize_evaluation(evaluation)
    if readme:  # after all that may fail: an error must come before the README is changed
        source = params.read_yaml(params.PARAMS_FILE)["data"]["source"]
        example = example_block(DATA, evaluation) if source == QUOTED else NO_EXAMPLE
        page = with_between(README, read_page(README), START, END, results_block(pipelines()))
        write_text(README, with_between(README, page, EXAMPLE_START, EXAMPLE_END, example))
    print_table(title, ["system", *(METRICS[name].title for name in TERMINAL_METRICS), "success"], rows)
    for sentence in sentences:
        print(f"- {visible(sentence)}")
    print("Report: plots/report.html. Numbers: metrics/summary.json, metrics/evaluation.json")
