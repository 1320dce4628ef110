"""How does each metric rank summaries, compared with people who judged what the article supports?

Spearman's rho of each metric with `faithful` (the share of a summary's words that three people found
supported by its XSum article) and `factual` (the share of them who found it true), Maynez et al. 2020. FILE
has 1,992 summaries, four of each of 498 articles, with published scores. The metrics of this repository need
the reference or the article, which the file has for some rows only: they are measured on those, beside the
published scores of the same rows. Whole articles are resampled, as in onesentence/evaluation/resampling.py.
`name_precision` is left out: the summaries are in lower case. `entailment` needs --nli-model.

Run     python -m benchmarks.faithfulness --annotations FILE [--nli-model FOLDER] [--output FILE]
        python -m benchmarks.faithfulness --write      table of benchmarks/results into docs/evaluation.md
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from tqdm import tqdm

from onesentence.commands.score import settings_with
from onesentence.core import errors
from onesentence.core.errors import UserError
from onesentence.core.files import output_file, read_json, write_json
from onesentence.core.params import Evaluate
from onesentence.evaluation.entailment import judge_of
from onesentence.evaluation.extraction import Article, extraction_scores
from onesentence.evaluation.metrics import METRICS, QUALITY
from onesentence.evaluation.resampling import Sample, number, percentile_interval
from onesentence.evaluation.scoring import columns_of, score_systems
from onesentence.report.readme import write_between
from onesentence.report.tables import cell

RESULT = Path("benchmarks/results/faithfulness.json")
PAGE = Path("docs/evaluation.md")
START, END = (
    "<!-- faithfulness: written by benchmarks/faithfulness.py -->\n",
    "<!-- end of faithfulness -->\n",
)
TEXTS, OPTIONAL_TEXTS = ("id", "system", "summary"), ("document", "reference")
JUDGED, PUBLISHED = ("faithful", "factual"), ("rouge1", "bertscore", "entailment")
# What is measured of a summary and its article.
OF_ARTICLE = (
    *("novel_1", "novel_2", "novel_3", "novel_4", "coverage", "density", "longest_copy", "compression"),
    *("number_precision", "entailment"),
)
GROUPS = (  # of results: (name, the text that its rows need, whose scores they are)
    ("published", None, "published"),
    ("published_with_reference", "reference", "published"),
    ("reference", "reference", "this repository"),
    ("published_with_document", "document", "published"),
    ("document", "document", "this repository"),
)
Row = dict[str, Any]
Columns = dict[str, NDArray[np.float64]]


def checked(value: object, where: str) -> Row:
    """A row of the file. Raises UserError that names a key whose value is wrong."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected an object, found {type(value).__name__}")
    for keys, expected, right in (
        (TEXTS, "a text", lambda v: isinstance(v, str) and v.strip()),
        (OPTIONAL_TEXTS, "a text or null", lambda v: v is None or (isinstance(v, str) and v.strip())),
        ((*JUDGED, *PUBLISHED), "a number from 0 to 1", lambda v: type(v) in (int, float) and 0 <= v <= 1),
    ):
        for key in keys:
            if key not in value or not right(value[key]):
                raise UserError(
                    f"{where}: {key!r}: expected {expected}, found {value.get(key, 'no such key')!r}; "
                    "use annotations.jsonl as the benchmark's docstring describes it"
                )
    return value | {"summary": value["summary"].replace("\\'", "'")}  # the file has \' for '


def read_annotations(path: Path) -> list[Row]:
    """The rows of the file. Raises UserError that names the line of a wrong one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a file of annotations: {error}") from error
    rows = []
    for at, line in enumerate(lines, start=1):
        try:
            rows.append(checked(json.loads(line), f"{path}, line {at}"))
        except ValueError as error:
            raise UserError(f"{path}, line {at}: not valid JSON: {error}") from error
    if not rows:
        raise UserError(f"{path}: empty; expected a JSON object in each line")
    return rows


def correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman's rho, with mean ranks for ties; NaN where one side is constant."""
    ranks = [rankdata(side) - (len(side) + 1) / 2 for side in (left, right)]
    size = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float(ranks[0] @ ranks[1]) / size if size else np.nan


def drawn_rows(sample: Sample, resamples: int) -> list[NDArray[np.int64]]:
    """The rows of each resample: those of a cluster as often as the cluster was drawn."""
    one_hot = (sample.clusters[:, None] == np.arange(sample.count)).astype(np.int64)
    counts = np.rint(sample.drawn(one_hot, resamples) / sample.sizes).astype(np.int64)
    return [np.repeat(np.arange(len(sample.clusters)), drawn[sample.clusters]) for drawn in counts]


def ranked(columns: Columns, judged: Columns, groups: list[str], resamples: int, confidence: float) -> Row:
    """rho of each column with each judgement, with interval, by metric; a row without a score is left out.

    columns, judged: [rows] by name. groups: the article of each row. A column that is constant, or that no
    row has, is left out. Differences from the first column are those on the same resamples.
    """
    found, draws = {}, {}
    for name, scores in tqdm(columns.items(), desc="resampling", unit="metric"):
        defined = ~np.isnan(scores)
        if len(set(scores[defined])) < 2:
            continue
        sample = Sample.of([group for group, kept in zip(groups, defined, strict=True) if kept])
        rows = [] if sample.too_few_for(confidence) else drawn_rows(sample, resamples)
        found[name] = {"n": int(defined.sum()), "articles": sample.count}
        for kind, shares in judged.items():
            left, right = scores[defined], shares[defined]
            values = np.array([correlation(left[drawn], right[drawn]) for drawn in rows])
            low, high = percentile_interval(values, confidence)
            found[name][kind] = {"value": number(correlation(left, right)), "low": low, "high": high}
            draws[name, kind] = values
    first = next(iter(found), "")
    for name in list(found)[1:]:
        if found[name]["n"] == found[first]["n"] == len(groups):
            found[name]["above_first"] = {
                kind: difference(found, draws, (name, first), kind, confidence) for kind in judged
            }
    return found


def difference(found: Row, draws: Row, pair: tuple[str, str], kind: str, confidence: float) -> Row:
    """rho of the first metric minus that of the second, with interval."""
    left, right = pair
    low, high = percentile_interval(draws[left, kind] - draws[right, kind], confidence)
    sides = [found[name][kind]["value"] for name in pair]
    return {"value": None if None in sides else sides[0] - sides[1], "low": low, "high": high}


def own_scores(rows: list[Row], settings: Evaluate) -> tuple[Columns, Columns]:
    """(scores against the reference of rows that have one, scores against the article of rows with one)."""
    with_reference = [row for row in rows if row["reference"]]
    with_document = [row for row in rows if row["document"]]
    of_reference: Columns = {}
    if with_reference:
        texts = [row["summary"] for row in with_reference]
        scores = score_systems(
            [f"{row['id']} {row['system']}" for row in with_reference],
            [row["reference"] for row in with_reference],
            {"all": texts},
            {"all": [True] * len(texts)},
            None,
            settings,
            bertscore=True,
            behaviour={},
        )["all"]
        of_reference = {name: scores.columns[name] for name in QUALITY if name in scores.columns}
    of_document: Columns = {}
    if with_document:
        articles = [Article(row["document"]) for row in with_document]
        texts = [row["summary"] for row in with_document]
        of_document = columns_of([extraction_scores(a, t) for a, t in zip(articles, texts, strict=True)])
        judge = judge_of(settings)
        if judge:
            of_document["entailment"] = judge.scores(articles, {"all": texts})["all"]
    return of_reference, {name: of_document[name] for name in OF_ARTICLE if name in of_document}


def measured(rows: list[Row], settings: Evaluate) -> Row:
    """The content of benchmarks/results/faithfulness.json."""
    own = dict(zip(("reference", "document"), own_scores(rows, settings), strict=True))
    result: Row = {
        "n": len(rows),
        "articles": len({row["id"] for row in rows}),
        "resamples": settings.resamples,
        "confidence": settings.confidence,
    }
    for name, key, _ in GROUPS:
        kept = [row for row in rows if key is None or row[key]]
        columns = own.get(name)
        if columns is None:
            columns = {metric: np.array([float(row[metric]) for row in kept]) for metric in PUBLISHED}
        judged = {kind: np.array([float(row[kind]) for row in kept]) for kind in JUDGED}
        groups = [row["id"] for row in kept]
        result[name] = ranked(columns, judged, groups, settings.resamples, settings.confidence)
    return result


def table(result: Row) -> str:
    """The table in Markdown, with a sentence on the published scores."""
    lines = [
        "| metric | scores | summaries (articles) | rho with faithful | rho with factual |",
        "|---|---|---|---|---|",
    ]
    for group, _, origin in GROUPS:
        for name, entry in result[group].items():
            count = f"{entry['n']:,} ({entry['articles']:,})"
            cells = (cell(entry[kind], "+.2f") for kind in JUDGED)
            lines.append(f"| {METRICS[name].title} | {origin} | {count} | {' | '.join(cells)} |")
    entailment, rouge1 = (result["published"][name] for name in ("entailment", "rouge1"))
    lines += [
        "",
        f"On all {result['n']:,} summaries, the rho of entailment with faithful is "
        f"{entailment['faithful']['value']:.2f} and that of ROUGE-1 {rouge1['faithful']['value']:.2f}.",
        f"The difference is {cell(entailment['above_first']['faithful'], '+.2f')}. Brackets hold "
        f"{100 * result['confidence']:g} % intervals.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--nli-model")
    parser.add_argument("--output", type=output_file)
    parser.add_argument("--write", action="store_true", help=f"write the table of {RESULT} into {PAGE}")
    arguments = parser.parse_args()
    if arguments.annotations is None and not arguments.write:
        parser.error("--annotations or --write: name the file that is measured, or write its table")
    result = read_json(RESULT) if arguments.annotations is None else None
    if arguments.annotations:
        settings = settings_with("en", None, arguments.nli_model)
        result = measured(read_annotations(arguments.annotations), settings)
        if arguments.output:
            write_json(arguments.output, result)
    if arguments.write:
        result = read_json(RESULT)
        write_between(PAGE, START, END, table(result))
    print(table(result))


if __name__ == "__main__":
    errors.run(main)
