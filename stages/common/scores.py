"""Scores of one output against its reference, and what an average of them is worth.

Intervals are percentile bootstraps over the articles (Efron 1979); differences are paired: both systems
are resampled by the same articles (Koehn 2004).
"""

import numpy as np

ROUGE = ("rouge1", "rouge2", "rougeL")
BOOTSTRAP_SEED = 0  # of the resampling alone; the same resamples for every system and metric
RESAMPLES_AT_ONCE = 100  # bounds memory: 100 x 11,334 indices of 8 bytes are 9 MB


def rouge_scores(references: list[str], predictions: list[str], succeeded: list[bool]) -> dict:
    """ROUGE F1 (0 to 100) of each output by metric, arrays [outputs]. A failure scores 0.

    rouge_score with its stemmer; it runs 0.0 to 0.4 below the Perl ROUGE-1.5.5 of published tables.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGE), use_stemmer=True)
    scores = {metric: np.zeros(len(references)) for metric in ROUGE}
    for i, (reference, prediction, ok) in enumerate(zip(references, predictions, succeeded, strict=True)):
        if ok:
            found = scorer.score(reference, prediction)
            for metric in ROUGE:
                scores[metric][i] = 100 * found[metric].fmeasure
    return scores


def resampled_means(values: np.ndarray, resamples: int) -> np.ndarray:
    """Means [resamples, columns] of `values` [articles, columns] over articles drawn with replacement.

    The draw depends on the number of articles and resamples alone, so that calls are paired.
    """
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    n = len(values)
    means = []
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        picks = rng.integers(0, n, size=(min(RESAMPLES_AT_ONCE, resamples - start), n))
        means.append(values[picks].mean(axis=1))
    return np.concatenate(means)


def interval(means: np.ndarray, confidence: float) -> tuple[float, float]:
    """Percentile interval of resampled means."""
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def summary_of(values: np.ndarray, resamples: int, confidence: float) -> dict[str, float]:
    """Mean of `values` [articles] with its interval."""
    low, high = interval(resampled_means(values[:, None], resamples)[:, 0], confidence)
    return {"mean": float(values.mean()), "low": low, "high": high}


def difference_of(left: np.ndarray, right: np.ndarray, resamples: int, confidence: float) -> dict[str, float]:
    """Mean of left - right [articles], with its paired interval and two-sided bootstrap p-value.

    p is twice the smaller share of resampled means on one side of 0, with one added to the count and to
    the number of resamples, so that it is never 0.
    """
    means = resampled_means((left - right)[:, None], resamples)[:, 0]
    low, high = interval(means, confidence)
    smaller = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return {
        "mean": float((left - right).mean()),
        "low": low,
        "high": high,
        "p": min(1.0, 2 * (smaller + 1) / (resamples + 1)),
    }
