"""What changed against a revision: parameters, metrics with intervals and a verdict, plots.

Run     make diff REV=main    (python -m stages.commands.diff REV [--markdown])

Where both sides scored the same articles and their scores are in DVC's cache, differences are paired. Else
they come from the two intervals, which is more careful: a real difference may not be told from chance.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from scipy.special import ndtr, ndtri

from stages.common import errors, params
from stages.common.commandline import print_table
from stages.common.errors import UserError
from stages.common.experiments import experiment_refs, git
from stages.common.files import read_json
from stages.common.metrics import METRICS, Scores, read_scores, scores_file
from stages.common.statistics import POWER, difference_of, holm

EVALUATION = Path("metrics/evaluation.json")
SHOWN = ("rouge1", "rouge2", "rougeL", "bertscore", "verbatim", "success_rate")
SYSTEM = "tuned"


def at(revision: str, path: str) -> str | None:
    """A file's text in a revision, or None where it is not there."""
    if not git("cat-file", "-t", f"{revision}:{path}", check=False):
        return None
    return git("show", f"{revision}:{path}")


def commit_of(name: str) -> str:
    """The commit of a revision or of a DVC experiment, whose name is no git revision by itself."""
    found = git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", check=False).strip()
    refs = experiment_refs().get(name, [])
    if not found and not refs:
        raise UserError(
            f"diff: {name!r} is no commit, branch, tag or experiment; `make show` lists experiments"
        )
    return found or git("rev-parse", refs[0]).strip()


def flat(values: dict, prefix: str = "") -> dict[str, object]:
    """params.yaml by dotted keys."""
    found = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def changed_params(before: dict, after: dict) -> list[list[str]]:
    """(key, before, after) rows of parameters that differ."""
    left, right = flat(before), flat(after)
    keys = [key for key in {**left, **right} if left.get(key, "") != right.get(key, "")]
    return [[key, shown(left.get(key, "not there")), shown(right.get(key, "not there"))] for key in keys]


def shown(value: object) -> str:
    """A value as params.yaml has it."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def scores_of(revision: str) -> Scores | None:
    """Scores of every article in a revision, or None where DVC's cache lacks them."""
    from dvc.api import DVCFileSystem

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.parquet"
        try:
            DVCFileSystem(rev=revision).get_file(scores_file(SYSTEM).as_posix(), str(path))
            return read_scores(path)
        except (OSError, UserError):
            return None


def unpaired(before: dict, after: dict, confidence: float) -> dict:
    """after - before from two scores with intervals, taken as independent and normal."""
    z = ndtri((1 + confidence) / 2)
    spread = np.hypot(*((each["high"] - each["low"]) / 2 for each in (before, after)))
    value = after["value"] - before["value"]
    p = 2 * (1 - ndtr(abs(value) / (spread / z))) if spread else float(value == 0)
    return {
        "value": value,
        "low": value - spread,
        "high": value + spread,
        "p": float(p),
        "detectable": float((z + ndtri(POWER)) * spread / z),
    }


def compared(before: dict, after: dict, scores: tuple[Scores | None, Scores | None]) -> tuple[dict, bool]:
    """(differences by metric, whether they are paired) of two metrics/evaluation.json."""
    confidence = after["confidence"]
    left, right = scores
    paired = left is not None and right is not None and left.ids == right.ids
    found = {}
    for metric in SHOWN:
        old, new = (each["systems"].get(SYSTEM, {}).get(metric) for each in (before, after))
        if not old or not new or old["value"] is None or new["value"] is None:
            continue
        if paired and left.signatures.get(metric) == right.signatures.get(metric):
            entry = difference_of(right.columns[metric], left.columns[metric], after["resamples"], confidence)
            entry["p"] = entry["p_randomization"]
        else:
            paired = False
            entry = unpaired(old, new, confidence)
        found[metric] = {"before": old["value"], "after": new["value"], **entry}
    for entry, p in zip(found.values(), holm([entry["p"] for entry in found.values()]), strict=True):
        entry["p_holm"] = p
    return found, paired


def verdict_of(entry: dict, confidence: float) -> str:
    """real, the same, or what could have been missed."""
    if entry["value"] == entry["low"] == entry["high"] == 0:
        return "the same"
    if entry["p_holm"] <= 1 - confidence:
        return "real"
    return f"not distinguishable (under {entry['detectable']:.2f} could be missed)"


def metric_rows(found: dict, confidence: float) -> list[list[str]]:
    """Rows of the table of metrics."""
    return [
        [
            METRICS[name].title,
            f"{entry['before']:.2f}",
            f"{entry['after']:.2f}",
            f"{entry['value']:+.2f} [{entry['low']:+.2f}, {entry['high']:+.2f}]",
            verdict_of(entry, confidence),
        ]
        for name, entry in found.items()
    ]


def markdown(title: str, columns: list[str], rows: list[list[str]]) -> str:
    """A table under its title; what could be markup is escaped."""

    def escaped(cell: str) -> str:
        return cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")

    lines = [f"**{title}**", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *(f"| {' | '.join(map(escaped, row))} |" for row in rows), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("revision", help="a commit, branch, tag or experiment")
    parser.add_argument("--markdown", action="store_true", help="for a comment on a pull request")
    arguments = parser.parse_args()
    revision = commit_of(arguments.revision)
    texts = {name: at(revision, name) for name in ("params.yaml", EVALUATION.as_posix())}
    for name, text in texts.items():
        if text is None:
            raise UserError(f"diff: {arguments.revision} has no {name}; there is nothing to compare with")
    before, after = json.loads(texts[EVALUATION.as_posix()]), read_json(EVALUATION)
    old = params.parse_yaml(texts["params.yaml"], Path(f"{arguments.revision}:params.yaml"))
    here = read_scores(scores_file(SYSTEM)) if scores_file(SYSTEM).is_file() else None
    found, paired = compared(before, after, (scores_of(revision), here))
    changed = changed_params(old, params.read_yaml(params.PARAMS_FILE))
    plots = git("diff", "--name-only", revision, "--", "plots").split()
    alike = before["test"] == after["test"]
    kind = "paired by article" if paired else "unpaired, from the two intervals"
    tables = [
        ("Parameters", ["key", arguments.revision, "here"], changed or [["none changed", "", ""]]),
        (
            f"Metrics of the fine-tuned model, {after['n']:,} {after['split']} articles, {kind}",
            ["metric", arguments.revision, "here", f"difference [{after['confidence']:.0%}]", "verdict"],
            metric_rows(found, after["confidence"]),
        ),
        ("Plots", ["file"], [[name] for name in plots] or [["none changed"]]),
    ]
    for title, columns, rows in tables:
        if arguments.markdown:
            print(markdown(title, columns, rows))
        else:
            print_table(title, columns, rows)
    if not alike:
        print(f"The two were scored on other articles ({before['test']}, {after['test']}).")


if __name__ == "__main__":
    errors.run(main)
