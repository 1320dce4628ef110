"""What changed against a revision: parameters, metrics with intervals and a summarize_study, studies, plots.

It compares the pipeline in the working directory: the default's at the top, a preset's in presets/NAME/
(`make diff REV=main PRESET=NAME`). --folder names another one for the other side, `.` the default's (`make
diff REV=HEAD PRESET=NAME AGAINST=.`).

A metric is compared where both sides scored the same articles with the same settings, its signature says. The
difference is paired where DVC's cache has the scores of every article. Else it comes from the two intervals
as if other articles had been drawn, which is more careful: systems agree on which articles are hard.

Run     onesentence diff main                       (make diff REV=main)
        onesentence diff HEAD --folder presets/smollm2-docstrings
        onesentence diff main --markdown            for a comment on a pull request
"""

import contextlib
import json
from fnmatch import fnmatch
from pathlib import Path

import click
import numpy as np
from scipy.special import ndtr, ndtri

from onesentence.commands import documented
from onesentence.commands.preset import PRESETS
from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.files import read_json
from onesentence.evaluation.comparison import is_real
from onesentence.evaluation.metrics import METRICS, Scores, read_scores, scores_file
from onesentence.evaluation.resampling import POWER, difference_of, holm
from onesentence.report.tables import number
from onesentence.report.terminal import print_table
from onesentence.study.experiments import experiment_refs, flat, git, scores_at, shown
from onesentence.study.sentences import summarize_study

EVALUATION = Path("metrics/evaluation.json")
STUDIES_FOLDER = "metrics/studies"
STUDIES = "Studies"  # the title of what is told in sentences
DIFF_METRICS = ("rouge1", "rouge2", "rougeL", "bertscore", "verbatim", "success_rate")
SYSTEM = "tuned"
SIDES = ("before", "here")
ROUNDED = 1e-4  # the JSON's numbers are: means that are farther apart are of other scores
LONGEST = 500  # characters of a value in the Markdown


def tree_of(commit: str, folder: Path | None) -> str:
    """What git calls the files of a pipeline in a commit: `COMMIT:presets/NAME/`, the default's `COMMIT:`.

    folder: of the pipeline, from the repository's root; None: that of the working directory.
    """
    if folder is None:
        return f"{commit}:{git('rev-parse', '--show-prefix').strip()}"
    return f"{commit}:" if folder == Path() else f"{commit}:{folder.as_posix()}/"


def at(tree: str, path: str) -> str | None:
    """A file's text in a tree of `tree_of`, or None where it is not there."""
    if not git("cat-file", "-t", f"{tree}{path}", check=False):
        return None
    return git("show", f"{tree}{path}")


def commit_of(name: str) -> str:
    """The commit of a revision or of a DVC experiment, whose name is no git revision by itself."""
    found = git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", check=False).strip()
    if found:
        return found
    commits = {git("rev-parse", ref).strip() for ref in experiment_refs().get(name, ())}
    if not commits:
        raise UserError(
            f"diff: {name!r} is no commit, branch, tag or experiment; `make show` lists experiments"
        )
    if len(commits) > 1:
        raise UserError(
            f"diff: {name!r} is the name of {len(commits)} experiments; name one by its commit: "
            f"{', '.join(sorted(commit[:10] for commit in commits))}"
        )
    return commits.pop()


def changed_params(before: dict, after: dict) -> list[list[str]]:
    """(key, before, after) rows of parameters that differ."""
    left, right = flat(before), flat(after)
    keys = [key for key in {**left, **right} if left.get(key, "") != right.get(key, "")]
    return [[key, shown(left.get(key, "not there")), shown(right.get(key, "not there"))] for key in keys]


def signatures(evaluation: dict) -> dict[str, str]:
    """How each metric of a metrics/evaluation.json was computed, and on which articles."""
    return {name: rule["signature"] for kind in evaluation["metrics"].values() for name, rule in kind.items()}


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
        "mde": float((z + ndtri(POWER)) * spread / z) or None,
    }


def compared(before: dict, after: dict, scores: tuple[Scores | None, Scores | None]) -> dict[str, dict]:
    """Differences by metric of two metrics/evaluation.json, each with `paired`; value is None where the two
    were not scored alike, or where clusters are too few for an interval (`few`).

    scores: of every article on both sides, None where they are not to be had. They count where they are those
    of the JSON: after a switch of branches those on disk may be another branch's.
    """
    confidence, found = after["confidence"], {}
    rules = signatures(before), signatures(after)
    for metric in DIFF_METRICS:
        entries = [each["systems"][SYSTEM].get(metric) for each in (before, after)]
        if any(entry is None or entry["value"] is None for entry in entries):
            continue
        old, new = entries
        few = old["low"] is None or new["low"] is None
        found[metric] = {"before": old["value"], "after": new["value"], "value": None, "p": None, "few": few}
        if rules[0].get(metric) != rules[1].get(metric):
            continue
        if few:
            continue
        columns = [None if each is None else each.columns.get(metric) for each in scores]
        paired = all(
            column is not None and abs(np.nanmean(column) - entry["value"]) <= ROUNDED
            for column, entry in zip(columns, entries, strict=True)
        )
        same = paired and (scores[0].ids, scores[0].groups) == (scores[1].ids, scores[1].groups)
        if same:
            entry = difference_of(columns[1], columns[0], after["resamples"], confidence, scores[1].sample)
            found[metric] |= {**entry, "p": entry["p_randomization"], "paired": True}
        else:
            found[metric] |= {**unpaired(old, new, confidence), "paired": False}
    for entry, p in zip(found.values(), holm([entry["p"] for entry in found.values()]), strict=True):
        entry["p_holm"] = p
    return found


def verdict_of(entry: dict, confidence: float) -> str:
    """One word or a few on a difference."""
    if entry["value"] is None:
        reason = "too few clusters for an interval" if entry["few"] else "other articles or settings"
        return f"not comparable: {reason}"
    if entry["value"] == entry["low"] == entry["high"] == 0:
        return "the same"
    return "real" if is_real(entry, confidence) else "not shown"


def metric_rows(found: dict, confidence: float) -> list[list[str]]:
    """Rows of the table of metrics."""
    rows = []
    for name, entry in found.items():
        metric = METRICS[name]
        scale = 100.0 if metric.unit == "share" else 1.0
        difference, detectable = "", ""
        if entry["value"] is not None:
            value, low, high = (scale * entry[key] for key in ("value", "low", "high"))
            difference = f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
            detectable = number(None if entry["mde"] is None else scale * entry["mde"])
        scores = [f"{scale * entry[key]:.2f}" for key in ("before", "after")]
        title = metric.title + (" (%)" if scale > 1 else "")
        rows.append([title, *scores, difference, detectable, verdict_of(entry, confidence)])
    return rows


def changed_studies(tree: str) -> list[list[str]]:
    """(study, what it said before, what it says) rows of the sentences in which studies have changed."""
    rows = []
    for path in changed_files(tree, f"{STUDIES_FOLDER}/*.json"):
        texts = at(tree, path), Path(path).read_text(encoding="utf-8") if Path(path).is_file() else None
        before, here = (said_by(text) for text in texts)
        if before != here:
            own = [
                [sentence for sentence in one if sentence not in other]
                for one, other in ((before, here), (here, before))
            ]
            rows.append([Path(path).stem, *(" ".join(said) or "nothing else" for said in own)])
    return rows


def changed_files(tree: str, *patterns: str) -> list[str]:
    """Files of the working directory that differ from those of a tree.

    patterns: FOLDER/NAME; files in subfolders match too.
    """
    before = {}
    for line in git("ls-tree", "-r", "-z", tree, check=False).split("\0"):
        description, found, path = line.partition("\t")
        if found and any(fnmatch(path, pattern) for pattern in patterns):
            before[path] = description.split()[-1]
    parts = [pattern.rpartition("/") for pattern in patterns]
    here = sorted(path.as_posix() for folder, _, name in parts for path in Path(folder).rglob(name))
    hashes = git("hash-object", "--", *here).split() if here else []
    after = dict(zip(here, hashes, strict=True))
    return sorted(path for path in {*before, *after} if before.get(path) != after.get(path))


def said_by(text: str | None) -> list[str]:
    """What a study's JSON says, in sentences."""
    if text is None:
        return ["not there"]
    try:
        return summarize_study(json.loads(text))
    except (KeyError, TypeError, ValueError):
        return ["written by other code"]


def code(text: str) -> str:
    """A value as Markdown's code: no link, image, mention or heading in it takes effect, and no cell ends."""
    text = " ".join(text.split()).replace("|", "\u00a6").replace("`", "'")
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return f"`{text}`" if text else ""


def markdown_table(title: str, columns: list[str], rows: list[list[str]]) -> str:
    """A table under its title; every cell is code, since a branch under review may hold anything."""
    lines = [f"**{title}**", "", f"| {' | '.join(map(code, columns))} |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *(f"| {' | '.join(map(code, row))} |" for row in rows), ""])


def scores_in(commit: str, folder: Path | None) -> dict[str, Scores] | None:
    """Scores of every article in a commit's pipeline, by system, or None where DVC's cache lacks them."""
    top = Path(git("rev-parse", "--show-toplevel").strip())
    # DVC reads the repository of the working directory.
    with contextlib.chdir(Path() if folder is None else top / folder):
        return scores_at(commit, (SYSTEM,))


def metrics_table(
    there: dict[str, Scores] | None, name: str, before: dict, after: dict
) -> tuple[str, list[str], list[list[str]]]:
    """(title, columns, rows) of the metrics, or a title that says why there is no table.

    there: the other side's scores of every article, by system, where DVC's cache has them; name: what to call
    that side; before, after: both sides' metrics/evaluation.json.
    """
    title = f"Metrics of the fine-tuned model against {name}, {after['n']:,} articles"
    for where, each in ((name, before), ("here", after)):
        if "metrics" not in each or SYSTEM not in each.get("systems", {}):
            return f"{title}: none to compare, {where} has {EVALUATION} in another form", [], []
    here = read_scores(scores_file(SYSTEM)) if scores_file(SYSTEM).is_file() else None
    found = compared(before, after, (there and there[SYSTEM], here))
    kinds = {entry["paired"] for entry in found.values() if entry["value"] is not None}
    kind = {
        frozenset(): "not comparable",
        frozenset({True}): "paired by article",
        frozenset({False}): "unpaired, from the two intervals",
    }.get(frozenset(kinds), "some paired by article")
    columns = ["metric", *SIDES, f"difference [{after['confidence']:.0%}]", "mde", "verdict"]
    return f"{title}, one run on each side, {kind}", columns, metric_rows(found, after["confidence"])


@documented(__doc__)
@click.argument("revision")
@click.option(
    "--folder", type=Path, help="Another pipeline on that side, from the root: presets/NAME or `.`."
)
@click.option("--markdown", is_flag=True, help="For a comment on a pull request.")
def command(revision: str, folder: Path | None, markdown: bool) -> None:
    name, commit = revision, commit_of(revision)
    if folder is not None and not git("cat-file", "-t", tree_of(commit, folder).rstrip("/"), check=False):
        raise UserError(f"--folder: {name} has no {folder}; presets that were run are in {PRESETS}/NAME")
    tree = tree_of(commit, folder)
    name = name if folder is None else f"{name}:{folder.as_posix()}"
    texts = {path: at(tree, path) for path in ("params.yaml", EVALUATION.as_posix())}
    for path, text in texts.items():
        if text is None:
            raise UserError(f"diff: {name} has no {path}; there is nothing to compare with")
    before, after = json.loads(texts[EVALUATION.as_posix()]), read_json(EVALUATION)
    old = params.parse_yaml(texts["params.yaml"], Path(f"{name}:params.yaml"))
    changed = changed_params(old, params.read_yaml(params.PARAMS_FILE))
    tables = [
        ("Parameters" if changed else "Parameters: none changed", ["key", *SIDES], changed),
        metrics_table(scores_in(commit, folder), name, before, after),
    ]
    if folder is None:  # another pipeline has studies and plots of its own
        studies = changed_studies(tree)
        plots = [[path] for path in changed_files(tree, "plots/*.svg", "plots/*.csv")]
        tables += [
            (STUDIES if studies else f"{STUDIES}: none says anything else", ["study", *SIDES], studies),
            ("Plots" if plots else "Plots: none changed", ["file"], plots),
        ]
    for title, columns, rows in tables:
        if not rows:
            print(f"**{title}**\n" if markdown else title)
        elif markdown:
            print(markdown_table(title, columns, rows))
        elif title == STUDIES:
            print("\n  ".join([title, *(f"{name}: {there}\n    here: {here}" for name, there, here in rows)]))
        else:
            print_table(title, columns, rows)
    print(
        f"Detectable: what one test would have shown in {POWER:.0%} of cases. Intervals are over articles; "
        "what another seed gives, a study tells (`make study`)."
    )
