"""The error analysis: scores by group of articles, and the choice of outputs that people read."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onesentence.core.plots import write_csv
from onesentence.evaluation.metrics import HEADLINE
from onesentence.evaluation.resampling import Sample, difference_of, summary_of
from onesentence.report.tables import SYSTEMS

LENGTH_GROUPS = 5  # groups by document length, of equal size (give or take one article)
NOVELTY_GROUPS = 4  # groups by novelty of the reference, of equal size
OUTPUTS_OF_A_KIND = 50  # worst, average, best and random outputs on the page
READ_SEED = 0  # of the random outputs, which are the ones that people rate

Members = list[tuple[str, NDArray[np.intp]]]  # (label, indices of its articles) of each group


def quantile_groups(values: NDArray[np.float64], count: int, form: str) -> Members:
    """Up to `count` groups of equal size, smallest values first, each labelled "low to high".

    values: [articles]; NaN belongs to no group. form: format of the values in a label.
    """
    defined = np.flatnonzero(~np.isnan(values))
    order = defined[np.argsort(values[defined], kind="stable")]
    groups = [group for group in np.array_split(order, count) if len(group)]
    return [(f"{values[g[0]]:{form}} to {values[g[-1]]:{form}}", g) for g in groups]


def labelled_groups(labels: list[str]) -> Members:
    """A group for each distinct label, in alphabetical order."""
    names = np.array(labels)
    return [(name, np.flatnonzero(names == name)) for name in sorted(set(labels))]


def facets(
    lengths: NDArray[np.float64], cut: NDArray[np.int64], novelty: NDArray[np.float64], statuses: list[str]
) -> dict[str, tuple[str, Members]]:
    """(title, groups) by facet.

    lengths: words of each document; cut: tokens of it that did not fit the prompt; novelty: novel 2-grams of
    its reference (%); statuses: status of the fine-tuned model's output.
    """
    return {
        "length": ("document length (words)", quantile_groups(lengths, LENGTH_GROUPS, ".0f")),
        "cut": (
            "whether the article was cut",
            labelled_groups(["cut" if tokens else "whole" for tokens in cut]),
        ),
        "novelty": (
            "novel 2-grams of the reference (%)",
            quantile_groups(novelty, NOVELTY_GROUPS, ".0f"),
        ),
        "status": ("status of the fine-tuned output", labelled_groups(statuses)),
    }


def group_rows(
    groups: Members,
    scores: dict[str, NDArray[np.float64]],
    succeeded: dict[str, NDArray[Any]],
    resamples: int,
    confidence: float,
    sample: Sample,
) -> list[dict[str, Any]]:
    """A row for each group: n, each system's score with interval and success rate (%), tuned - lead.

    scores, succeeded: [articles] by system; sample: the clusters of all articles.
    """
    rows = []
    for label, group in groups:
        row: dict[str, Any] = {"group": label, "n": len(group)}
        part = sample.subset(group)
        for name, values in scores.items():
            row[name] = summary_of(values[group], resamples, confidence, part)
            row[f"{name}_success"] = float(100 * succeeded[name][group].mean())
        row["gain"] = difference_of(
            scores["tuned"][group], scores["lead"][group], resamples, confidence, part
        )
        rows.append(row)
    return rows


def grouped(
    tables: dict[str, Any], resamples: int, confidence: float
) -> tuple[dict[str, tuple[str, list[dict[str, Any]]]], dict[str, list[str]]]:
    """(title and rows of `group_rows` by facet, label of each article's group by facet).

    tables: scores (pyarrow) of the systems and of "reference".
    """
    lengths = tables["reference"]["document_words"].to_numpy().astype(float)
    members_by_facet = facets(
        lengths,
        tables["tuned"]["document_tokens_cut"].to_numpy(),
        tables["reference"]["novel_2"].to_numpy(),
        tables["tuned"]["status"].to_pylist(),
    )
    scores = {name: tables[name][HEADLINE].to_numpy() for name in SYSTEMS}
    succeeded = {name: tables[name]["success_rate"].to_numpy() for name in SYSTEMS}
    sample = Sample.of(tables["reference"]["group"].to_pylist())
    groups, labels = {}, {}
    for facet, (title, members) in members_by_facet.items():
        groups[facet] = (title, group_rows(members, scores, succeeded, resamples, confidence, sample))
        labels[facet] = [""] * len(lengths)
        for label, group in members:
            for i in group:
                labels[facet][i] = label
    return groups, labels


def chosen_articles(scores: NDArray[np.float64]) -> dict[str, list[int]]:
    """Indices of the articles to read, up to OUTPUTS_OF_A_KIND of each kind.

    Kinds: worst (lowest score first), average (nearest to the mean first), best (highest score first), random
    (in the order of the test set).
    """
    count = min(OUTPUTS_OF_A_KIND, len(scores))
    # A stable sort, so that equal scores give the same choice on every machine.
    order = np.argsort(scores, kind="stable")
    nearest = np.argsort(np.abs(scores - scores.mean()), kind="stable")
    random = np.random.default_rng(READ_SEED).permutation(len(scores))
    return {
        "worst": order[:count].tolist(),
        "average": nearest[:count].tolist(),
        "best": order[::-1][:count].tolist(),
        "random": sorted(random[:count].tolist()),
    }


def write_groups(groups: dict[str, tuple[str, list[dict[str, Any]]]], path: Path) -> None:
    """Write the error analysis as CSV. groups: of `grouped`."""
    header = ["facet", "group", "n"]
    for name in SYSTEMS:
        header += [f"{name}_rouge1", f"{name}_low", f"{name}_high", f"{name}_success_percent"]
    header += ["tuned_minus_lead", "tuned_minus_lead_low", "tuned_minus_lead_high"]
    ends = ("value", "low", "high")
    rows = []
    for facet, (_, facet_rows) in groups.items():
        for row in facet_rows:
            cells = [facet, row["group"], row["n"]]
            for name in SYSTEMS:
                cells += [*(row[name][key] for key in ends), row[f"{name}_success"]]
            rows.append([*cells, *(row["gain"][key] for key in ends)])
    write_csv(path, header, rows)
