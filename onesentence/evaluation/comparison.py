"""From scores to numbers: intervals of every system, and what their differences are worth."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onesentence.core.errors import UserError
from onesentence.core.files import write_json
from onesentence.evaluation import metrics
from onesentence.evaluation.metric import KINDS
from onesentence.evaluation.metrics import METRICS, QUALITY, ROW, Scores
from onesentence.evaluation.resampling import (
    BOOTSTRAP,
    FEW,
    SUBSETS,
    Sample,
    design_effect,
    holm,
    mean_of,
    paired_difference,
    score_of,
    wilson_interval,
)

Sums = dict[str, dict[str, NDArray[np.float64]]]  # [resamples, k] by system and metric, of `resampled`
ONE_LINE = 3  # depth in the JSON from which a score stands on one line


def sample_of(scores: dict[str, Scores]) -> Sample:
    """The clusters of the articles, which all systems share."""
    return next(iter(scores.values())).sample


def described_sample(scores: dict[str, Scores]) -> dict[str, Any]:
    """What metrics/evaluation.json says of the resampling: unit, clusters (effective: as many of equal size
    that would tell as much), articles of the largest, and what intervals are percentiles of.
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
    """What few clusters mean for the intervals, or None where there are enough."""
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
            f"{sample.count} articles are few: a bootstrap interval of fewer than {FEW} covers the true "
            "score less often than it says; use more articles"
        )
    equal = f", which tell as much as {sample.effective:.1f} of equal size"
    return (
        f"{sample.count} clusters (unit: {unit}) are few{equal if sample.effective < sample.count else ''}: "
        "intervals are percentiles of random subsets of clusters, which hold for few; where a score has no "
        "interval, there are too few for any. More clusters tell more than more articles of each"
    )


def resampled(scores: dict[str, Scores], resamples: int) -> Sums:
    """Sums [resamples, k] by system and metric: one draw of clusters of articles for all of them."""
    keys = [(name, metric) for name, found in scores.items() for metric in found.metrics()]
    statistics = [scores[name].statistics(metric) for name, metric in keys]
    edges = np.cumsum([0] + [part.shape[1] for part in statistics])
    sums = sample_of(scores).draws(np.concatenate(statistics, axis=1), resamples)
    found: Sums = {name: {} for name in scores}
    for (name, metric), (start, end) in zip(keys, pairwise(edges), strict=True):
        found[name][metric] = sums[:, start:end]
    return found


def summaries(
    scores: dict[str, Scores], sums: Sums, confidence: float
) -> dict[str, dict[str, dict[str, Any]]]:
    """Value and intervals of every metric by system. The success rate's interval is Wilson's."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    sample = sample_of(scores)
    for name, system in scores.items():
        found[name] = {
            metric: score_of(
                system.statistics(metric), metrics.aggregate(metric), sums[name][metric], confidence, sample
            )
            for metric in system.metrics()
        }
        if "success_rate" in system.columns:
            rate = system.columns["success_rate"]
            low, high = None, None
            if sample.single or not sample.too_few_for(confidence):
                effective = effective_articles(system.statistics("success_rate"), sample)
                df = sample.effective - 1 if sample.few else np.inf
                low, high = wilson_interval(float(rate.mean()) * effective, effective, confidence, df)
            found[name]["success_rate"] = {"value": float(rate.mean()), "low": low, "high": high}
    return found


def effective_articles(statistics: np.ndarray, sample: Sample) -> float:
    """As many articles drawn one by one as would tell as much of a share: n over the design effect, which is
    not taken below 1. Where all articles have one value their likeness shows nowhere, and those of a cluster
    may be as alike as can be: the effective clusters count.
    """
    effect = design_effect(statistics, mean_of, sample)
    return sample.effective if effect is None else len(statistics) / max(1.0, effect)


def comparisons(
    scores: dict[str, Scores], pairs: list[tuple[str, str]], sums: Sums, resamples: int, confidence: float
) -> dict[str, dict[str, dict[str, Any]]]:
    """left - right of every quality metric by "left-right". p_holm: Holm's p over the whole family, every
    pair and metric that stands here, from p_randomization."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    sample = sample_of(scores)
    for left, right in pairs:
        shared = metrics.require_comparable(scores[left], scores[right], left, right)
        names = [name for name in shared if name in QUALITY]
        if not names:
            raise UserError(f"{left} and {right} have no quality metric in common; there is nothing to test")
        parts = [(scores[left].statistics(name), scores[right].statistics(name)) for name in names]
        edges = np.cumsum([0] + [part[0].shape[1] for part in parts])
        lefts, rights = (np.concatenate(side, axis=1) for side in zip(*parts, strict=True))
        swapped = sample.exchanges(lefts, rights, resamples)
        found[f"{left}-{right}"] = {
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
    entries = [entry for pair in found.values() for entry in pair.values()]
    for entry, p in zip(entries, holm([entry["p_randomization"] for entry in entries]), strict=True):
        entry["p_holm"] = p
    return found


def definitions(scores: dict[str, Scores]) -> dict[str, dict[str, dict[str, Any]]]:
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


def write_evaluation(path: Path, found: dict[str, Any]) -> None:
    """Write an evaluation so that a changed score is one changed line."""
    write_json(path, found, one_line_below=ONE_LINE)


def failure_bias(
    succeeded: NDArray[np.bool_], lengths: np.ndarray, sample: Sample | None = None
) -> dict[str, Any]:
    """Whether failures lean to long articles: Mann and Whitney's rank test of length, failed against ok.

    succeeded, lengths: [articles]; sample: None where every article was drawn by itself.
    longer: probability that a failed article is longer than one that did not fail (0.5: no lean). p: of the
    rank test; of clusters, of Student's t with the jackknife's error of `longer` (Obuchowski 1997 for
    clustered ranks). Null where all or none failed: there is nothing to compare.
    """
    from scipy.stats import mannwhitneyu
    from scipy.stats import t as student

    sample = sample or Sample.independent(len(lengths))
    failed = ~succeeded
    found: dict[str, Any] = {
        "failed": int(failed.sum()),
        **dict.fromkeys(("median_words_failed", "median_words_ok", "longer", "p")),
    }
    if not (failed.any() and succeeded.any()):
        return found

    def longer(kept: NDArray[np.bool_]) -> float:
        bad, good = lengths[kept & failed], lengths[kept & succeeded]
        return (
            float(mannwhitneyu(bad, good).statistic / (len(bad) * len(good)))
            if len(bad) * len(good)
            else np.nan
        )

    every = np.ones(len(lengths), dtype=bool)
    found["median_words_failed"] = float(np.median(lengths[failed]))
    found["median_words_ok"] = float(np.median(lengths[succeeded]))
    found["longer"] = longer(every)
    if sample.single:
        test = mannwhitneyu(lengths[failed], lengths[succeeded], alternative="two-sided")
        found["p"] = float(test.pvalue)
    elif sample.count > 1:
        without = np.array([longer(sample.clusters != cluster) for cluster in range(sample.count)])
        influence = (found["longer"] - without) * np.sqrt(1 - sample.sizes / len(lengths))
        error = np.sqrt((influence**2).sum())
        # NaN: every failure, or every success, lies in one cluster, and nothing is known of another.
        if np.isfinite(error) and error > 0:
            far = abs(found["longer"] - 0.5) / error
            # The error comes from the clusters that hold a failure, or those that hold a success.
            sides = (sample.subset(np.flatnonzero(side)).effective for side in (failed, succeeded))
            found["p"] = float(2 * student.sf(far, max(1.0, min(sides) - 1)))
    return found


ROUNDING = 1e-9  # a float's 1 - 0.9 is 0.09999999999999998, and a p of 0.1 is at most that


def is_real(entry: dict[str, Any], confidence: float) -> bool:
    """Whether a difference holds after Holm's correction: p is at most 1 - confidence."""
    return entry["p_holm"] is not None and entry["p_holm"] <= 1 - confidence + ROUNDING
