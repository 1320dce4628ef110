"""List the experiments in 120 columns: headline metrics, and what each sets.

Run     onesentence show            (make show)
        onesentence show rank       those of one study (make show NAME=rank)
"""

from pathlib import Path
from typing import Any

import click

from onesentence.commands import documented
from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.files import parse_json
from onesentence.report.terminal import print_table
from onesentence.study.declaration import Studies
from onesentence.study.experiments import experiment_refs, flat, git, is_of_pipeline_here, same_code, shown

SUMMARY = "metrics/summary.json"
MISSING = "-"  # a number that older code did not write


def row(name: str, summary: dict[str, Any], code: str, changes: dict[str, Any]) -> list[str]:
    """Cells of one experiment."""

    def cell(key: str) -> str:
        value = summary.get(key)
        return MISSING if value is None else f"{value:.2f}"

    interval = f"{cell('rouge1')} [{cell('rouge1_low')}, {cell('rouge1_high')}]"
    settings = ", ".join(f"{key}={shown(value)}" for key, value in changes.items())
    return [name, interval, *map(cell, ("rougeL", "bertscore", "verbatim")), code, settings]


def summary_of(name: str, text: str) -> dict[str, float]:
    """The numbers of an experiment's metrics/summary.json. text: of the file, "" where it has none."""
    summary = parse_json(text or "{}", f"{name}:{SUMMARY}", "remove the experiment: `dvc exp remove NAME`")
    values = summary.items() if isinstance(summary, dict) else ()
    return {key: value for key, value in values if type(value) in (int, float)}


def short_names(keys: list[str]) -> dict[str, str]:
    """The last part of each key where it is unique in params.yaml, else the whole key."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: end if last.count(end) == 1 else key for key, end in zip(keys, last, strict=True)}


@documented(__doc__)
@click.argument("study", required=False)
def command(study: str | None) -> None:
    here = params.read_yaml(params.PARAMS_FILE)
    refs = [
        (name, ref)
        for name, same_name in experiment_refs().items()
        for ref in same_name
        if is_of_pipeline_here(ref)
    ]
    if study:
        wanted = list(Studies.of_workspace().study(study).experiments())
        refs = sorted((pair for pair in refs if pair[0] in wanted), key=lambda pair: wanted.index(pair[0]))
    if not refs:
        raise UserError(
            "show: no experiments of this pipeline found; run one with `make study NAME=...` or `dvc exp run`"
        )
    values = [
        flat(
            params.parse_yaml(
                git("show", f"{ref}:./{params.PARAMS_FILE}"), Path(f"{name}:{params.PARAMS_FILE}")
            )
        )
        for name, ref in refs
    ]
    set_here = {key: value for key, value in flat(here).items() if key not in params.NO_EFFECT}
    names = short_names(list(set_here))
    # Keys with one value in all of them distinguish none.
    vary = [key for key in names if len({str(own.get(key)) for own in values}) > 1]
    rows = []
    for (name, ref), own in zip(refs, values, strict=True):
        summary = summary_of(name, git("show", f"{ref}:./{SUMMARY}", check=False))
        changes = {names[key]: own.get(key) for key in vary if own.get(key) != set_here[key]}
        rows.append(row(name, summary, "here" if same_code(ref) else "older", changes))
    print_table(
        f"{len(rows)} experiment{'s' * (len(rows) > 1)}, ROUGE-1 with interval; code: `here` if it is that "
        "of the working directory; sets: what differs from params.yaml and between experiments",
        ["experiment", "ROUGE-1", "R-L", "BERTS", "copied %", "code", "sets"],
        rows,
        narrow=("sets",),
    )
