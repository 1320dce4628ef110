"""Run the missing experiments of a study with DVC, several at a time, then compare.

Each variant and seed is an experiment with that name (`rank-8-seed0`). Each job has a clone of the commit
that is checked out when the study starts. Edits during the study reach neither variants nor the comparison,
and a kill leaves nothing half-made in the user's files. An experiment with the same code, data and parameters
is kept, and so is a run whose scores git holds: each run's are added to metrics/studies/scores when it ends.
A killed study goes on at its last stage, and in training at the last checkpoint. A run that fails is named
with its log; the others go on and are compared without it.

With --scheduler, the workers of a Dask scheduler run the variants, one each at a time, on any number of
machines: each clones the commit from the git remote, pulls the inputs from DVC's remote and pushes the
experiment (docs/scaling.md). A worker that dies is replaced, and a study that was killed goes on.

Run     onesentence study                       list the studies, and how long they take
        onesentence study rank --jobs 2         (make study NAME=rank JOBS=2)
        onesentence study rank --quick          on little data; do not quote its numbers
        onesentence study rank --scheduler tcp://HOST:8786      (make study NAME=rank SCHEDULER=...)

In presets/NAME, a preset's own pipeline, the studies are those of its scale:

        onesentence study base                  (make study NAME=base PRESET=smollm2-docstrings)
"""

import contextlib
import signal
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onesentence.commands import documented, repro
from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.escaping import visible
from onesentence.study.comparison import borrowed_seed_variance
from onesentence.study.declaration import STUDIES_FILE, Studies
from onesentence.study.experiments import (
    finished,
    git,
    pipeline_here,
    require_distinct,
    require_loadable,
    reuse_equal_experiments,
)
from onesentence.study.jobs import (
    Jobs,
    alone,
    compare,
    compare_in,
    drop_clones,
    end_variants,
    fetch_finished,
    require_committed,
)
from onesentence.study.pages import write_pages
from onesentence.study.pool import WORK, Pool, run_missing
from onesentence.study.scores import SCORES, Record, usable
from onesentence.study.variants import Study

if TYPE_CHECKING:
    from onesentence.study.scheduler import Workers

REQUIREMENTS_FILE = "onesentence/study/requirements.txt"


def workers_of(address: str, study: Study, git_remote: str | None) -> "Workers":
    """The pool of a Dask scheduler; a UserError where Dask, a remote or a worker is not fit."""
    try:
        from onesentence.study.scheduler import Workers
    except ModuleNotFoundError as error:
        raise UserError(
            f"--scheduler: {error.name} is not installed; run `pip install -r {REQUIREMENTS_FILE}`"
        ) from error
    pool = Workers(address, study.name, git("rev-parse", "HEAD").strip(), git_remote)
    pool.open()
    return pool


def provide_inputs(pipeline: str) -> None:
    """Put a preset's base model into its pipeline, for DVC's cache, from which the clones take it.

    A UserError where the base cannot be had, or where the preset's articles are the user's own and missing.
    """
    folder = Path(pipeline)
    with contextlib.chdir(git("rev-parse", "--show-toplevel").strip()):
        repro.require_data(folder, folder.name)
        repro.require_model(folder)


def missing_of(study: Study, pool: "Workers | None", scored: Collection[str]) -> dict[str, dict[str, Any]]:
    """The experiments that no machine has finished, by name. scored: those whose scores are in git.

    What has ended is fetched from clones and remotes first; what equals another one takes its name.
    """
    fetch_finished()
    experiments = study.experiments()
    done = set(finished(study))
    done.update(
        reuse_equal_experiments({name: experiments[name] for name in experiments if name not in done})
    )
    if pool:
        pool.fetch_finished([name for name in experiments if name not in {*done, *scored}])
        done.update(finished(study))
    return {name: values for name, values in experiments.items() if name not in {*done, *scored}}


def run(
    study: Study, missing: dict[str, dict[str, Any]], pool: Pool, record: Record, name: str, quick: bool
) -> None:
    """Run experiments, then compare; a UserError that names those that failed."""
    failed = run_missing(study, missing, pool, record.add)
    whole = [
        variant.name
        for variant in study.variants
        if not {study.experiment(variant.name, seed) for seed in study.seeds} & set(failed)
    ]
    if study.baseline in whole and len(whole) > 1:
        compare_in(pool.clone(), name, quick, bool(failed))
        if not quick:
            write_pages()
    if failed:
        raise UserError(
            f"study {study.name}: {len(failed)} runs failed: {', '.join(failed)}; logs are in "
            f"{WORK}. Their variants are not compared, and without the baseline none is. The same "
            f"command tries them again; remove a variant that cannot run from {STUDIES_FILE}"
        )
    pool.drop()


def require_no_options(given: dict[str, object]) -> None:
    """Raise a UserError for an option of a study, where none is named. given: None for one that is not."""
    for option, value in given.items():
        if value is not None:
            raise UserError(f"{option}: expected the name of a study; `onesentence study` lists them")


def print_studies(studies: Studies) -> None:
    """Print the question, the runs and the hours of each study."""
    for name in studies.names():
        study = studies.study(name)
        hours = "" if study.hours is None else f", {study.hours:g} h"
        print(f"{name}: {visible(study.question)} ({len(study.experiments())} runs{hours})")


@documented(__doc__)
@click.argument("name", required=False)
@click.option("--jobs", type=int, help="Variants at a time on this machine.  [default: 1]")
@click.option("--quick", is_flag=True, help="Small and fast; never commit its numbers.")
@click.option("--scheduler", metavar="ADDRESS", help="Run the variants on the workers of a Dask scheduler.")
@click.option(
    "--git-remote", metavar="NAME", help="With --scheduler: the git remote that workers clone from."
)
def command(
    name: str | None, jobs: int | None, quick: bool, scheduler: str | None, git_remote: str | None
) -> None:
    studies = Studies.of_workspace()
    studies.check_names()
    if name is None:
        require_no_options(
            {"--jobs": jobs, "--quick": quick or None, "--scheduler": scheduler, "--git-remote": git_remote}
        )
        print_studies(studies)
        return
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs: expected at least 1, found {jobs}")
    if scheduler and jobs is not None:
        raise UserError("--jobs: with --scheduler, each worker runs one variant at a time; leave --jobs out")
    if git_remote and not scheduler:
        raise UserError("--git-remote: only workers clone from it; name their --scheduler, too")
    study = studies.study(name, quick)
    values = params.read_yaml(params.PARAMS_FILE)
    require_distinct(study, values)
    require_loadable(study, values)
    borrowed_seed_variance(study, studies)  # an error must come now, not after hours
    with alone():
        require_committed()
        # A termination or a lost connection ends the study as Ctrl-C does, and leaves no process behind.
        # A signal that is ignored on purpose stays ignored (nohup ignores SIGHUP).
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda caught, _: sys.exit(128 + caught))
        if end_variants():
            print(f"study {study.name}: ended the runs of a killed study; they go on from their last stage")
        workers = workers_of(scheduler, study, git_remote) if scheduler else None
        scored = usable(study)
        missing = missing_of(study, workers, scored)
        whole = len(study.experiments())
        hours = "" if study.hours is None else f"; the whole study takes {study.hours:g} h on two cores"
        at_a_time = f"on {scheduler}" if scheduler else f"{jobs or 1} at a time"
        print(
            f"study {study.name}: {whole - len(missing)} of {whole} runs are complete, "
            f"{len(missing)} to go, {at_a_time}{hours}",
            flush=True,
        )
        if set(scored) - set(finished(study)):
            print(
                f"study {study.name}: some are complete as scores alone, which git holds in {SCORES}; to run "
                "such a variant again, remove its study's file there",
                flush=True,
            )
        if missing:
            if not workers and (pipeline := pipeline_here()):  # workers pull them from DVC's remote
                provide_inputs(pipeline)
            commit = git("rev-parse", "HEAD").strip()
            pool = workers or Jobs(min(jobs or 1, len(missing)), commit, missing)
            run(study, missing, pool, Record(study, scored), name, quick)
        else:
            compare(name, quick, partial=False)
            if workers:
                workers.close()
                workers.drop()
            drop_clones()
