"""Compute every metric of every article from the outputs, and sign the scores."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onesentence.core.journal import Journal
from onesentence.core.params import Evaluate
from onesentence.core.text import WORD_SIGNATURE
from onesentence.evaluation import metrics
from onesentence.evaluation.bertscore import BertScore
from onesentence.evaluation.entailment import Entailment
from onesentence.evaluation.extraction import Article, extraction_scores, form_scores
from onesentence.evaluation.metrics import ROW, Scores
from onesentence.evaluation.overlap.workers import overlap_scores, overlap_signatures

TEXT_SIGNATURE = WORD_SIGNATURE


def columns_of(rows: list[dict[str, float | None]]) -> dict[str, NDArray[np.float64]]:
    """Return columns [rows] of scores by name; None becomes NaN."""
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}


def describe(
    texts: list[str], references: list[str], documents: list[Article] | None
) -> dict[str, NDArray[np.float64]]:
    """Return the columns that do not judge quality: length, repetition, copying, numbers and names."""
    columns = columns_of([form_scores(t, r) for t, r in zip(texts, references, strict=True)])
    if documents is not None:
        rows = [extraction_scores(d, t) for d, t in zip(documents, texts, strict=True)]
        columns |= columns_of(rows)
    return columns


def behaviour_of(rows: list[dict[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """Return the columns that only generation knows, in %: stopped by EOS, prompt echo."""
    return {
        "stopped": np.array([100.0 * row["stopped"] for row in rows]),
        "echo": np.array([100.0 * (row["status"] == "echo") for row in rows]),
    }


def score_systems(  # noqa: PLR0913 (columns of one table, and what to compute of them)
    ids: list[str],
    references: list[str],
    outputs: dict[str, list[str]],
    succeeded: dict[str, list[bool]],
    documents: list[Article] | None,
    settings: Evaluate,
    bertscore: bool,
    behaviour: dict[str, dict[str, NDArray[np.float64]]],
    groups: list[str] | None = None,
    unit: str = ROW,
    more: tuple[str, ...] = (),
    judge: Entailment | None = None,
    journal: Journal | None = None,
) -> dict[str, Scores]:
    """Return the scores of every system on the same articles. A failed or empty output has a quality of 0.

    bertscore: whether to compute it (minutes for thousands of articles). behaviour: further columns by
    system, known only to its generation. groups: the cluster of each article (None: itself). unit: what a
    cluster is. more: names of optional metrics. judge: of entailment by the documents; None leaves it out.
    journal: of articles that a model has scored, for a run that may be stopped.
    """
    # A failure counts as an empty text here. If it were left out, failing on hard articles would pay.
    judged = {
        name: [text if ok and text.strip() else "" for text, ok in zip(texts, succeeded[name], strict=True)]
        for name, texts in outputs.items()
    }
    options = overlap_signatures(settings.language, settings.meteor_synonyms, more)
    embedded: dict[str, NDArray[np.float64]] = {}
    if bertscore:
        scorer = BertScore(settings)
        embedded = scorer.scores(references, judged, journal)
        options["bertscore"] = scorer.signature
    entailed = {} if judge is None or documents is None else judge.scores(documents, judged, journal)
    if judge:
        options["entailment"] = judge.signature
    test = metrics.test_hash(ids, references)
    scores: dict[str, Scores] = {}
    for name, texts in outputs.items():
        columns, corpus = overlap_scores(
            references, judged[name], settings.language, settings.meteor_synonyms, more=more
        )
        if bertscore:
            columns["bertscore"] = embedded[name]
        # Descriptions are of what was written, failed or not.
        columns |= describe(texts, references, documents)
        if name in entailed:
            columns["entailment"] = entailed[name]
        columns["success_rate"] = np.array([float(text != "") for text in judged[name]])
        columns["empty"] = np.array([100.0 * (not text.strip()) for text in texts])
        columns |= behaviour.get(name, {})
        scores[name] = signed(Scores(ids, columns, corpus, {}, groups or ids), options, test, unit)
    return scores


def signed(scores: Scores, options: dict[str, str], test: str, unit: str = ROW) -> Scores:
    """Return `scores` with a signature for each metric. options: the libraries' settings by metric."""
    for name in scores.metrics():
        used = options.get(name, TEXT_SIGNATURE)
        scores.signatures[name] = metrics.signature(name, used, len(scores.ids), test, unit)
    return scores


def score_references(
    ids: list[str],
    references: list[str],
    documents: list[Article],
    groups: list[str] | None = None,
    unit: str = ROW,
    judge: Entailment | None = None,
    journal: Journal | None = None,
) -> Scores:
    """Return the scores of the references as texts: how abstractive, how long, how well supported."""
    columns, options = describe(references, references, documents), {}
    if judge:
        columns |= {"entailment": judge.scores(documents, {"": references}, journal)[""]}
        options["entailment"] = judge.signature
    test = metrics.test_hash(ids, references)
    return signed(Scores(ids, columns, {}, {}, groups or ids), options, test, unit)
