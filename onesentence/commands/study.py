"""Run what is missing of a study as DVC experiments, several at a time, then compare.

Run     make study NAME=rank [JOBS=2] [QUICK=1]
        python -m onesentence.commands.study NAME [--jobs N] [--quick]

Each variant and seed is an experiment of that name (`rank-8-seed0`). Each job has a clone of its own, of the
commit that is checked out when the study starts: what is edited meanwhile reaches neither variants nor the
comparison, and a kill leaves nothing in the user's files. One that is there with the same code, data and
parameters is kept; a killed study goes on where it was, at the stage, and in training at the last checkpoint.
One that fails is named with its log; the others run on, and are compared without it.
"""

import argparse
import signal
import sys

from onesentence.core import errors, params
from onesentence.core.errors import UserError
from onesentence.study.comparison import borrowed_spread
from onesentence.study.declaration import STUDIES_FILE, Studies
from onesentence.study.experiments import finished, name_twins, require_distinct
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", nargs="?", help="of a study in studies.yaml; without one they are listed")
    parser.add_argument("--jobs", type=int, default=1, help="variants at a time")
    parser.add_argument("--quick", action="store_true", help="small and fast; never to be committed")
    arguments = parser.parse_args()
    studies = Studies(params.load(("model",)).model.name)
    studies.check_names()
    if arguments.name is None:
        for name in studies.names():
            study = studies.study(name)
            hours = "" if study.hours is None else f", {study.hours:g} h"
            print(f"{name}: {study.question} ({len(study.experiments())} runs{hours})")
        return
    if arguments.jobs < 1:
        raise UserError(f"--jobs: expected at least 1, found {arguments.jobs}")
    study = studies.study(arguments.name, arguments.quick)
    require_distinct(study, params.read_yaml(params.PARAMS_FILE))
    borrowed_spread(study, studies)  # refuses here, not after hours
    with alone():
        require_committed()
        # A termination or a lost connection is as good as Ctrl-C: nothing stays behind.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(143))
        if end_variants():
            print(f"study {study.name}: runs of a killed study were still going; they go on from there")
        fetch_finished()
        experiments = study.experiments()
        there = set(finished(study))
        there.update(name_twins({name: experiments[name] for name in experiments if name not in there}))
        missing = {name: values for name, values in experiments.items() if name not in there}
        hours = "" if study.hours is None else f"; the whole study takes {study.hours:g} h on two cores"
        print(
            f"study {study.name}: {len(there)} of {len(there) + len(missing)} runs are there, "
            f"{len(missing)} to go, {arguments.jobs} at a time{hours}",
            flush=True,
        )
        if missing:
            failed, clone = run_missing(study, missing, arguments.jobs)
            whole = [
                variant.name
                for variant in study.variants
                if not {experiment(variant.name, seed) for seed in study.seeds} & set(failed)
            ]
            if study.reference in whole and len(whole) > 1:
                clone.compare(arguments.name, arguments.quick, bool(failed))
                if not arguments.quick:
                    write_pages()
            if failed:
                raise UserError(
                    f"study {study.name}: {len(failed)} runs failed: {', '.join(failed)}; logs are in "
                    f"{WORK}. Their variants are not compared, and none without the reference: the same "
                    f"command tries them again; take one that cannot run out of {STUDIES_FILE}"
                )
        else:
            compare(arguments.name, arguments.quick, partial=False)
        drop_clones()


if __name__ == "__main__":
    errors.run(main)
