"""The scores of every article of a study's runs, in one file that git tracks.

It is metrics/studies/scores/NAME.parquet. A study's numbers are computed from this file alone (`onesentence
compare NAME --from-scores`): in a fresh clone, without DVC's cache and its experiments. A row is an article
of one system of one run:

- variant, seed: the run; the experiment is called VARIANT-seedSEED;
- system: `tuned`, or `base` for the untuned model with the variant's settings. No seed affects it, so it is
  there once for each variant, and its seed is null;
- id, cluster: of the article; articles of one cluster were drawn together;
- one column for each metric, float32, null where the metric is undefined. It holds no text.

What the runs were made with and what they cost is in the file's metadata, under `runs`.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from onesentence.core import code_identity, params
from onesentence.core.errors import UserError
from onesentence.core.files import atomic_write, read_parquet
from onesentence.evaluation.metrics import METRICS, Scores, require_comparable
from onesentence.study.costs import add_cost, read_costs
from onesentence.study.experiments import (
    QUICK,
    effective,
    experiment_refs,
    flat,
    git,
    in_git,
    made_with,
    pins,
    restore,
    scores_at,
    shown,
    study_command,
    with_values,
)
from onesentence.study.variants import Study, run_name

SCORES = Path("metrics/studies/scores")
SYSTEMS = ("tuned", "base")
KEYS = ("variant", "seed", "system", "id", "cluster")  # the columns that are no metrics
LEVEL = 15  # of zstd's compression: the file is written seldom, and git keeps every version
# Sections of params.yaml that no stage of an experiment reads whose results are compared.
UNREAD = ("pretrain", "report", "export")
# What `compare` reads of metrics/evaluation.json.
EVALUATION = ("split", "n", "test", "resampling")


@dataclass(frozen=True)
class Run:
    """What is kept of one experiment.

    tuned, base: scores of every article; base is the same for every seed. evaluation: the keys EVALUATION of
    metrics/evaluation.json, those that it has. cost: numbers that are the same on every machine. params:
    params.yaml as the experiment had it. code: from `made_with`.
    """

    variant: str
    seed: int
    tuned: Scores
    base: Scores
    evaluation: dict[str, Any]
    cost: dict[str, int]
    params: dict[str, Any]
    code: dict[str, Any]


def scores_file_of(study: Study) -> Path:
    """The file with a study's scores."""
    return SCORES / f"{study.name}.parquet"


def cost_of(train: dict[str, Any], prompt: dict[str, Any]) -> dict[str, int]:
    """The cost of a variant, in numbers that are the same on every machine.

    train, prompt: metrics/train.json and metrics/prompt.json.
    """
    return {
        "trainable_parameters": train["trainable_parameters"],
        "tuned_bytes": train["tuned_bytes"],
        "base_bytes": train["base_footprint_bytes"],
        "tokens_trained": train["tokens_trained"],
        "prompt_tokens": prompt["template_tokens"],
    }


def read_experiment(study: Study, name: str, ref: str) -> Run:
    """What is kept of a study's experiment. A UserError where DVC's cache lacks its scores."""
    scores = scores_at(ref, SYSTEMS)
    if scores is None:
        raise UserError(
            f"compare: {name}: DVC's cache lacks its scores; fetch them with `dvc exp pull REMOTE {name}`, "
            f"or run the variant again: `git update-ref -d {ref}`, then {study_command(study.name)}"
        )
    require_comparable(scores["base"], scores["tuned"], f"base of {name}", f"tuned of {name}")
    evaluation, train, prompt = (
        json.loads(git("show", f"{ref}:./metrics/{file}.json")) for file in ("evaluation", "train", "prompt")
    )
    variant, seed = next(
        (variant.name, seed)
        for variant in study.variants
        for seed in study.seeds
        if study.experiment(variant.name, seed) == name
    )
    return Run(
        variant,
        seed,
        scores["tuned"],
        scores["base"],
        {key: evaluation[key] for key in EVALUATION if key in evaluation},
        cost_of(train, prompt),
        params.parse_yaml(git("show", f"{ref}:./{params.PARAMS_FILE}"), params.PARAMS_FILE),
        made_with(ref),
    )


def shared_part(values: list[dict[str, Any]]) -> dict[str, Any]:
    """What nested values have in common: the keys that all have with equal values."""
    shared = {}
    for key, first in values[0].items():
        if not all(key in each for each in values):
            continue
        if all(each[key] == first for each in values):
            shared[key] = first
        elif all(isinstance(each[key], dict) for each in values):
            shared[key] = shared_part([each[key] for each in values])
    return shared


def own_part(values: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """What nested values have beyond the shared ones, in the order of the keys.

    `joined` puts it behind the shared ones: the order of the values cannot be kept, so none is.
    """
    own = {}
    for key, value in sorted(values.items()):
        if key not in shared:
            own[key] = value
        elif isinstance(value, dict) and value != shared[key]:
            own[key] = own_part(value, shared[key])
    return own


def joined(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The values that `own_part` took the shared ones from."""
    both = {
        key: joined(value, own[key]) if key in own and isinstance(value, dict) else value
        for key, value in shared.items()
    }
    return both | {key: value for key, value in own.items() if key not in shared}


def write_runs(path: Path, runs: dict[str, Run]) -> None:
    """Write runs in their order; the same runs give the same bytes. runs: by any name."""
    facts = {
        run_name(run.variant, run.seed): {
            "evaluation": run.evaluation,
            "signatures": run.tuned.signatures,
            "cost": run.cost,
            "params": run.params,
            "code": run.code,
        }
        for run in runs.values()
    }
    shared = shared_part(list(facts.values()))
    own = {name: own_part(fact, shared) for name, fact in facts.items()}
    table = pa.table(_columns(runs)).replace_schema_metadata(
        {"runs": json.dumps({"shared": shared, "own": own})}
    )
    with atomic_write(path) as temporary:
        # One group of rows: what variants have in common, as a base, is compressed away.
        pq.write_table(
            table, temporary, compression="zstd", compression_level=LEVEL, row_group_size=max(1, len(table))
        )


def _columns(runs: dict[str, Run]) -> dict[str, pa.Array]:
    """The columns of the file. A variant's base is in it once: generation draws nothing at random."""
    parts: list[tuple[str, int | None, str, Scores]] = []
    for run in runs.values():
        if run.variant not in {variant for variant, *_ in parts}:
            parts.append((run.variant, None, "base", run.base))
        parts.append((run.variant, run.seed, "tuned", run.tuned))
    keys: dict[str, list[Any]] = {key: [] for key in KEYS}
    for *whose, scores in parts:
        for key, value in zip(KEYS, whose, strict=False):
            keys[key] += [value] * len(scores.ids)
        keys["id"] += scores.ids
        keys["cluster"] += scores.groups
    columns = {
        key: pa.array(values, pa.int32() if key == "seed" else pa.string()) for key, values in keys.items()
    }
    for name in METRICS:
        if any(name in scores.columns for *_, scores in parts):
            values = [scores.columns.get(name, np.full(len(scores.ids), np.nan)) for *_, scores in parts]
            single = np.concatenate(values).astype(np.float32)
            columns[name] = pa.array(single, pa.float32(), from_pandas=True)
    return columns


def read_runs(path: Path) -> dict[str, Run]:
    """The runs of a file by `run_name`. A UserError where it is missing, or no such file."""
    if not path.is_file():
        raise UserError(
            f"{path}: not found; it comes with the study's results: run {study_command(path.stem)}"
        )
    table = read_parquet(path, advice=restore(path))
    try:
        notes = json.loads((table.schema.metadata or {})[b"runs"])
        facts = {name: joined(notes["shared"], own) for name, own in notes["own"].items()}
        keys = {key: np.array(table[key].to_pylist(), dtype=object) for key in KEYS}
        metrics = [name for name in METRICS if name in table.column_names]
        columns = {name: table[name].to_numpy().astype(np.float64) for name in metrics}
        runs = {name: _run_of(name, fact, keys, columns) for name, fact in facts.items()}
    except (KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a file of a study's scores; {restore(path)}") from error
    return runs


def _run_of(name: str, fact: dict[str, Any], keys: dict[str, Any], columns: dict[str, Any]) -> Run:
    """One run of a file's rows. Raises ValueError where it has none."""
    variant, _, seed = name.rpartition("-seed")
    of_variant = keys["variant"] == variant
    own_seed = keys["seed"] == int(seed)
    scores = []
    for rows in (
        of_variant & (keys["system"] == "tuned") & own_seed,
        of_variant & (keys["system"] == "base"),
    ):
        own = {metric: values[rows] for metric, values in columns.items() if metric in fact["signatures"]}
        ids, groups = keys["id"][rows].tolist(), keys["cluster"][rows].tolist()
        scores.append(Scores(ids, own, {}, fact["signatures"], groups))
    tuned, base = scores
    if not tuned.ids or tuned.ids != base.ids or len(set(tuned.ids)) < len(tuned.ids):
        raise ValueError(f"{name}: expected a row for each article, of tuned and of base")
    return Run(
        variant, int(seed), tuned, base, fact["evaluation"], fact["cost"], fact["params"], fact["code"]
    )


def recorded(study: Study) -> dict[str, Run]:
    """The runs in the study's file that are declared in studies.yaml. A UserError where there is no file."""
    runs = read_runs(scores_file_of(study)).values()
    found = {study.experiment(run.variant, run.seed): run for run in runs}
    return {name: found[name] for name in study.experiments() if name in found}


def usable(study: Study) -> dict[str, Run]:
    """Recorded runs of a study with the code, packages, inputs and values of the working directory.

    They need not run again, as experiments that are `finished` need not. A run that another study recorded
    counts too.
    """
    whole = params.read_yaml(params.PARAMS_FILE)
    wanted = {name: with_values(whole, values) for name, values in study.experiments().items()}
    own = scores_file_of(study)
    found: dict[str, Run] = {}
    for path in sorted(SCORES.glob("*.parquet"), key=lambda path: (path != own, path)):
        if len(found) == len(wanted):
            break
        here: dict[str, bool] = {}
        for run in read_runs(path).values():
            code = json.dumps(run.code)
            here[code] = here[code] if code in here else has_code(run)
            if here[code]:
                equal = (name for name, values in wanted.items() if differing(run, values) is None)
                found |= {name: run for name in equal if name not in found}
    return {
        name: replace(found[name], variant=variant.name, seed=seed)
        for seed in study.seeds
        for variant in study.variants
        if (name := study.experiment(variant.name, seed)) in found
    }


def has_code(run: Run) -> bool:
    """Whether a run was made with the code, the packages and the inputs of the working directory."""
    now = code_identity.WorkingTree()
    if pins(now) != run.code["packages"]:
        return False
    identity = code_identity.identity(now, run.code["modules"])
    return (
        identity is not None
        and code_identity.digest(identity) == run.code["identity"]
        and all(object_here(path) == known for path, known in run.code["inputs"].items())
    )


def object_here(path: str) -> str | None:
    """Git's object of a path in the commit that is checked out, or None where it was changed since or git has
    none.
    """
    place = in_git(path)
    if git("status", "--porcelain", "--untracked-files=no", "--", f":/{place}"):
        return None
    return git("rev-parse", "--verify", "--quiet", f"HEAD:{place}", check=False).strip() or None


def differing(run: Run, wanted: dict[str, Any]) -> str | None:
    """The first key that a run had another value for, or None. wanted: the whole of params.yaml.

    Keys that change no result may differ. A key that did not exist then counts as having the value that
    changes nothing (`params.ADDED`).
    """
    then, now = run.params, wanted
    for section in {**now, **then}:
        if section in UNREAD:
            continue
        if section not in then or section not in now:
            return section
        had = effective(section, params.completed(section, then[section]))
        has = effective(section, params.completed(section, now[section]))
        for key in {**has, **had}:
            if key not in had or key not in has or had[key] != has[key]:
                return key
    return None


def require_declared(study: Study, runs: dict[str, Run]) -> None:
    """Raise a UserError where a recorded run had other values than studies.yaml declares for it.

    A value that studies.yaml does not set is the one that the run had, whatever params.yaml has now.
    """
    for name, values in study.experiments().items():
        if name not in runs:
            continue
        had = flat(runs[name].params)
        for key, value in values.items():
            if key not in had or had[key] != value:
                raise UserError(
                    f"studies.yaml: studies.{study.name}: {name} has {key} {shown(value)}, and the run in "
                    f"{scores_file_of(study)} had {shown(had.get(key))}; run {study_command(study.name)}, or "
                    "take the change of studies.yaml back"
                )


class Record:
    """A study's file while its runs come in: each is written at once, so no kill loses it.

    runs: by experiment, those that stay in the file (from `usable`). What else it held is dropped when the
    first run comes in: it was made with other code, which git keeps with the commit.
    """

    def __init__(self, study: Study, runs: dict[str, Run]) -> None:
        self.study = study
        self.runs = runs
        read_costs(study)  # a damaged file must be found now, not when a run has ended

    def add(self, name: str, cost: dict[str, Any] | None = None) -> None:
        """Add the experiment of this name, which has just finished; cost: where it was measured (`costs`)."""
        (ref,) = experiment_refs()[name]
        self.runs[name] = read_experiment(self.study, name, ref)
        write_runs(
            scores_file_of(self.study),
            {each: self.runs[each] for each in self.study.experiments() if each in self.runs},
        )
        if cost and not self.study.name.startswith(QUICK):
            add_cost(self.study, self.runs[name].variant, self.runs[name].seed, cost)
