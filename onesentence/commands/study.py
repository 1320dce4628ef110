"""Run the missing experiments of a study with DVC, several at a time, then compare.

Each variant and seed is an experiment with that name (`rank-8-seed0`). Each job has a clone of the commit
that is checked out when the study starts. Edits during the study reach neither variants nor the comparison,
and a kill leaves nothing in the user's files. An experiment with the same code, data and parameters is kept.
A killed study goes on at its last stage, and in training at the last checkpoint. A run that fails is named
with its log; the others go on and are compared without it.

Run     onesentence study                       list the studies, and how long they take
        onesentence study rank --jobs 2         (make study NAME=rank JOBS=2)
        onesentence study rank --quick          on little data; do not quote its numbers
"""

import signal
import sys

import click

from onesentence.commands import documented
from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.study.comparison import borrowed_spread
from onesentence.study.declaration import STUDIES_FILE, Studies
from onesentence.study.experiments import finished, require_distinct, reuse_equal_experiments
from onesentence.study.jobs import (
    WORK,
    alone,
    compare,
    drop_clones,
    end_variants,
    fetch_finished,
    require_committed,
    run_missing,
)
from onesentence.study.pages import write_pages
from onesentence.study.variants import experiment


@documented(__doc__)
@click.argument("name", required=False)
@click.option("--jobs", type=int, default=1, show_default=True, help="Variants at a time.")
@click.option("--quick", is_flag=True, help="Small and fast; never commit its numbers.")
def command(name: str | None, jobs: int, quick: bool) -> None:
    studies = Studies(params.load(("model",)).model.name)
    studies.check_names()
    if name is None:
        for name in studies.names():
            study = studies.study(name)
            hours = "" if study.hours is None else f", {study.hours:g} h"
            print(f"{name}: {study.question} ({len(study.experiments())} runs{hours})")
        return
    if jobs < 1:
        raise UserError(f"--jobs: expected at least 1, found {jobs}")
    study = studies.study(name, quick)
    require_distinct(study, params.read_yaml(params.PARAMS_FILE))
    borrowed_spread(study, studies)  # an error must come now, not after hours
    with alone():
        require_committed()
        # A termination or a lost connection ends the study as Ctrl-C does, and leaves no process behind.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(143))
        if end_variants():
            print(f"study {study.name}: ended the runs of a killed study; they go on from their last stage")
        fetch_finished()
        experiments = study.experiments()
        done = set(finished(study))
        done.update(
            reuse_equal_experiments({name: experiments[name] for name in experiments if name not in done})
        )
        missing = {name: values for name, values in experiments.items() if name not in done}
        hours = "" if study.hours is None else f"; the whole study takes {study.hours:g} h on two cores"
        print(
            f"study {study.name}: {len(done)} of {len(done) + len(missing)} runs are complete, "
            f"{len(missing)} to go, {jobs} at a time{hours}",
            flush=True,
        )
        if missing:
            failed, clone = run_missing(study, missing, jobs)
            whole = [
                variant.name
                for variant in study.variants
                if not {experiment(variant.name, seed) for seed in study.seeds} & set(failed)
            ]
            if study.baseline in whole and len(whole) > 1:
                clone.compare(name, quick, bool(failed))
                if not quick:
                    write_pages()
            if failed:
                raise UserError(
                    f"study {study.name}: {len(failed)} runs failed: {', '.join(failed)}; logs are in "
                    f"{WORK}. Their variants are not compared, and without the baseline none is. The same "
                    f"command tries them again; remove a variant that cannot run from {STUDIES_FILE}"
                )
        else:
            compare(name, quick, partial=False)
        drop_clones()
