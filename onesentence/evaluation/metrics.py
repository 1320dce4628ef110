"""The registry of metrics, the scores of a system, and their files.

`Scores` holds one system's score of every article, as a file in data/scores does. A signature records the
settings behind a score. Scores are compared only if their signatures are equal.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onesentence.core import recorded
from onesentence.core.errors import UserError
from onesentence.core.files import require_expandable, write_parquet
from onesentence.core.params import Data
from onesentence.evaluation.metric import KINDS, Metric, percent, quality
from onesentence.evaluation.overlap.workers import CORPUS, OVERLAP_METRICS
from onesentence.evaluation.resampling import Aggregate, Sample, mean_of, mean_statistics

SCORES = Path("data/scores")
HEADLINE = "rouge1"  # decides every comparison; chosen before any result was seen
SCORE_DECIMALS = 6  # of a stored score: `mean_statistics` counts in millionths
ROW = "row"  # the unit of resampling if every article was drawn by itself


METRICS: dict[str, Metric] = {
    **{name: entry for metric in OVERLAP_METRICS for name, entry in metric.declared.items()},
    "bertscore": quality("BERTScore", "F1 x 100", low=-100.0),
    "novel_1": percent("novel 1-grams", "none", "abstractiveness"),
    "novel_2": percent("novel 2-grams", "none", "abstractiveness"),
    "novel_3": percent("novel 3-grams", "none", "abstractiveness"),
    "novel_4": percent("novel 4-grams", "none", "abstractiveness"),
    "coverage": percent("extractive coverage", "none", "abstractiveness"),
    "density": Metric("extractive density", "words", "none", 0.0, None, "abstractiveness"),
    "compression": Metric(
        "compression", "article words per output word", "none", 0.0, None, "abstractiveness"
    ),
    "verbatim": percent("verbatim spans of the article", "lower", "abstractiveness"),
    "longest_copy": Metric("longest copied span", "words", "none", 0.0, None, "abstractiveness"),
    "number_precision": percent("numbers that the article has", "higher", "faithfulness"),
    "name_precision": percent("names that the article has", "higher", "faithfulness"),
    "entailment": Metric("entailment", "probability x 100", "higher", 0.0, 100.0, "faithfulness"),
    "success_rate": Metric("success rate", "share", "higher", 0.0, 1.0, "behaviour"),
    "stopped": percent("stopped by EOS", "higher", "behaviour"),
    "empty": percent("empty outputs", "lower", "behaviour"),
    "echo": percent("prompt echoes", "lower", "behaviour"),
    "distinct_2": percent("distinct 2-grams of an output", "higher", "behaviour"),
    "repeated_trigram": percent("outputs that repeat a 3-gram", "lower", "behaviour"),
    "words": Metric("length", "words", "none", 0.0, None, "behaviour"),
    "length_ratio": Metric("length against the reference's", "ratio", "none", 0.0, None, "behaviour"),
}
QUALITY = tuple(name for name, metric in METRICS.items() if metric.kind == "quality")
# Of which differences are tested. A failed output scores 0 in all of them.
TESTED = (*QUALITY, "entailment")


@dataclass
class Scores:
    """The scores of one system on one test set. A metric that is missing was not computed.

    ids: of the articles. columns: scores [articles] by metric, NaN where undefined. corpus: whole-number
    statistics [articles, k] by corpus metric. signatures: by metric. groups: the cluster of each article; by
    default each article is its own.
    """

    ids: list[str]
    columns: dict[str, NDArray[np.float64]]
    corpus: dict[str, NDArray[np.int64]]
    signatures: dict[str, str]
    groups: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.groups = self.groups or self.ids

    @property
    def sample(self) -> Sample:
        """The clusters of the articles, for resampling."""
        return Sample.of(self.groups)

    def metrics(self, kinds: tuple[str, ...] = KINDS) -> list[str]:
        """Names of the metrics that were computed, in the order of METRICS."""
        computed = {**self.columns, **self.corpus}
        return [name for name, metric in METRICS.items() if name in computed and metric.kind in kinds]

    def statistics(self, name: str) -> NDArray[np.int64]:
        """Statistics [articles, k] of a metric; `aggregate(name)` turns their sum into the score."""
        return self.corpus[name] if name in CORPUS else mean_statistics(self.columns[name])


def aggregate(name: str) -> Aggregate:
    """Return the function that turns a metric's summed statistics into its score."""
    return CORPUS[name][1] if name in CORPUS else mean_of


def scores_file(system: str) -> Path:
    """Return the file in which the stage `score` writes a system of the pipeline."""
    # Baselines are known before training. Their own folder saves a training variant from scoring them again.
    return SCORES / ("tuned" if system == "tuned" else "baselines") / f"{system}.parquet"


def test_hash(ids: list[str], references: list[str]) -> str:
    """Return the hash of the test set: its ids and references, in order."""
    text = json.dumps(list(zip(ids, references, strict=True)), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def unit_of(data: Data) -> str:
    """Return the unit of resampling, as signatures name it. data: `source` and `group_column` are read.

    Docstrings are resampled by source file, since they are split by file. Other data are resampled by the
    column of clusters, or by row if there is none.
    """
    return "file" if data.source == "docstrings" else data.group_column or ROW


def signature(name: str, options: str, n: int, test: str, unit: str = ROW) -> str:
    """Return a metric's signature: metric|option:value|...|n:articles|unit:of resampling|test:hash.

    test: from `test_hash`.
    """
    return f"{name}|{options}|n:{n}|unit:{unit}|test:{test}"


def require_equal_signatures(left: str, right: str, left_name: str, right_name: str) -> None:
    """Raise a UserError that names every field in which two signatures differ."""
    if left == right:
        return
    fields = []
    for text in (left, right):
        parts = (part.partition(":") for part in text.split("|")[1:])
        fields.append({"metric": text.split("|")[0], **{key: value or "yes" for key, _, value in parts}})
    names = [key for key in {**fields[0], **fields[1]} if fields[0].get(key) != fields[1].get(key)]
    labels = {
        "n": "number of articles",
        "unit": "unit of resampling",
        "test": "test set (ids and references)",
    }
    differences = ", ".join(
        f"{labels.get(key, key)} is {fields[0].get(key, 'missing')} in {left_name} and "
        f"{fields[1].get(key, 'missing')} in {right_name}"
        for key in names
    )
    raise UserError(
        f"{fields[0]['metric']}: these scores cannot be compared: {differences}; "
        "score both on the same articles with the same settings"
    )


def require_comparable(left: Scores, right: Scores, left_name: str, right_name: str) -> list[str]:
    """Return the metrics that both systems have. Raises UserError if one was computed in two ways."""
    shared = [name for name in left.metrics() if name in right.metrics()]
    if not shared:
        raise UserError(
            f"{left_name} and {right_name} have no metric in common; score both with the same settings"
        )
    for name in shared:
        require_equal_signatures(left.signatures[name], right.signatures[name], left_name, right_name)
    if left.ids != right.ids:
        raise UserError(
            f"{left_name} and {right_name} list the same articles in different orders; score both "
            "in the same order"
        )
    if left.groups != right.groups:
        raise UserError(
            f"{left_name} and {right_name} put the same articles into different clusters; score both with "
            "the same groups"
        )
    return shared


def write_scores(path: Path, scores: Scores, more: dict[str, pa.Array]) -> None:
    """Write one row per id: its group, the `more` columns, every score, the statistics of corpus metrics."""
    columns = {"id": pa.array(scores.ids, pa.string()), "group": pa.array(scores.groups, pa.string()), **more}
    for name, values in scores.columns.items():
        columns[name] = pa.array(np.round(values, SCORE_DECIMALS), pa.float64(), from_pandas=True)
    for name, statistics in scores.corpus.items():
        columns[f"{name}_statistics"] = pa.array(statistics.tolist(), pa.list_(pa.int32()))
    write_parquet(path, columns, {"signatures": json.dumps(scores.signatures)})


def read_scores(path: Path) -> Scores:
    """Read what `write_scores` wrote. Raises UserError if the file is missing or is another kind of file."""
    if not path.is_file():
        raise UserError(f"{path}: not found; run `dvc repro`, or name a file in data/scores")
    recorded.require(path)
    try:
        with pq.ParquetFile(path) as file:
            require_expandable(path, file.metadata)
            table = file.read()
        signatures = json.loads(table.schema.metadata[b"signatures"])
        ids = table["id"].to_pylist()
        # Older code resampled rows: its files have no groups, and its signatures name no unit.
        groups = table["group"].to_pylist() if "group" in table.column_names else ids
    except (pa.ArrowException, OSError, TypeError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not a file of scores; expected one that the stage `score` wrote") from error
    try:
        columns = {
            name: table[name].to_numpy().astype(np.float64)
            for name in METRICS
            if name in table.column_names and name not in CORPUS
        }
        corpus = {
            name: np.array(table[f"{name}_statistics"].to_pylist(), dtype=np.int64)
            for name in CORPUS
            if f"{name}_statistics" in table.column_names
        }
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: holds scores that are no numbers; score the outputs again") from error
    scores = Scores(ids, columns, corpus, signatures, groups)
    _check_scores(path, scores)
    return scores


def _check_scores(path: Path, scores: Scores) -> None:
    """Refuse stored scores without rows, with ids or groups that are no texts, or without signatures."""
    texts = all(isinstance(name, str) for name in (*scores.ids, *scores.groups))
    if not scores.ids or not texts or len(set(scores.ids)) < len(scores.ids):
        raise UserError(f"{path}: expected a distinct id and a group in each row; score the outputs again")
    signed = isinstance(scores.signatures, dict) and all(
        isinstance(scores.signatures.get(name), str) for name in (*scores.columns, *scores.corpus)
    )
    if not signed:
        raise UserError(f"{path}: a score has no signature; score the outputs again")
