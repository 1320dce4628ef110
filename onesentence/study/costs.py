"""What the runs of a study took: seconds and memory on the machine that made them.

They are in benchmarks/results/studies, which nothing compares: another machine, or the same one with other
work beside it, takes another time. What is the same on every machine is in metrics/studies.
"""

from pathlib import Path
from typing import Any

from onesentence.core.errors import UserError
from onesentence.core.files import read_json, write_json
from onesentence.core.machine import machine
from onesentence.study.experiments import git, restore
from onesentence.study.variants import Study, run_name

FOLDER = Path("benchmarks/results/studies")  # in the repository, also for a preset's pipeline
TRAIN = Path("data/cost/train.json")  # what stage `train` writes
COST = {"machine", "jobs", "seconds"}  # what each run's cost has


def costs_file_of(study: Study) -> Path:
    """The file with the costs of a study's runs."""
    top = git("rev-parse", "--show-toplevel", check=False).strip()
    return Path(top) / FOLDER / f"{study.scale}-{study.name}.json"


def read_costs(study: Study) -> dict[str, dict[str, Any]]:
    """The costs of a study's runs, by `run_name`; {} without a file. A UserError where it is damaged."""
    path = costs_file_of(study)
    costs = read_json(path, restore(path)) if path.is_file() else {}
    for name, cost in costs.items():
        if not isinstance(cost, dict) or not set(cost) >= COST:
            raise UserError(f"{path}: {name}: expected {', '.join(sorted(COST))}; {restore(path)}")
    return costs


def machine_name() -> str:
    """The CPU with its cores and widest instructions, and the GPU; not the name of the host."""
    found = machine()
    parts = [found["cpu"], f"{found['cores']} cores", found["instructions"], found["gpu"]]
    return ", ".join(part for part in parts if part)


def cost_of_run(folder: Path, seconds: float, jobs: int) -> dict[str, Any]:
    """The cost of a run that has just ended in a pipeline's folder.

    seconds: since it was started, the last time if it was killed; jobs: runs at a time on this machine. The
    keys of training are missing where DVC had the trained model in its cache.
    """
    cost: dict[str, Any] = {"machine": machine_name(), "jobs": jobs, "seconds": seconds}
    if (folder / TRAIN).is_file():
        train = read_json(folder / TRAIN)
        cost["device"] = train["device"]
        cost["training_seconds"] = train["seconds"]
        cost["training_peak_bytes"] = train["peak_memory_bytes"]
        cost["resumed"] = train["resumed"]
    return cost


def add_cost(study: Study, variant: str, seed: int, cost: dict[str, Any]) -> None:
    """Write the cost of a run into the study's file, in the order of studies.yaml."""
    known = read_costs(study) | {run_name(variant, seed): cost}
    names = [run_name(each.name, seed) for seed in study.seeds for each in study.variants]
    ordered = {name: known[name] for name in names if name in known}
    write_json(costs_file_of(study), ordered, one_line_below=1)


def cost_lines(study: Study, result: dict[str, Any]) -> list[str]:
    """Markdown of what each variant of a compared study took; none where no run was timed.

    result: as in metrics/studies/NAME.json. Minutes are the mean over seeds, memory is the
    highest peak of their trainings.
    """
    costs = read_costs(study)
    if not costs:
        return []
    machines = sorted(
        {
            f"{cost['machine']}, {cost['jobs']} run{'s' * (cost['jobs'] > 1)} at a time"
            for cost in costs.values()
        }
    )
    hours = sum(cost["seconds"] for cost in costs.values()) / 3600
    lines = [
        f"{len(costs)} run{'s were' if len(costs) > 1 else ' was'} timed, {hours:.1f} hours in all "
        f"({'; '.join(machines)}). Other "
        "machines take other times; tokens and bytes are the same everywhere.",
        "",
        "| variant | tokens trained | tuned weights (MB) | base (MB) | training (min) | peak memory (GB) |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, variant in result["variants"].items():
        runs = [costs[run] for seed in study.seeds if (run := run_name(name, seed)) in costs]
        trained = [run for run in runs if "training_seconds" in run and not run["resumed"]]
        minutes = sum(run["training_seconds"] for run in trained) / 60 / max(1, len(trained))
        peak = max((run["training_peak_bytes"] for run in trained), default=0) / 1e9
        fixed = variant["cost"]
        lines.append(
            f"| `{name}` | {fixed['tokens_trained']:,} | {fixed['tuned_bytes'] / 1e6:,.1f} "
            f"| {fixed['base_bytes'] / 1e6:,.1f} | "
            + (f"{minutes:.1f} | {peak:.1f} |" if trained else "not timed | |")
        )
    return lines
