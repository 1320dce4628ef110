"""Show what changed since a revision: parameters, metrics with intervals, studies, plots.

It compares the pipeline in the working directory: the default at the top, a preset in presets/NAME/
(`make diff REV=main PRESET=NAME`). --folder names another pipeline for the other side, `.` the default (`make
diff REV=HEAD PRESET=NAME AGAINST=.`).

A metric is compared where its signature shows the same articles and settings on both sides. The difference is
paired where DVC's cache has the scores of every article. Otherwise it comes from the two intervals, as if
each side had its own sample of articles. That is conservative: systems agree on which articles are hard. A
share of 0 or 100 % gets Wilson's interval there, because its bootstrap interval is a point.

Run     onesentence diff main                       (make diff REV=main)
        onesentence diff HEAD --folder presets/smollm2-docstrings
        onesentence diff main --markdown            for a comment on a pull request
"""

import contextlib
import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
import numpy as np
import voluptuous
from scipy.special import ndtr, ndtri

from onesentence.commands import documented
from onesentence.commands.preset import PRESETS
from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.escaping import LINES, markdown_code, visible
from onesentence.core.files import parse_json, read_json
from onesentence.core.text import percent
from onesentence.evaluation.comparison import is_significant
from onesentence.evaluation.metrics import METRICS, Scores, read_scores, scores_file
from onesentence.evaluation.resampling import ENOUGH, POWER, Sample, difference_of, holm, wilson_interval
from onesentence.report.formatting import mde_text
from onesentence.report.terminal import print_table
from onesentence.study.experiments import experiment_refs, flat, git, scores_at, shown
from onesentence.study.sentences import summarize_study
from onesentence.study.variance import Floats

EVALUATION = Path("metrics/evaluation.json")
STUDIES_FOLDER = "metrics/studies"
STUDIES = "Studies"  # the title of the part that is printed as sentences
DIFF_METRICS = ("rouge1", "rouge2", "rougeL", "bertscore", "verbatim", "success_rate")
SYSTEM = "tuned"
FINITE = voluptuous.Range(min=-1e9, max=1e9)
# What `compared` reads of a metrics/evaluation.json, whose writer may be another version, or no friend.
SCORE = {
    voluptuous.Required(key): voluptuous.Any(None, voluptuous.All(voluptuous.Any(int, float), FINITE))
    for key in ("value", "low", "high")
}
EVALUATION_SHAPE = voluptuous.Schema(
    {
        voluptuous.Required("n"): int,
        voluptuous.Required("resamples"): voluptuous.All(int, voluptuous.Range(min=1)),
        voluptuous.Required("confidence"): voluptuous.All(
            float, voluptuous.Range(min=0.5, max=1, max_included=False)
        ),
        voluptuous.Required("metrics"): {str: {str: {voluptuous.Required("signature"): str}}},
        voluptuous.Required("systems"): {voluptuous.Required(SYSTEM): {str: SCORE}},
    },
    extra=voluptuous.ALLOW_EXTRA,
)
SIDES = ("before", "here")
ROUNDED = 1e-4  # the JSON's rounding: means farther apart belong to other scores
VALUE_CHARACTERS = 500  # characters of a value in the Markdown
ABSENT = "absent"


def tree_of(commit: str, folder: Path | None) -> str:
    """Git's name for the files of a pipeline in a commit: `COMMIT:presets/NAME/`, or `COMMIT:` for the
    default.

    folder: the pipeline's, from the repository's root; None: the working directory.
    """
    if folder is None:
        return f"{commit}:{git('rev-parse', '--show-prefix').strip()}"
    return f"{commit}:" if folder == Path() else f"{commit}:{folder.as_posix()}/"


def at(tree: str, path: str) -> str | None:
    """The text of a file in a tree of `tree_of`, or None where there is no such file."""
    if not git("cat-file", "-t", f"{tree}{path}", check=False):
        return None
    return git("show", f"{tree}{path}")


def commit_of(name: str) -> str:
    """The commit of a revision or of a DVC experiment, whose name is no git revision by itself."""
    commit = git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", check=False).strip()
    if commit:
        return commit
    commits = {git("rev-parse", ref).strip() for ref in experiment_refs().get(name, ())}
    if not commits:
        raise UserError(
            f"diff: {name!r}: no commit, branch, tag or experiment has this name; `make show` lists "
            "experiments"
        )
    if len(commits) > 1:
        raise UserError(
            f"diff: {name!r}: {len(commits)} experiments have this name; give the commit of one: "
            f"{', '.join(sorted(commit[:10] for commit in commits))}"
        )
    return commits.pop()


def changed_params(before: dict[str, Any], after: dict[str, Any]) -> list[list[str]]:
    """(key, before, after) rows of parameters that differ."""
    left, right = flat(before), flat(after)
    keys = [key for key in {**left, **right} if left.get(key, "") != right.get(key, "")]
    return [[key, shown(left.get(key, ABSENT)), shown(right.get(key, ABSENT))] for key in keys]


def signatures(evaluation: dict[str, Any]) -> dict[str, str]:
    """The signature of each metric of a metrics/evaluation.json: its settings and its articles."""
    return {name: rule["signature"] for kind in evaluation["metrics"].values() for name, rule in kind.items()}


def with_width(metric: str, entry: dict[str, Any], evaluation: dict[str, Any]) -> dict[str, Any]:
    """A score's entry with Wilson's interval if it is a share of 0 or 100 %: its own interval is a point."""
    unit = METRICS[metric].unit
    top = {"share": 1.0, "%": 100.0}.get(unit)
    if top is None or not entry["low"] == entry["high"] == entry["value"] or entry["value"] not in (0, top):
        return entry
    sample = evaluation.get("resampling")
    effective = sample.get("effective_clusters") if isinstance(sample, dict) else None
    if not isinstance(effective, int | float) or not 1 <= effective <= evaluation["n"]:
        effective = max(1, evaluation["n"])  # every article is a cluster, or the file is damaged
    # Student's t where clusters are few, as `evaluate` has it for the success rate.
    df = max(1.0, effective - 1) if effective < min(ENOUGH, evaluation["n"]) else np.inf
    low, high = wilson_interval(entry["value"] / top * effective, effective, evaluation["confidence"], df)
    return {**entry, "low": top * low, "high": top * high}


def unpaired(
    before: dict[str, Any], after: dict[str, Any], confidences: tuple[float, float]
) -> dict[str, Any]:
    """after - before from two scores with intervals, assumed independent and normal on each side.

    Each end of the difference's interval comes from the two ends that lie towards it, since an interval may
    be lopsided (Zou and Donner 2008). confidences: of the interval before and of that after; the difference's
    interval has the second.
    """
    first, z = (ndtri((1 + confidence) / 2) for confidence in confidences)
    below, above = (
        float(np.hypot(towards(before, end) * z / first, towards(after, other)))
        for end, other in (("high", "low"), ("low", "high"))
    )
    value = after["value"] - before["value"]
    width = (below + above) / 2
    to_zero = below if value > 0 else above
    p = 2 * ndtr(-abs(value) / (to_zero / z)) if to_zero else float(value == 0)
    return {
        "value": value,
        "low": value - below,
        "high": value + above,
        "p": float(p),
        "mde": float((z + ndtri(POWER)) * width / z) or None,
    }


def towards(score: dict[str, Any], end: str) -> float:
    """The distance from a score to one end of its interval."""
    return abs(float(score[end] - score["value"]))


def compared(
    before: dict[str, Any], after: dict[str, Any], scores: tuple[Scores | None, Scores | None]
) -> dict[str, dict[str, Any]]:
    """Differences by metric of two metrics/evaluation.json, each with `paired`.

    value is None where the two have other articles or settings, or too few clusters for an interval (`few`).
    scores: of every article on both sides, None where they are missing. They are used only where their mean
    is that of the JSON: after a switch of branches the scores on disk may be another branch's.
    """
    confidence = after["confidence"]
    differences: dict[str, dict[str, Any]] = {}
    rules = signatures(before), signatures(after)
    for metric in DIFF_METRICS:
        entries = [evaluation["systems"][SYSTEM].get(metric) for evaluation in (before, after)]
        if any(entry is None or entry["value"] is None for entry in entries):
            continue
        old, new = entries
        few = old["low"] is None or new["low"] is None
        difference = {"before": old["value"], "after": new["value"], "value": None, "p": None, "few": few}
        differences[metric] = difference
        if rules[0].get(metric) != rules[1].get(metric) or few:
            continue
        pair = paired_columns(metric, (old, new), scores)
        if pair:
            left, right, sample = pair
            entry = difference_of(right, left, after["resamples"], confidence, sample)
            difference |= {**entry, "p": entry["p_randomization"], "paired": True}
        else:
            sides = with_width(metric, old, before), with_width(metric, new, after)
            difference |= {**unpaired(*sides, (before["confidence"], confidence)), "paired": False}
    p_values = holm([entry["p"] for entry in differences.values()])
    for entry, p in zip(differences.values(), p_values, strict=True):
        entry["p_holm"] = p
    return differences


def paired_columns(
    metric: str, entries: tuple[dict[str, Any], dict[str, Any]], scores: tuple[Scores | None, Scores | None]
) -> tuple[Floats, Floats, Sample] | None:
    """Scores of the same articles on both sides and their clusters, or None where no pairs can be made.

    entries: the metric in both metrics/evaluation.json; scores: of every article, as in `compared`.
    """
    before, after = scores
    if before is None or after is None:
        return None
    left, right = before.columns.get(metric), after.columns.get(metric)
    if left is None or right is None:
        return None
    for column, entry in zip((left, right), entries, strict=True):
        if not abs(np.nanmean(column) - entry["value"]) <= ROUNDED:
            return None
    same = (before.ids, before.groups) == (after.ids, after.groups)
    return (left, right, after.sample) if same else None


def significance_text(entry: dict[str, Any], confidence: float) -> str:
    """A difference in a few words."""
    if entry["value"] is None:
        reason = "too few clusters for an interval" if entry["few"] else "other articles or settings"
        return f"not comparable: {reason}"
    if entry["value"] == entry["low"] == entry["high"] == 0:
        return "identical"
    return "significant" if is_significant(entry, confidence) else "not significant"


def metric_rows(differences: dict[str, dict[str, Any]], confidence: float) -> list[list[str]]:
    """Rows of the table of metrics."""
    rows = []
    for name, entry in differences.items():
        metric = METRICS[name]
        scale = 100.0 if metric.unit == "share" else 1.0
        difference, mde = "", ""
        if entry["value"] is not None:
            value, low, high = (scale * entry[key] for key in ("value", "low", "high"))
            difference = f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
            mde = mde_text(None if entry["mde"] is None else scale * entry["mde"])
        scores = [f"{scale * entry[key]:.2f}" for key in ("before", "after")]
        title = metric.title + (" (%)" if scale > 1 else "")
        rows.append([title, *scores, difference, mde, significance_text(entry, confidence)])
    return rows


def changed_studies(tree: str) -> list[list[str]]:
    """(study, sentences before, sentences here) rows of the studies that changed; shared sentences are left
    out.
    """
    rows = []
    for path in changed_files(tree, f"{STUDIES_FOLDER}/*.json"):
        file = Path(path)
        # As git's side is read: bytes that are no UTF-8 are for `said_by` to refuse.
        now = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None
        before, here = said_by(at(tree, path)), said_by(now)
        if before != here:
            own = [
                [sentence for sentence in side if sentence not in other]
                for side, other in ((before, here), (here, before))
            ]
            rows.append([Path(path).stem, *(" ".join(sentences) or "nothing else" for sentences in own)])
    return rows


def changed_files(tree: str, *patterns: str) -> list[str]:
    """Files of the working directory that differ from those of a tree.

    patterns: FOLDER/NAME; files in subfolders match too.
    """
    before = {}
    for line in git("ls-tree", "-r", "-z", tree, check=False).split("\0"):
        description, tab, path = line.partition("\t")
        if tab and any(fnmatch(path, pattern) for pattern in patterns):
            before[path] = description.split()[-1]
    parts = [pattern.rpartition("/") for pattern in patterns]
    here = sorted(path.as_posix() for folder, _, name in parts for path in Path(folder).rglob(name))
    hashes = git("hash-object", "--", *here).split() if here else []
    after = dict(zip(here, hashes, strict=True))
    return sorted(path for path in {*before, *after} if before.get(path) != after.get(path))


def said_by(text: str | None) -> list[str]:
    """The sentences of a study's JSON; one that says why where there are none."""
    if text is None:
        return [ABSENT]
    try:
        return summarize_study(json.loads(text))
    # A branch under review may hold anything: another layout, lists for objects, a thousand brackets.
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return ["written by other code"]


def code(text: str) -> str:
    """A value as Markdown code, cut where it is long."""
    return markdown_code(text, VALUE_CHARACTERS)


def markdown_table(title: str, columns: list[str], rows: list[list[str]]) -> str:
    """A table under its title. Every cell is code: a branch under review may contain anything."""
    lines = [f"**{title}**", "", f"| {' | '.join(map(code, columns))} |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *(f"| {' | '.join(map(code, row))} |" for row in rows), ""])


def scores_in(commit: str, folder: Path | None) -> dict[str, Scores] | None:
    """Scores of every article in a commit's pipeline by system, or None where DVC's cache lacks them.

    DVC reads a pipeline's revisions from its folder: where that is missing here, there are none either.
    """
    top = Path(git("rev-parse", "--show-toplevel").strip())
    if folder is not None and not (top / folder).is_dir():
        return None
    # DVC reads the repository that the working directory is in.
    with contextlib.chdir(Path() if folder is None else top / folder):
        return scores_at(commit, (SYSTEM,))


def has_format(evaluation: Any) -> bool:
    """Whether a value is a metrics/evaluation.json with the keys that `compared` reads."""
    try:
        EVALUATION_SHAPE(evaluation)
    except voluptuous.Invalid:
        return False
    return True


def metrics_table(
    scores: dict[str, Scores] | None, name: str, before: dict[str, Any], after: dict[str, Any]
) -> tuple[str, list[str], list[list[str]]]:
    """(title, columns, rows) of the metrics, or a title that says why there is no table.

    scores: the other side's, of every article by system, where DVC's cache has them; name: of that side;
    before, after: both sides' metrics/evaluation.json.
    """
    title = f"Metrics of the fine-tuned model against {name}"
    for side, evaluation in ((name, before), ("here", after)):
        if not has_format(evaluation):
            return f"{title}: not comparable, {EVALUATION} has another format ({side})", [], []
    title = f"{title}, {after['n']:,} articles"
    here = read_scores(scores_file(SYSTEM)) if scores_file(SYSTEM).is_file() else None
    differences = compared(before, after, (scores[SYSTEM] if scores else None, here))
    kinds = {entry["paired"] for entry in differences.values() if entry["value"] is not None}
    kind = {
        frozenset[bool](): "not comparable",
        frozenset({True}): "paired by article",
        frozenset({False}): "unpaired, from the two intervals",
    }.get(frozenset(kinds), "some paired by article")
    columns = ["metric", *SIDES, f"difference [{percent(after['confidence'])}]", "MDE", "significant?"]
    return f"{title}, one run on each side, {kind}", columns, metric_rows(differences, after["confidence"])


@documented(__doc__)
@click.argument("revision")
@click.option(
    "--folder", type=Path, help="The pipeline of the other side, from the root: presets/NAME or `.`."
)
@click.option("--markdown", is_flag=True, help="Print Markdown, for a comment on a pull request.")
def command(revision: str, folder: Path | None, markdown: bool) -> None:
    name, commit = revision, commit_of(revision)
    if folder is not None and not git("cat-file", "-t", tree_of(commit, folder).rstrip("/"), check=False):
        raise UserError(
            f"--folder: {name} has no {folder}; name {PRESETS}/NAME of a preset that was run, or `.`"
        )
    tree = tree_of(commit, folder)
    name = name if folder is None else f"{name}:{folder.as_posix()}"
    texts = []
    for path in ("params.yaml", EVALUATION.as_posix()):
        text = at(tree, path)
        if text is None:
            raise UserError(f"diff: {name} has no {path}; name a revision that was run")
        texts.append(text)
    before = parse_json(texts[1], f"{name}:{EVALUATION.as_posix()}", "name a revision that was run")
    after = read_json(EVALUATION)
    old = params.parse_yaml(texts[0], Path(f"{name}:params.yaml"))
    changed = changed_params(old, params.read_yaml(params.PARAMS_FILE))
    tables = [
        ("Parameters" if changed else "Parameters: none changed", ["key", *SIDES], changed),
        metrics_table(scores_in(commit, folder), name, before, after),
    ]
    if folder is None:  # another pipeline has studies and plots of its own
        studies = changed_studies(tree)
        plots = [[path] for path in changed_files(tree, "plots/*.svg", "plots/*.csv")]
        tables += [
            (STUDIES if studies else f"{STUDIES}: none changed", ["study", *SIDES], studies),
            ("Plots" if plots else "Plots: none changed", ["file"], plots),
        ]
    for title, columns, rows in tables:
        if not rows:
            print(f"**{title}**\n" if markdown else title)
        elif markdown:
            print(markdown_table(title, columns, rows))
        elif title == STUDIES:
            parts = (f"{name}: {old}\n    here: {here}" for name, old, here in rows)
            print(visible("\n  ".join([title, *parts]), keep=LINES))
        else:
            print_table(title, columns, rows, narrow=columns[1:] if columns[1:] == list(SIDES) else ())
    print(
        f"MDE: the difference that one test finds significant in {POWER:.0%} of cases. Intervals are over "
        "articles; the variation between seeds is measured by a study (`make study`)."
    )
