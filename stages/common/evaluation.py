"""From outputs to numbers: scores of every system, their intervals, and what the differences are worth."""

from itertools import pairwise
from pathlib import Path

import numpy as np

from stages.common import metrics
from stages.common.article import Article, extraction_scores, form_scores
from stages.common.bertscore import BertScore
from stages.common.errors import UserError
from stages.common.files import write_json
from stages.common.metrics import KINDS, METRICS, QUALITY, Scores
from stages.common.overlap import overlap_scores, overlap_signatures
from stages.common.statistics import (
    holm,
    paired_difference,
    resampled_sums,
    score_of,
    swapped_sums,
    wilson_interval,
)
from stages.common.text import WORD_SIGNATURE

ONE_LINE = 3  # depth in the JSON from which a score stands on one line
TEXT_SIGNATURE = WORD_SIGNATURE


def columns_of(rows: list[dict[str, float | None]]) -> dict[str, np.ndarray]:
    """Columns [rows] of scores by name; None becomes NaN."""
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}


def describe(texts: list[str], references: list[str], documents: list[Article] | None) -> dict:
    """Columns of what needs no reference to be right: length, repetition, copying, numbers and names."""
    found = columns_of([form_scores(t, r) for t, r in zip(texts, references, strict=True)])
    if documents is not None:
        rows = [extraction_scores(d, t) for d, t in zip(documents, texts, strict=True)]
        found |= columns_of(rows)
    return found


def score_systems(
    ids: list[str],
    references: list[str],
    outputs: dict[str, list[str]],
    succeeded: dict[str, list[bool]],
    documents: list[Article] | None,
    settings,
    bertscore: bool,
    behaviour: dict[str, dict[str, np.ndarray]],
) -> dict[str, Scores]:
    """Scores of every system on the same articles. A failed or empty output scores 0 in every quality metric.

    settings: params.yaml's `evaluate` section; bertscore: whether to compute it (minutes for thousands);
    behaviour: more columns by system, of what only its generation knows.
    """
    counted = {
        name: [text if ok and text.strip() else "" for text, ok in zip(texts, succeeded[name], strict=True)]
        for name, texts in outputs.items()
    }
    options = overlap_signatures(settings.language, settings.meteor_synonyms)
    embedded = {}
    if bertscore:
        scorer = BertScore(settings)
        embedded = scorer.scores(references, counted)
        options["bertscore"] = scorer.signature
    test = metrics.test_hash(ids, references)
    found = {}
    for name, texts in outputs.items():
        columns, bleu, chrf = overlap_scores(
            references, counted[name], settings.language, settings.meteor_synonyms
        )
        if bertscore:
            columns["bertscore"] = embedded[name]
        columns |= describe(texts, references, documents)
        columns["success_rate"] = np.array([float(text != "") for text in counted[name]])
        columns["empty"] = np.array([100.0 * (not text.strip()) for text in texts])
        columns |= behaviour.get(name, {})
        found[name] = signed(Scores(ids, columns, {"bleu": bleu, "chrf": chrf}, {}), options, test)
    return found


def signed(scores: Scores, options: dict[str, str], test: str) -> Scores:
    """`scores` with the signatures of its metrics; options: by metric, those of libraries."""
    for name in scores.metrics():
        used = options.get(name, TEXT_SIGNATURE)
        scores.signatures[name] = metrics.signature(name, used, len(scores.ids), test)
    return scores


def score_references(ids: list[str], references: list[str], documents: list[Article]) -> Scores:
    """What the references themselves are like: how abstractive, how long, how well supported."""
    columns = describe(references, references, documents)
    return signed(Scores(ids, columns, {}, {}), {}, metrics.test_hash(ids, references))


def resampled(scores: dict[str, Scores], resamples: int) -> dict[str, dict[str, np.ndarray]]:
    """Sums [resamples, k] by system and metric: one draw of articles for all of them."""
    keys = [(name, metric) for name, found in scores.items() for metric in found.metrics()]
    statistics = [scores[name].statistics(metric) for name, metric in keys]
    edges = np.cumsum([0] + [part.shape[1] for part in statistics])
    sums = resampled_sums(np.concatenate(statistics, axis=1), resamples)
    found: dict[str, dict[str, np.ndarray]] = {name: {} for name in scores}
    for (name, metric), (start, end) in zip(keys, pairwise(edges), strict=True):
        found[name][metric] = sums[:, start:end]
    return found


def summaries(scores: dict[str, Scores], sums: dict, confidence: float) -> dict[str, dict[str, dict]]:
    """Value and intervals of every metric by system. The success rate's interval is Wilson's."""
    found: dict[str, dict[str, dict]] = {}
    for name, system in scores.items():
        found[name] = {}
        for metric in system.metrics():
            found[name][metric] = score_of(
                system.statistics(metric), metrics.aggregate(metric), sums[name][metric], confidence
            )
        if "success_rate" in system.columns:
            rate = system.columns["success_rate"]
            low, high = wilson_interval(int(rate.sum()), len(rate), confidence)
            found[name]["success_rate"] = {"value": float(rate.mean()), "low": low, "high": high}
    return found


def comparisons(
    scores: dict[str, Scores], pairs: list[tuple[str, str]], sums: dict, resamples: int, confidence: float
) -> dict[str, dict[str, dict]]:
    """left - right of every quality metric by "left-right". p_holm: Holm's p over the whole family, every
    pair and metric that stands here, from p_randomization."""
    found: dict[str, dict[str, dict]] = {}
    for left, right in pairs:
        shared = metrics.require_comparable(scores[left], scores[right], left, right)
        names = [name for name in shared if name in QUALITY]
        if not names:
            raise UserError(f"{left} and {right} have no quality metric in common; there is nothing to test")
        parts = [(scores[left].statistics(name), scores[right].statistics(name)) for name in names]
        edges = np.cumsum([0] + [part[0].shape[1] for part in parts])
        swapped = swapped_sums(
            *(np.concatenate(side, axis=1) for side in zip(*parts, strict=True)), resamples
        )
        found[f"{left}-{right}"] = {
            name: paired_difference(
                *part,
                metrics.aggregate(name),
                (sums[left][name], sums[right][name]),
                (swapped[0][:, start:end], swapped[1][:, start:end]),
                confidence,
            )
            for name, part, (start, end) in zip(names, parts, pairwise(edges), strict=True)
        }
    entries = [entry for pair in found.values() for entry in pair.values()]
    for entry, p in zip(entries, holm([entry["p_randomization"] for entry in entries]), strict=True):
        entry["p_holm"] = p
    return found


def definitions(scores: dict[str, Scores]) -> dict[str, dict[str, dict]]:
    """What is declared of every metric that was scored, by kind: title, unit, direction, range, signature."""
    signatures: dict[str, str] = {}
    for system in scores.values():
        for metric in system.metrics():
            signatures.setdefault(metric, system.signatures[metric])
    return {
        kind: {
            name: {
                "title": metric.title,
                "unit": metric.unit,
                "direction": metric.direction,
                "range": [metric.low, metric.high],
                "signature": signatures[name],
            }
            for name, metric in METRICS.items()
            if metric.kind == kind and name in signatures
        }
        for kind in KINDS
    }


def write_evaluation(path: Path, found: dict) -> None:
    """Write an evaluation so that a changed score is one changed line."""
    write_json(path, found, one_line_below=ONE_LINE)


def failure_bias(succeeded: np.ndarray, lengths: np.ndarray) -> dict:
    """Whether failures lean to long articles: Mann and Whitney's rank test of length, failed against ok.

    longer: probability that a failed article is longer than one that did not fail (0.5: no lean). Null where
    all or none failed: there is nothing to compare.
    """
    from scipy.stats import mannwhitneyu

    failed = ~succeeded
    found = {"failed": int(failed.sum()), "median_words_failed": None, "median_words_ok": None}
    found |= {"longer": None, "p": None}
    if failed.any() and succeeded.any():
        test = mannwhitneyu(lengths[failed], lengths[succeeded], alternative="two-sided")
        found["median_words_failed"] = float(np.median(lengths[failed]))
        found["median_words_ok"] = float(np.median(lengths[succeeded]))
        found["longer"] = float(test.statistic / (failed.sum() * succeeded.sum()))
        found["p"] = float(test.pvalue)
    return found
