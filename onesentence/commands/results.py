"""Print the results of the last run as a table; with --readme, put them into the README.

The README gets plots/results.md, and a table of the default beside every preset whose own pipeline was run
(presets/NAME/).

Run     onesentence results             (`make repro` ends with it)
        onesentence results --readme    (make results)
"""

from pathlib import Path

import click

from onesentence.commands import documented
from onesentence.commands.preset import PRESETS
from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.files import read_json
from onesentence.evaluation.metrics import HEADLINE, METRICS
from onesentence.report.readme import put_into_readme
from onesentence.report.sentences import summarize_evaluation
from onesentence.report.tables import SYSTEMS, cell
from onesentence.report.terminal import print_table

EVALUATION = Path("metrics/evaluation.json")
RESULTS = Path("plots/results.md")
TERMINAL_METRICS = ("rouge1", "rouge2", "rougeL", "bertscore")
START, END = "<!-- results: written by make results -->\n", "<!-- end of results -->\n"
RUNGS_START, RUNGS_END = "<!-- rungs: written by make results -->\n", "<!-- end of rungs -->\n"


def rungs_table() -> str:
    """Markdown: ROUGE-1 of the default and of each preset whose own pipeline was run, one a row."""
    lines = [
        "| pipeline | base model | articles | first sentence | untuned | fine-tuned | tuned - untuned | "
        "tuned - first sentence |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for folder in (Path(), *sorted(path.parent.parent for path in PRESETS.glob(f"*/{EVALUATION}"))):
        evaluation, values = read_json(folder / EVALUATION), params.read_yaml(folder / params.PARAMS_FILE)
        scores = [cell(evaluation["systems"][name][HEADLINE]) for name in ("lead", "base", "tuned")]
        scores += [
            cell(evaluation["comparisons"][pair][HEADLINE], "+.2f") for pair in ("tuned-base", "tuned-lead")
        ]
        name = "the default" if folder == Path() else f"[`{folder.name}`]({folder}/plots/results.md)"
        articles = f"{values['data']['source']}, {evaluation['split']}, {evaluation['n']:,}"
        lines.append(f"| {name} | `{values['model']['name']}` | {articles} | {' | '.join(scores)} |")
    return "\n".join(lines) + "\n"


@documented(__doc__)
@click.option("--readme", is_flag=True, help="Also write the tables into README.md.")
def command(readme: bool) -> None:
    evaluation = read_json(EVALUATION)  # first: an error must come before the README is changed
    if readme:
        if not RESULTS.is_file():
            raise UserError(f"{RESULTS}: not found; run `dvc repro` to make it")
        put_into_readme(START, END, RESULTS.read_text(encoding="utf-8"))
        put_into_readme(RUNGS_START, RUNGS_END, rungs_table())
    systems = evaluation["systems"]
    print_table(
        f"{evaluation['n']:,} {evaluation['split']} articles, value [{evaluation['confidence']:.0%} "
        "interval], a failed output scores 0",
        ["system", *(METRICS[name].title for name in TERMINAL_METRICS), "success"],
        [
            [
                name,
                *(cell(systems[name][m]) for m in TERMINAL_METRICS),
                f"{systems[name]['success_rate']['value']:.1%}",
            ]
            for name in SYSTEMS
        ],
    )
    for sentence in summarize_evaluation(evaluation):
        print(f"- {sentence}")
    print("Report: plots/report.html. Numbers: metrics/summary.json, metrics/evaluation.json")
