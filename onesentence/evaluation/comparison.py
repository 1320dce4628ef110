"""Compare systems by their scores: an interval for every score, a paired test for every difference."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onesentence.core.errors import UserError
from onesentence.core.files import write_json
from onesentence.evaluation import metrics
from onesentence.evaluation.metric import KINDS
from onesentence.evaluation.metrics import METRICS, ROW, TESTED, Scores
from onesentence.evaluation.resampling import (
    BOOTSTRAP,
    FEW,
    SUBSETS,
    Sample,
    design_effect,
    holm,
    mean_of,
    mean_statistics,
    paired_difference,
    score_of,
    wilson_interval,
)

Sums = dict[str, dict[str, NDArray[np.float64]]]  # from `resampled`: [resamples, k] by system and metric
ONE_LINE = 3  # depth in the JSON from which an entry is written on one line


def sample_of(scores: dict[str, Scores]) -> Sample:
    """Return the clusters of the articles, which all systems share."""
    return next(iter(scores.values())).sample


def described_sample(scores: dict[str, Scores]) -> dict[str, Any]:
    """Return the `resampling` entry of metrics/evaluation.json.

    unit: what a cluster is. clusters: their number. effective_clusters: the number of equal clusters that
    carry as much information. largest_cluster: its articles. interval: what ends of intervals are percentiles
    of.
    """
    sample, system = sample_of(scores), next(iter(scores.values()))
    signature = next(iter(system.signatures.values()))
    units = [field for field in signature.split("|") if field.startswith("unit:")]
    unit = units[0].removeprefix("unit:") if units else ROW
    return {
        "unit": unit,
        "clusters": sample.count,
        "effective_clusters": sample.effective,
        "largest_cluster": int(sample.sizes.max()),
        "interval": SUBSETS if sample.few else BOOTSTRAP,
    }


def cluster_warning(sample: Sample, unit: str) -> str | None:
    """Return what few clusters mean for the intervals; None if there are enough."""
    if sample.effective >= FEW:
        return None
    if sample.count == 1:
        n = len(sample.clusters)
        where = (
            "one article is" if n == 1 else f"all {n:,} articles are in one cluster (unit: {unit}), which is"
        )
        return f"{where} too few for any interval; use articles of several clusters"
    if sample.single:
        return (
            f"{sample.count} articles are few: with fewer than {FEW}, a bootstrap interval covers the true "
            "score less often than its confidence; use more articles"
        )
    equal = f", equivalent to {sample.effective:.1f} of equal size"
    return (
        f"{sample.count} clusters (unit: {unit}) are few{equal if sample.effective < sample.count else ''}: "
        "intervals are percentiles of random subsets of clusters, which are valid for few clusters; a score "
        "without an interval has too few even for that; add clusters rather than articles of each"
    )


def resampled(scores: dict[str, Scores], resamples: int) -> Sums:
    """Return sums [resamples, k] by system and metric. All of them share the same draws of clusters."""
    keys = [(name, metric) for name, system in scores.items() for metric in system.metrics()]
    statistics = [scores[name].statistics(metric) for name, metric in keys]
    # One wide matrix, so that the clusters are drawn once and the product is computed once.
    edges = np.cumsum([0] + [part.shape[1] for part in statistics])
    sums = sample_of(scores).draws(np.concatenate(statistics, axis=1), resamples)
    split: Sums = {name: {} for name in scores}
    for (name, metric), (start, end) in zip(keys, pairwise(edges), strict=True):
        split[name][metric] = sums[:, start:end]
    return split


def summaries(
    scores: dict[str, Scores], sums: Sums, confidence: float
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the value and intervals of every metric by system."""
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    sample = sample_of(scores)
    for name, system in scores.items():
        summary[name] = {
            metric: score_of(
                system.statistics(metric), metrics.aggregate(metric), sums[name][metric], confidence, sample
            )
            for metric in system.metrics()
        }
        if "success_rate" in system.columns:
            rate = system.columns["success_rate"]
            ends = wilson_of(rate, 1.0, confidence, sample)
            summary[name]["success_rate"] = {"value": float(rate.mean()), **ends}
    return summary


def wilson_of(
    values: NDArray[np.float64], top: float, confidence: float, sample: Sample
) -> dict[str, float | None]:
    """Return Wilson's interval of a share as low and high; None if clusters are too few for one.

    values: [articles] from 0 to top, all defined. A few articles that were each drawn by themselves have one.
    """
    if sample.too_few_for(confidence) and not sample.single:
        return {"low": None, "high": None}
    effective = effective_articles(mean_statistics(values), sample)
    df = sample.effective - 1 if sample.few else np.inf
    low, high = wilson_interval(float(values.mean()) / top * effective, effective, confidence, df)
    return {"low": top * low, "high": top * high}


def effective_articles(statistics: np.ndarray, sample: Sample) -> float:
    """Return how many articles drawn one by one carry as much information about a share.

    That is n over the design effect, which counts as at least 1.
    """
    effect = design_effect(statistics, mean_of, sample)
    # Without an effect all articles have one value, so nothing shows how alike those of a cluster are. The
    # worst case is assumed: a cluster carries no more information than one article.
    return sample.effective if effect is None else len(statistics) / max(1.0, effect)


def comparisons(
    scores: dict[str, Scores], pairs: list[tuple[str, str]], sums: Sums, resamples: int, confidence: float
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return left - right of every metric that is tested (quality, entailment) by "left-right".

    p_holm: p_randomization after Holm's correction over all pairs and metrics that are returned.
    Raises UserError if two systems differ in articles or settings, or share no quality metric.
    """
    differences: dict[str, dict[str, dict[str, Any]]] = {}
    sample = sample_of(scores)
    for left, right in pairs:
        shared = metrics.require_comparable(scores[left], scores[right], left, right)
        names = [name for name in shared if name in TESTED]
        if not names:
            raise UserError(
                f"{left} and {right} have no quality metric in common; score both against the references"
            )
        parts = [(scores[left].statistics(name), scores[right].statistics(name)) for name in names]
        edges = np.cumsum([0] + [part[0].shape[1] for part in parts])
        lefts, rights = (np.concatenate(side, axis=1) for side in zip(*parts, strict=True))
        swapped = sample.exchanges(lefts, rights, resamples)
        differences[f"{left}-{right}"] = {
            name: paired_difference(
                *part,
                metrics.aggregate(name),
                (sums[left][name], sums[right][name]),
                (swapped[0][:, start:end], swapped[1][:, start:end]),
                confidence,
                sample,
            )
            for name, part, (start, end) in zip(names, parts, pairwise(edges), strict=True)
        }
    entries = [entry for pair in differences.values() for entry in pair.values()]
    for entry, p in zip(entries, holm([entry["p_randomization"] for entry in entries]), strict=True):
        entry["p_holm"] = p
    return differences


def definitions(scores: dict[str, Scores]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the declaration of every computed metric by kind: title, unit, direction, range, signature."""
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


def write_evaluation(path: Path, evaluation: dict[str, Any]) -> None:
    """Write an evaluation as JSON in which a changed score is one changed line."""
    write_json(path, evaluation, one_line_below=ONE_LINE)


def failure_bias(
    succeeded: NDArray[np.bool_], lengths: np.ndarray, sample: Sample | None = None
) -> dict[str, Any]:
    """Test whether outputs fail more often on long articles, by Mann and Whitney's rank test of length.

    succeeded, lengths: [articles]. sample: None if every article was drawn by itself.
    Returns failed: their number. median_words_failed, median_words_ok. longer: the probability that a failed
    article is longer than one that succeeded (0.5: no bias). p: from the rank test; with clusters, from
    Student's t with the jackknife's error of `longer` (Obuchowski 1997 for clustered ranks). All but `failed`
    are None if all or none failed.
    """
    from scipy.stats import mannwhitneyu
    from scipy.stats import t as student

    sample = sample or Sample.independent(len(lengths))
    failed = ~succeeded
    result: dict[str, Any] = {
        "failed": int(failed.sum()),
        **dict.fromkeys(("median_words_failed", "median_words_ok", "longer", "p")),
    }
    if not (failed.any() and succeeded.any()):
        return result

    def longer(chosen: NDArray[np.bool_]) -> float:
        bad, good = lengths[chosen & failed], lengths[chosen & succeeded]
        return (
            float(mannwhitneyu(bad, good).statistic / (len(bad) * len(good)))
            if len(bad) * len(good)
            else np.nan
        )

    every = np.ones(len(lengths), dtype=bool)
    result["median_words_failed"] = float(np.median(lengths[failed]))
    result["median_words_ok"] = float(np.median(lengths[succeeded]))
    result["longer"] = longer(every)
    if sample.single:
        test = mannwhitneyu(lengths[failed], lengths[succeeded], alternative="two-sided")
        result["p"] = float(test.pvalue)
    elif sample.count > 1:
        without = np.array([longer(sample.clusters != cluster) for cluster in range(sample.count)])
        influence = (result["longer"] - without) * np.sqrt(1 - sample.sizes / len(lengths))
        error = np.sqrt((influence**2).sum())
        # NaN: all failures, or all successes, are in one cluster. Without it there is nothing to compare.
        if np.isfinite(error) and error > 0:
            far = abs(result["longer"] - 0.5) / error
            # The error rests on the clusters with failures and on those with successes. The fewer limit it.
            sides = (sample.subset(np.flatnonzero(side)).effective for side in (failed, succeeded))
            result["p"] = float(2 * student.sf(far, max(1.0, min(sides) - 1)))
    return result


ROUNDING = 1e-9  # in floats 1 - 0.9 is 0.09999999999999998, and a p of 0.1 must count as at most that


def is_significant(entry: dict[str, Any], confidence: float) -> bool:
    """Return whether a difference is significant: its p after Holm's correction is at most 1 - confidence."""
    return entry["p_holm"] is not None and entry["p_holm"] <= 1 - confidence + ROUNDING
