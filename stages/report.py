"""Stage `report`: the plots and the table that git tracks.

Reads   metrics/evaluation.json, metrics/train.json, plots/loss.csv, data/scores.parquet.
Writes  plots/loss.svg, plots/rouge.svg and .csv, plots/length.svg and .csv, plots/results.md.
Run     python -m stages.report
"""

from pathlib import Path

import numpy as np

from stages.common import errors, params, plots
from stages.common.files import read_json, read_parquet, write_text
from stages.common.results import results_table
from stages.common.scores import ROUGE, summary_of

PARAMS = ("evaluate.bootstrap_samples", "evaluate.confidence", "report")
EVALUATION = Path("metrics/evaluation.json")
TRAIN = Path("metrics/train.json")
SCORES = Path("data/scores.parquet")
LOSS_DATA, LOSS = Path("plots/loss.csv"), Path("plots/loss.svg")
ROUGE_DATA, ROUGE_PLOT = Path("plots/rouge.csv"), Path("plots/rouge.svg")
LENGTH_DATA, LENGTH = Path("plots/length.csv"), Path("plots/length.svg")
RESULTS = Path("plots/results.md")
SYSTEMS = ("lead", "base", "adapter")
NAMES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
STUDY_GOAL = 35.0  # ROUGE-1 that the original XSum study set itself
LENGTH_GROUPS = 5  # of equally many articles


def draw_loss(train: dict) -> None:
    """Training and validation loss against the step."""
    rows = plots.read_csv(LOSS_DATA)
    drawn, axis = plots.figure()
    for column, label, style in (
        ("loss", "training (with dropout, mean since the last point)", {"color": "#0072B2"}),
        ("validation_loss", "validation (no dropout)", {"color": "#E69F00", "marker": "o"}),
    ):
        points = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
        if points:
            axis.plot(*zip(*points, strict=True), label=label, **style)
    axis.set(
        title=f"Loss on the summary tokens, {train['steps']:,} steps, "
        f"{train['trainable_parameters']:,} trained parameters",
        xlabel="optimizer step",
        ylabel="cross-entropy (nats per token)",
    )
    axis.legend(frameon=False)
    plots.save(drawn, LOSS)


def draw_rouge(evaluation: dict, reference: str) -> None:
    """ROUGE of each system with its interval."""
    drawn, axis = plots.figure()
    rows = []
    for k, name in enumerate(SYSTEMS):
        found = [evaluation["systems"][name][metric] for metric in ROUGE]
        means = [entry["mean"] for entry in found]
        errors_ = [
            [entry["mean"] - entry["low"] for entry in found],
            [entry["high"] - entry["mean"] for entry in found],
        ]
        places = np.arange(len(ROUGE)) + 0.27 * (k - 1)
        axis.bar(places, means, 0.25, yerr=errors_, capsize=3, label=name, color=plots.COLOURS[name])
        for metric, entry in zip(ROUGE, found, strict=True):
            bar = f"{name} {NAMES[metric]}"  # a name for each bar: dvc plots stacks equal ones
            rows.append([bar, name, metric, entry["mean"], entry["low"], entry["high"]])
    if reference == "xsum":
        axis.axhline(STUDY_GOAL, color="black", linestyle="--", linewidth=1)
        axis.text(2.4, STUDY_GOAL, "the study's goal for ROUGE-1", ha="right", va="bottom", fontsize=8)
    axis.set_xticks(range(len(ROUGE)), [NAMES[metric] for metric in ROUGE])
    axis.set(
        title=f"ROUGE on {evaluation['n']:,} {evaluation['split']} articles "
        f"({evaluation['confidence']:.0%} bootstrap intervals)",
        ylabel="F1 x 100 (rouge_score, stemmer)",
    )
    axis.legend(frameon=False)
    plots.save(drawn, ROUGE_PLOT)
    plots.write_csv(ROUGE_DATA, ["bar", "system", "metric", "mean", "low", "high"], rows)


def length_groups(lengths: np.ndarray) -> list[np.ndarray]:
    """Indices of the articles in groups of equally many, shortest documents first."""
    order = np.argsort(lengths, kind="stable")
    return [group for group in np.array_split(order, LENGTH_GROUPS) if len(group)]


def draw_length(evaluation: dict, settings) -> None:
    """Success rate and ROUGE-1 of each system by document length."""
    table = read_parquet(SCORES)
    lengths = table["document_words"].to_numpy()
    groups = length_groups(lengths)
    drawn, (left, right) = plots.figure(width=9.0, height=3.8, columns=2)
    header = ["words_from", "words_to", "n"]
    rows = [[int(lengths[g].min()), int(lengths[g].max()), len(g)] for g in groups]
    for name in SYSTEMS:
        header += [f"{name}_success_percent", f"{name}_rouge1", f"{name}_low", f"{name}_high"]
        score = table[f"{name}_rouge1"].to_numpy()
        success = table[f"{name}_succeeded"].to_numpy(zero_copy_only=False)
        means, lows, highs, rates = [], [], [], []
        for row, group in zip(rows, groups, strict=True):
            found = summary_of(score[group], settings.bootstrap_samples, settings.confidence)
            means.append(found["mean"])
            lows.append(found["mean"] - found["low"])
            highs.append(found["high"] - found["mean"])
            rates.append(float(100 * success[group].mean()))
            row += [rates[-1], found["mean"], found["low"], found["high"]]
        places = np.arange(len(groups))
        style = {"color": plots.COLOURS[name], "label": name, "marker": "o"}
        left.plot(places, rates, **style)
        right.errorbar(places + 0.06 * (SYSTEMS.index(name) - 1), means, [lows, highs], capsize=3, **style)
    labels = [f"{lengths[g].min()}-{lengths[g].max()}\n(n = {len(g)})" for g in groups]
    for axis, title, unit in (
        (left, "Success rate by document length", "outputs that are a summary (%)"),
        (right, f"ROUGE-1 by document length ({settings.confidence:.0%} intervals)", "ROUGE-1 (F1 x 100)"),
    ):
        axis.set_xticks(range(len(groups)), labels, fontsize=8)
        axis.set(title=title, xlabel="document length (words)", ylabel=unit)
    left.set_ylim(-3, 103)
    right.set_ylim(bottom=0)
    left.legend(frameon=False)
    plots.save(drawn, LENGTH)
    plots.write_csv(LENGTH_DATA, header, rows)


def main() -> None:
    p = params.load(PARAMS)
    evaluation = read_json(EVALUATION)
    draw_loss(read_json(TRAIN))
    draw_rouge(evaluation, p.report.reference)
    draw_length(evaluation, p.evaluate)
    write_text(RESULTS, results_table(evaluation, p.report.reference))
    print(f"report: {RESULTS}, {LOSS}, {ROUGE_PLOT}, {LENGTH}")


if __name__ == "__main__":
    errors.run(main)
