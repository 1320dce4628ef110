"""Where a system is good and where it fails: groups of articles, and the outputs that people read."""

import numpy as np

from onesentence.evaluation.statistics import Sample, difference_of, summary_of

LENGTH_GROUPS = 5  # of equally many articles
NOVELTY_GROUPS = 4
SHOWN = 50  # outputs of each kind on the page
READ_SEED = 0  # of the outputs that are shown at random and rated


def quantile_groups(values: np.ndarray, count: int, form: str) -> list[tuple[str, np.ndarray]]:
    """(label "low to high", indices) of up to `count` groups of equally many, smallest values first.

    values [articles]; NaN is left out; form: how a value is written in the label.
    """
    there = np.flatnonzero(~np.isnan(values))
    order = there[np.argsort(values[there], kind="stable")]
    groups = [group for group in np.array_split(order, count) if len(group)]
    return [(f"{values[g[0]]:{form}} to {values[g[-1]]:{form}}", g) for g in groups]


def labelled_groups(labels: list[str]) -> list[tuple[str, np.ndarray]]:
    """(label, indices) of every distinct label, in alphabetical order."""
    names = np.array(labels)
    return [(name, np.flatnonzero(names == name)) for name in sorted(set(labels))]


def facets(
    lengths: np.ndarray, cut: np.ndarray, novelty: np.ndarray, statuses: list[str]
) -> dict[str, tuple[str, list[tuple[str, np.ndarray]]]]:
    """(title, groups) by facet: document length (words), cut or not, novel 2-grams of the reference (%),
    what became of the fine-tuned model's output."""
    return {
        "length": ("document length (words)", quantile_groups(lengths, LENGTH_GROUPS, ".0f")),
        "cut": (
            "article cut to fit the prompt",
            labelled_groups(["cut" if tokens else "whole" for tokens in cut]),
        ),
        "novelty": (
            "novel 2-grams of the reference (%)",
            quantile_groups(novelty, NOVELTY_GROUPS, ".0f"),
        ),
        "status": ("output, fine-tuned", labelled_groups(statuses)),
    }


def group_rows(
    groups: list[tuple[str, np.ndarray]],
    scores: dict[str, np.ndarray],
    succeeded: dict[str, np.ndarray],
    resamples: int,
    confidence: float,
    sample: Sample,
) -> list[dict]:
    """A row for each group: n, each system's score with interval and success rate (%), tuned - lead.

    scores, succeeded: [articles] by system; sample: the clusters of all articles.
    """
    found = []
    for label, group in groups:
        row: dict = {"group": label, "n": len(group)}
        part = sample.subset(group)
        for name, values in scores.items():
            row[name] = summary_of(values[group], resamples, confidence, part)
            row[f"{name}_success"] = float(100 * succeeded[name][group].mean())
        row["gain"] = difference_of(
            scores["tuned"][group], scores["lead"][group], resamples, confidence, part
        )
        found.append(row)
    return found


def chosen_articles(scores: np.ndarray) -> dict[str, list[int]]:
    """Indices of the articles to read: the SHOWN worst, average (nearest to the mean), best, and random."""
    count = min(SHOWN, len(scores))
    order = np.argsort(scores, kind="stable")
    nearest = np.argsort(np.abs(scores - scores.mean()), kind="stable")
    random = np.random.default_rng(READ_SEED).permutation(len(scores))
    return {
        "worst": order[:count].tolist(),
        "average": nearest[:count].tolist(),
        "best": order[::-1][:count].tolist(),
        "random": sorted(random[:count].tolist()),
    }
