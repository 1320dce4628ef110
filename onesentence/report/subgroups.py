"""Where a system is good and where it fails: groups of articles, and the outputs that people read."""

from pathlib import Path

import numpy as np

from onesentence.core.plots import write_csv
from onesentence.evaluation.metrics import HEADLINE
from onesentence.evaluation.resampling import Sample, difference_of, summary_of
from onesentence.report.tables import SYSTEMS

LENGTH_GROUPS = 5  # of equally many articles
NOVELTY_GROUPS = 4
OUTPUTS_OF_A_KIND = 50  # outputs of each kind on the page
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


def grouped(
    tables: dict, resamples: int, confidence: float
) -> tuple[dict[str, tuple[str, list[dict]]], dict[str, list[str]]]:
    """(title and rows of `group_rows` by facet, each article's group by facet).

    tables: scores (pyarrow) of the systems and of "reference".
    """
    lengths = tables["reference"]["document_words"].to_numpy().astype(float)
    found = facets(
        lengths,
        tables["tuned"]["document_tokens_cut"].to_numpy(),
        tables["reference"]["novel_2"].to_numpy(),
        tables["tuned"]["status"].to_pylist(),
    )
    scores = {name: tables[name][HEADLINE].to_numpy() for name in SYSTEMS}
    succeeded = {name: tables[name]["success_rate"].to_numpy() for name in SYSTEMS}
    sample = Sample.of(tables["reference"]["group"].to_pylist())
    groups, labels = {}, {}
    for facet, (title, members) in found.items():
        groups[facet] = (title, group_rows(members, scores, succeeded, resamples, confidence, sample))
        labels[facet] = [""] * len(lengths)
        for label, group in members:
            for i in group:
                labels[facet][i] = label
    return groups, labels


def chosen_articles(scores: np.ndarray) -> dict[str, list[int]]:
    """Indices of the articles to read, OUTPUTS_OF_A_KIND each: worst, nearest to the mean, best, random."""
    count = min(OUTPUTS_OF_A_KIND, len(scores))
    order = np.argsort(scores, kind="stable")
    nearest = np.argsort(np.abs(scores - scores.mean()), kind="stable")
    random = np.random.default_rng(READ_SEED).permutation(len(scores))
    return {
        "worst": order[:count].tolist(),
        "average": nearest[:count].tolist(),
        "best": order[::-1][:count].tolist(),
        "random": sorted(random[:count].tolist()),
    }


def write_groups(groups: dict[str, tuple[str, list[dict]]], path: Path) -> None:
    """The error analysis as numbers. groups: as `grouped` has them."""
    header = ["facet", "group", "n"]
    for name in SYSTEMS:
        header += [f"{name}_rouge1", f"{name}_low", f"{name}_high", f"{name}_success_percent"]
    header += ["tuned_minus_lead", "tuned_minus_lead_low", "tuned_minus_lead_high"]
    ends = ("value", "low", "high")
    rows = []
    for facet, (_, found) in groups.items():
        for row in found:
            cells = [facet, row["group"], row["n"]]
            for name in SYSTEMS:
                cells += [*(row[name][key] for key in ends), row[f"{name}_success"]]
            rows.append([*cells, *(row["gain"][key] for key in ends)])
    write_csv(path, header, rows)
