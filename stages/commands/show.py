"""The experiments that are there, in 120 columns: headline metrics, and what each sets.

Run     make show    (python -m stages.commands.show [STUDY])
"""

import argparse
import json

from stages.commands.diff import flat, shown
from stages.common import errors, params
from stages.common.commandline import print_table
from stages.common.errors import UserError
from stages.common.experiments import experiment_refs, git, same_code
from stages.common.results import number
from stages.common.studies import Studies


def row(name: str, summary: dict, code: str, changes: dict) -> list[str]:
    """Cells of one experiment."""
    interval = f"{summary['rouge1']:.2f} [{summary['rouge1_low']:.2f}, {summary['rouge1_high']:.2f}]"
    cells = [number(summary[key]) for key in ("rougeL", "bertscore", "verbatim")]
    said = ", ".join(f"{key.rpartition('.')[2]}={shown(value)}" for key, value in changes.items())
    return [name, interval, *cells, code, said]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", nargs="?", help="only its experiments")
    arguments = parser.parse_args()
    here = params.read_yaml(params.PARAMS_FILE)
    refs = {name: found[0] for name, found in experiment_refs().items()}
    if arguments.study:
        wanted = Studies(here["model"]["name"]).study(arguments.study).experiments()
        refs = {name: refs[name] for name in wanted if name in refs}
    if not refs:
        raise UserError("show: no experiments are there; run one with `make study NAME=...` or `dvc exp run`")
    values, summaries, codes = {}, {}, {}
    for name, ref in refs.items():
        text = git("show", f"{ref}:params.yaml")
        values[name] = flat(params.parse_yaml(text, params.PARAMS_FILE))
        summaries[name] = json.loads(git("show", f"{ref}:metrics/summary.json"))
        codes[name] = "here" if same_code(ref) else "older"
    # What all of them set alike tells none from another.
    keys = {**flat(here), **{key: None for found in values.values() for key in found}}
    vary = [key for key in keys if len({str(found.get(key)) for found in values.values()}) > 1]
    rows = [
        row(name, summaries[name], codes[name], {key: values[name].get(key) for key in vary}) for name in refs
    ]
    print_table(
        f"{len(rows)} experiments, ROUGE-1 with interval; code: of the files that are here, or older ones",
        ["experiment", "ROUGE-1", "R-L", "BERTS", "copied %", "code", "sets"],
        rows,
        narrow="sets",
    )


if __name__ == "__main__":
    errors.run(main)
