"""Compare the variants of a study: intervals, paired tests, minimum detectable effects, costs.

Reads   studies.yaml, params.yaml, and the study's DVC experiments (their scores of every article by id).
Writes  metrics/studies/scores/NAME.parquet with these scores, and from it metrics/studies/NAME.json,
        plots/studies/NAME.svg and .csv, docs/decisions.md, and docs/studies.md between its markers.
Nothing is run. With --from-scores, every number is computed again from metrics/studies/scores/NAME.parquet:
without experiments and without DVC's cache, as in a fresh clone. It refuses experiments that scored other
articles or used other settings, and a study with missing runs; with --partial it compares the complete
variants and names the others. Without NAME it compares nothing and writes plots, docs/studies.md and
docs/decisions.md again from metrics/studies/, as after a change of a default.

Run     onesentence compare rank        (`make study NAME=rank` ends with it)
        onesentence compare rank --from-scores      compute the committed numbers again
        onesentence compare             write plots and pages again
"""

from typing import Any

import click

from onesentence.commands import documented
from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.evaluation.metrics import HEADLINE
from onesentence.report.formatting import mde_text
from onesentence.report.terminal import print_table
from onesentence.study.comparison import (
    TESTED_METRICS,
    borrowed_seed_variance,
    compare,
    require_same_test_set,
    select_complete,
    write_result,
)
from onesentence.study.declaration import Studies
from onesentence.study.experiments import finished, require_distinct
from onesentence.study.figures import write_plots
from onesentence.study.pages import write_again, write_pages
from onesentence.study.phrases import between
from onesentence.study.results import STUDIES, read_result
from onesentence.study.scores import (
    Run,
    read_experiment,
    recorded,
    require_declared,
    scores_file_of,
    usable,
    write_runs,
)
from onesentence.study.sentences import summarize_study
from onesentence.study.variants import Study

TITLES = dict(zip(TESTED_METRICS, ("ROUGE-1", "R-2", "R-L", "BERTS"), strict=True))  # on the terminal
LONG = 16  # characters of the longest name that leaves room for every metric in 120 columns


def print_study(result: dict[str, Any]) -> None:
    """Print the comparison; where names are long, without the metrics beside the headline."""
    rows, others = [], TESTED_METRICS[1:] if max(map(len, result["variants"])) <= LONG else ()
    for name, variant in result["variants"].items():
        score, entry = variant["scores"][HEADLINE], variant["difference"].get(HEADLINE)
        cells = [name, between(score, ".2f")]
        cells += [f"{variant['scores'][metric]['value']:.2f}" for metric in others]
        if entry:
            p = "<0.001" if entry["p_holm"] < 0.001 else f"{entry['p_holm']:.3f}"
            cells += [between(entry), p, mde_text(entry["mde"])]
        else:
            cells += ["baseline", "", ""]
        rows.append(cells)
    seeds = f"{len(result['seeds'])} seed{'s' * (len(result['seeds']) > 1)}"
    print_table(
        f"{result['study']}: {result['n']:,} {result['split']} articles, {seeds}",
        [
            "variant",
            *(TITLES[metric] for metric in (HEADLINE, *others)),
            "difference",
            "p (Holm)",
            "MDE",
        ],
        rows,
    )
    print("\n".join(f"- {sentence}" for sentence in summarize_study(result)))


def gathered(study: Study) -> dict[str, Run]:
    """The finished runs of a study: experiments, and runs of which git has the scores alone."""
    require_distinct(study, params.read_yaml(params.PARAMS_FILE))
    runs = usable(study)
    for name, ref in finished(study).items():
        if name not in runs:
            runs[name] = read_experiment(study, name, ref)
    return {name: runs[name] for name in study.experiments() if name in runs}


@documented(__doc__)
@click.argument("name", required=False)
@click.option("--quick", is_flag=True, help="The study's quick version.")
@click.option("--partial", is_flag=True, help="Leave out variants with missing runs.")
@click.option("--from-scores", is_flag=True, help="Compute from the scores that git holds.")
def command(name: str | None, quick: bool, partial: bool, from_scores: bool) -> None:
    if name is None:
        for option, given in (("--quick", quick), ("--partial", partial), ("--from-scores", from_scores)):
            if given:
                raise UserError(f"{option}: expected the name of a study; `onesentence study` lists them")
        write_again(Studies.of_workspace())
        write_pages()
        return
    studies = Studies.of_workspace()
    study = studies.study(name, quick)
    file = scores_file_of(study)
    if from_scores:
        runs = recorded(study)
        require_declared(study, runs)
    else:
        runs = gathered(study)
    every = study
    study, left_out = select_complete(study, set(runs), partial)
    if not from_scores:
        require_same_test_set(runs)
        write_runs(file, runs)
        runs = recorded(every)  # what is compared is what the file holds, to the bit
    complete = {name: runs[name] for name in study.experiments()}
    result = compare(study, complete, borrowed_seed_variance(study, studies), left_out)
    path = STUDIES / f"{study.name}.json"
    write_result(path, result, study.within)
    written = read_result(path)  # rounded, so that plots and sentences can be written again to the byte
    write_plots(study, written)
    if not quick:
        write_pages()
    print_study(written)
