"""Stage `report`: the plots and tables that git tracks, and the page that a person reads.

Reads   metrics/{evaluation,train}.json, plots/loss.csv, data/scores/, data/prepared/SPLIT.parquet.
Writes  plots/{loss,metrics,novelty,extraction,length}.svg, their numbers as .csv, plots/groups.csv,
        plots/results.md, and plots/report.html (which holds articles: DVC caches it, git does not track it).
Run     python -m stages.report
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from onesentence.core import errors, params, plots
from onesentence.core.files import read_json, read_parquet, write_text
from onesentence.core.plots import write_csv
from onesentence.core.text import body_of
from onesentence.evaluation.article import Article, output_marks, segments
from onesentence.evaluation.metrics import HEADLINE, METRICS, QUALITY, scores_file, test_hash
from onesentence.evaluation.statistics import Sample
from onesentence.report import analysis, page
from onesentence.report.results import cell, comparison_rows, results_table, score_rows
from onesentence.report.verdict import NAMES, clusters_phrase, verdict

PARAMS = (
    "data.source",
    "model.name",
    "model.quantization",
    "lora.rank",
    "train.method",
    "generate.num_beams",
    "evaluate.split",
    "evaluate.resamples",
    "evaluate.confidence",
    "report",
)
EVALUATION = Path("metrics/evaluation.json")
TRAIN = Path("metrics/train.json")
PREPARED = Path("data/prepared")
PLOTS = Path("plots")
LOSS_DATA = Path("plots/loss.csv")
RESULTS = Path("plots/results.md")
PAGE = Path("plots/report.html")
SYSTEMS = ("lead", "oracle", "base", "tuned")
METHOD_TITLES = {
    "lora": "LoRA, rank {rank}",
    "rslora": "rsLoRA, rank {rank}",
    "dora": "DoRA, rank {rank}",
    "full": "every weight",
}
SHOWN = ("lead", "base", "tuned")  # beside the reference on the page
COLOURS = {**plots.COLOURS, "oracle": "#CC79A7", "reference": "#009E73"}
STUDY_GOAL = 35.0  # ROUGE-1 that the original XSum study set itself
NOVEL = ("novel_1", "novel_2", "novel_3", "novel_4")
COVERAGE_EDGES = np.linspace(0, 100, 11)  # %
DENSITY_EDGES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 1e9])  # words
FACET_TITLES = {
    "status": "fine-tuned model's output",
    "cut": "article",
    "length": "document length",
    "novelty": "novelty of the reference",
}


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
    plots.save(drawn, PLOTS / "loss.svg")


def subtitle(evaluation: dict) -> str:
    """What every plot says of its numbers: how many articles, which interval."""
    return f"{evaluation['split']}: {clusters_phrase(evaluation)}, {evaluation['confidence']:.0%} intervals"


def draw_metrics(evaluation: dict, reference: str) -> None:
    """Every quality metric of each system with its interval."""
    drawn, axis = plots.figure(width=7.5, height=5.6)
    names = [name for name in QUALITY if name in evaluation["systems"]["tuned"]]
    rows = []
    for k, system in enumerate(SYSTEMS):
        found = [evaluation["systems"][system][name] for name in names]
        values = [entry["value"] for entry in found]
        spread = plots.error_bars(found)
        places = np.arange(len(names)) + 0.18 * (k - 1.5)
        axis.errorbar(
            values, places, xerr=spread, fmt="o", markersize=4, capsize=2, label=NAMES[system],
            color=COLOURS[system],
        )  # fmt: skip
        for name, e in zip(names, found, strict=True):
            bar = f"{system} {METRICS[name].title}"  # a name for each: dvc plots stacks equal ones
            rows.append([bar, system, name, e["value"], e["low"], e["high"]])
    if reference == "xsum":
        axis.plot([STUDY_GOAL] * 2, [-0.45, 0.45], color="black", linestyle="--", linewidth=1)
        axis.text(STUDY_GOAL, -0.5, "the study's goal", ha="center", va="bottom", fontsize=8)
    axis.set_yticks(range(len(names)), [METRICS[name].title for name in names])
    axis.invert_yaxis()
    axis.grid(axis="x", linewidth=0.4, alpha=0.5)
    axis.set(
        title=f"Quality by system ({subtitle(evaluation)}; a failed output scores 0)",
        xlabel="score (0 to 100, higher is better)",
    )
    axis.legend(frameon=False, loc="best")
    plots.save(drawn, PLOTS / "metrics.svg")
    write_csv(PLOTS / "metrics.csv", ["bar", "system", "metric", "value", "low", "high"], rows)


def draw_novelty(evaluation: dict) -> None:
    """Novel 1- to 4-grams of each system against the references."""
    drawn, axis = plots.figure(width=7.5)
    rows = []
    for k, system in enumerate((*SYSTEMS, "reference")):
        found = [evaluation["systems"][system][name] for name in NOVEL]
        there = [(i, e) for i, e in enumerate(found) if e["value"] is not None]
        axis.errorbar(
            [i + 0.08 * (k - 2) for i, _ in there],
            [e["value"] for _, e in there],
            plots.error_bars([e for _, e in there]),
            fmt="o-", markersize=4, capsize=2, linewidth=1, color=COLOURS[system], label=NAMES[system],
        )  # fmt: skip
        for n, e in enumerate(found, start=1):
            rows.append([f"{system} {n}-grams", system, n, e["value"], e["low"], e["high"]])
    axis.set_xticks(range(4), [f"{n}-grams" for n in (1, 2, 3, 4)])
    axis.set(
        title=f"What an output says in words of its own ({subtitle(evaluation)})",
        xlabel="length of the n-gram (words)",
        ylabel="distinct n-grams not in the article (%)",
        ylim=(-3, 103),
    )
    axis.legend(frameon=False)
    plots.save(drawn, PLOTS / "novelty.svg")
    write_csv(PLOTS / "novelty.csv", ["bar", "system", "n", "value", "low", "high"], rows)


def draw_extraction(evaluation: dict, tables: dict[str, pa.Table]) -> None:
    """Extractive coverage against density, share of outputs in each cell (Grusky et al. 2018, figure 4)."""
    drawn, axes = plots.figure(width=9.5, height=3.6, columns=4)
    header = ["system", "coverage_from", "coverage_to", "density_from", "density_to", "percent_of_outputs"]
    rows = []
    for axis, system in zip(axes, ("reference", "base", "tuned", "lead"), strict=True):
        coverage, density = (tables[system][name].drop_null().to_numpy() for name in ("coverage", "density"))
        shares = np.histogram2d(coverage, density, bins=(COVERAGE_EDGES, DENSITY_EDGES))[0]
        shares = 100 * shares / max(1, len(coverage))
        axis.pcolormesh(
            COVERAGE_EDGES, np.arange(len(DENSITY_EDGES)), shares.T, cmap="Blues", vmin=0, vmax=25
        )
        for i, j in zip(*np.nonzero(shares >= 5), strict=True):
            axis.text(
                5 + 10 * i, j + 0.5, f"{shares[i, j]:.0f}", ha="center", va="center", fontsize=7,
                color="white" if shares[i, j] > 12 else "black",
            )  # fmt: skip
        axis.set_yticks(np.arange(len(DENSITY_EDGES)), [*(f"{e:g}" for e in DENSITY_EDGES[:-1]), ""])
        axis.set_title(f"{NAMES[system]}\n(n = {len(coverage):,})", fontsize=9)
        for i, j in zip(*np.nonzero(shares), strict=True):
            ends = [*COVERAGE_EDGES[i : i + 2], *DENSITY_EDGES[j : j + 2]]
            rows.append([system, *(end if end < 1e9 else None for end in map(float, ends)), shares[i, j]])
    axes[0].set_ylabel("density (words: mean length of the\ncopied span that a word stands in)")
    drawn.supxlabel("coverage (% of the output's words that stand in copied spans)", fontsize=9)
    drawn.suptitle(
        f"How outputs are taken from their article: % of outputs in each cell ({evaluation['split']} split)",
        fontsize=10,
    )
    plots.save(drawn, PLOTS / "extraction.svg")
    write_csv(PLOTS / "extraction.csv", header, [[_plain(cell) for cell in row] for row in rows])


def _plain(value):
    return float(value) if isinstance(value, np.floating) else value


def draw_length(rows: list[dict], evaluation: dict) -> None:
    """Success rate and ROUGE-1 of each system by document length. rows: of `analysis.group_rows`."""
    drawn, (left, right) = plots.figure(width=9.0, height=3.8, columns=2)
    places = np.arange(len(rows))
    for k, name in enumerate(SYSTEMS):
        style = {"color": COLOURS[name], "label": NAMES[name], "marker": "o", "markersize": 4}
        found = [row[name] for row in rows]
        spread = plots.error_bars(found)
        left.plot(places + 0.06 * (k - 1.5), [row[f"{name}_success"] for row in rows], **style)
        right.errorbar(places + 0.06 * (k - 1.5), [e["value"] for e in found], spread, capsize=2, **style)
    labels = [f"{row['group'].replace(' to ', '-')}\n(n = {row['n']})" for row in rows]
    for axis, title, unit in (
        (left, "Success rate by document length", "outputs that are a summary (%)"),
        (
            right,
            f"ROUGE-1 by document length ({evaluation['confidence']:.0%} intervals)",
            "ROUGE-1 (F1 x 100)",
        ),
    ):
        axis.set_xticks(range(len(rows)), labels, fontsize=8)
        axis.set(title=title, xlabel="document length (words)", ylabel=unit)
    left.set_ylim(-3, 103)
    right.set_ylim(bottom=0)
    left.legend(frameon=False, fontsize=8)
    plots.save(drawn, PLOTS / "length.svg")
    header = ["words", "n"]
    for name in SYSTEMS:
        header += [f"{name}_success_percent", f"{name}_rouge1", f"{name}_low", f"{name}_high"]
    cells = [
        [row["group"], row["n"]]
        + [
            cell
            for name in SYSTEMS
            for cell in (row[f"{name}_success"], *(row[name][key] for key in ("value", "low", "high")))
        ]
        for row in rows
    ]
    write_csv(PLOTS / "length.csv", header, cells)


def write_groups(groups: dict[str, tuple[str, list[dict]]]) -> None:
    """plots/groups.csv: the error analysis as numbers."""
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
    write_csv(PLOTS / "groups.csv", header, rows)


def group_table(title: str, rows: list[dict], confidence: float) -> dict:
    """One table of the error analysis, for the page."""

    return {
        "caption": f"By {title}",
        "columns": [
            title,
            "n",
            *(f"{NAMES[name]}, ROUGE-1" for name in SHOWN),
            "tuned - lead, ROUGE-1",
            "success, fine-tuned",
        ],
        "rows": [
            [
                row["group"],
                f"{row['n']:,}",
                *(cell(row[name], ".2f") for name in SHOWN),
                cell(row["gain"], "+.2f"),
                f"{row['tuned_success']:.1f}%",
            ]
            for row in rows
        ],
        "note": f"Mean [{confidence:.0%} interval] of the group's articles. The groups were not chosen "
        "beforehand: take their differences as hints, not as tests.",
    }


def comparison_table(evaluation: dict, pair: str) -> dict:
    """The table of one paired comparison, for the page."""
    left, _, right = pair.partition("-")
    return {
        "caption": f"{NAMES[left]} - {NAMES[right]}",
        **comparison_rows(evaluation, pair),
        "note": "Paired on the same articles. MDE: minimum detectable effect of one test at 80% power. "
        "Holm's correction is over all tests of the evaluation.",
    }


def page_items(
    chosen: dict[str, list[int]],
    table: pa.Table,
    tables: dict[str, pa.Table],
    labels: dict[str, list[str]],
    source: str,
) -> list[dict]:
    """The articles to read, once each, in the order of the test set."""
    items = []
    for i in sorted({i for indices in chosen.values() for i in indices}):
        document, reference = table["document"][i].as_py(), table["summary"][i].as_py()
        article = Article(body_of(document, source), document)
        heading = len(document) - len(article.text)
        outputs, unsupported, copied = {}, 0, []
        for name in SHOWN:
            text = tables[name]["text"][i].as_py()
            marks, sources = output_marks(article, text)
            outputs[name] = segments(text, marks)
            if name == "tuned":
                unsupported = len(marks["number"]) + len(marks["name"])
                copied = [(start + heading, end + heading) for start, end in sources]
        value = {name: tables[name][HEADLINE][i].as_py() for name in SHOWN}
        cut = tables["tuned"]["document_tokens_cut"][i].as_py()
        items.append(
            {
                "id": table["id"][i].as_py(),
                "groups": [name for name, indices in chosen.items() if i in indices],
                "document": segments(document, {"copied": copied}),
                "reference": segments(reference, output_marks(article, reference)[0]),
                "outputs": outputs,
                "status": {
                    name: tables[name]["status"][i].as_py() if "status" in tables[name].column_names else "ok"
                    for name in SHOWN
                },
                "scores": {
                    name: [
                        [METRICS[metric].title, tables[name][metric][i].as_py(), METRICS[metric].unit]
                        for metric in ("rouge1", "rouge2", "rougeL", "bertscore")
                    ]
                    for name in SHOWN
                },
                "values": {
                    "tuned_rouge1": value["tuned"],
                    "gain": value["tuned"] - value["base"],
                    "document_words": float(len(article.words)),
                    "novelty": tables["reference"]["novel_2"][i].as_py(),
                    "unsupported": float(unsupported),
                },
                "facets": {key: labels[key][i] for key in labels},
                "note": f"{cut:,} tokens of the article did not fit the prompt and were cut" if cut else "",
            }
        )
    return items


def rated_hash(ids: list[str], references: list[str], tables: dict[str, pa.Table]) -> str:
    """Hash of what is rated: articles, references and outputs. Ratings of other outputs are not added up."""
    outputs = (tables[name]["text"].to_pylist() for name in SHOWN)
    return test_hash(ids, ["\n".join(texts) for texts in zip(references, *outputs, strict=True)])


def page_data(p, evaluation: dict, tables: dict, groups: dict, labels: dict, table: pa.Table) -> dict:
    """Everything that the page shows; see `onesentence.report.page.render`."""
    chosen = analysis.chosen_articles(tables["tuned"][HEADLINE].to_numpy())
    count = len(chosen["random"])
    items = page_items(chosen, table, tables, labels, p.data.source)
    ids = table["id"].to_pylist()
    quantized = "" if p.model.quantization == "none" else f", {p.model.quantization}"
    titles = {
        "metrics": ("Quality by system", "Dot plot of every quality metric by system with intervals."),
        "novelty": ("Novel n-grams", "Novel 1- to 4-grams of every system against the references."),
        "extraction": ("Coverage and density", "Share of outputs by extractive coverage and density."),
        "length": ("By document length", "Success rate and ROUGE-1 by document length."),
        "loss": ("Loss", "Training and validation loss by optimizer step."),
    }
    return {
        "title": f"One-sentence summaries of {evaluation['n']:,} {evaluation['split']} articles",
        "facts": [
            ["articles", f"{clusters_phrase(evaluation)} ({p.data.source}, {evaluation['split']} split)"],
            ["base model", f"{p.model.name}{quantized}"],
            ["fine-tuning", METHOD_TITLES[p.train.method].format(rank=p.lora.rank)],
            ["decoding", f"{p.generate.num_beams} beams"],
            [
                "intervals and tests",
                f"{evaluation['confidence']:.0%}, {evaluation['resamples']:,} resamples, "
                f"{evaluation['resampling']['interval']}",
            ],
            ["test set", evaluation["test"]],
        ],
        "verdict": verdict(evaluation),
        "tables": [
            {
                "caption": "Scores by system",
                **score_rows(evaluation, NAMES),
                "note": "↑ higher is better, ↓ lower is better. A failed output scores 0 in every quality "
                "metric. n/a: undefined, or not measured.",
            },
            *(comparison_table(evaluation, pair) for pair in evaluation["comparisons"]),
        ],
        "analysis": [group_table(title, rows, evaluation["confidence"]) for title, rows in groups.values()],
        "plots": [
            {"title": title, "alt": alt, "svg": (PLOTS / f"{name}.svg").read_text(encoding="utf-8")}
            for name, (title, alt) in titles.items()
        ],
        "groups": [
            ["worst", f"Worst {count} (ROUGE-1, fine-tuned)"],
            ["average", f"Average {count} (nearest to the mean)"],
            ["best", f"Best {count}"],
            ["random", f"Random {count}"],
        ],
        "systems": [[name, NAMES[name]] for name in SHOWN],
        "sorts": [
            ["tuned_rouge1", "ROUGE-1, fine-tuned"],
            ["gain", "tuned - base, ROUGE-1"],
            ["document_words", "document length (words)"],
            ["novelty", "novel 2-grams of the reference (%)"],
            ["unsupported", "numbers and names not in the article"],
        ],
        "facets": [[key, title] for key, title in FACET_TITLES.items()],
        "facet_values": {key: [row["group"] for row in groups[key][1]] for key in FACET_TITLES},
        "items": items,
        "rating": {
            "test": rated_hash(ids, table["summary"].to_pylist(), tables),
            "items": [ids[i] for i in chosen["random"]],
            "pairs": [["tuned", "lead"], ["tuned", "base"], ["tuned", "reference"]],
            "criteria": [
                ["overall", "Overall"],
                ["fluency", "Fluency"],
                ["faithfulness", "Faithfulness"],
                ["coherence", "Coherence"],
                ["coverage", "Coverage"],
            ],
        },
    }


def main() -> None:
    p = params.load(PARAMS)
    evaluation = read_json(EVALUATION)
    tables = {name: read_parquet(scores_file(name)) for name in (*SYSTEMS, "reference")}
    table = read_parquet(PREPARED / f"{p.evaluate.split}.parquet")
    lengths = tables["reference"]["document_words"].to_numpy().astype(float)
    facets = analysis.facets(
        lengths,
        tables["tuned"]["document_tokens_cut"].to_numpy(),
        tables["reference"]["novel_2"].to_numpy(),
        tables["tuned"]["status"].to_pylist(),
    )
    sample = Sample.of(tables["reference"]["group"].to_pylist())
    groups, labels = {}, {}
    for facet, (title, found) in facets.items():
        rows = analysis.group_rows(
            found,
            {name: tables[name][HEADLINE].to_numpy() for name in SYSTEMS},
            {name: tables[name]["success_rate"].to_numpy() for name in SYSTEMS},
            p.evaluate.resamples,
            p.evaluate.confidence,
            sample,
        )
        groups[facet] = (title, rows)
        labels[facet] = [""] * len(lengths)
        for label, group in found:
            for i in group:
                labels[facet][i] = label

    draw_loss(read_json(TRAIN))
    draw_metrics(evaluation, p.report.reference)
    draw_novelty(evaluation)
    draw_extraction(evaluation, tables)
    draw_length(groups["length"][1], evaluation)
    write_groups(groups)
    write_text(RESULTS, results_table(evaluation, p.report.reference))
    write_text(PAGE, page.render(page_data(p, evaluation, tables, groups, labels, table)))
    print(f"report: {PAGE} ({PAGE.stat().st_size / 1e6:.1f} MB), {RESULTS}, {PLOTS}/*.svg, *.csv")


if __name__ == "__main__":
    errors.run(main, __doc__)
