"""What the report page holds: summarize_evaluation, tables, plots, and articles to read and rate."""

from pathlib import Path

import pyarrow as pa

from onesentence.core.text import with_heading
from onesentence.evaluation.extraction import Article, output_marks, segments
from onesentence.evaluation.metrics import HEADLINE, METRICS, test_hash
from onesentence.report import subgroups
from onesentence.report.sentences import NAMES, clusters_phrase, summarize_evaluation
from onesentence.report.tables import cell, comparison_rows, score_rows

METHOD_TITLES = {
    "lora": "LoRA, rank {rank}",
    "rslora": "rsLoRA, rank {rank}",
    "dora": "DoRA, rank {rank}",
    "full": "every weight",
}
PAGE_SYSTEMS = ("lead", "base", "tuned")  # beside the reference on the page
SORTS = [
    ["tuned_rouge1", "ROUGE-1, fine-tuned"],
    ["gain", "tuned - base, ROUGE-1"],
    ["document_words", "document length (words)"],
    ["novelty", "novel 2-grams of the reference (%)"],
    ["unsupported", "numbers and names not in the article"],
]
CRITERIA = ("Overall", "Fluency", "Faithfulness", "Coherence", "Coverage")
PLOT_TITLES = {  # title, and text for who cannot see it
    "metrics": ("Quality by system", "Dot plot of every quality metric by system with intervals."),
    "novelty": ("Novel n-grams", "Novel 1- to 4-grams of every system against the references."),
    "extraction": ("Coverage and density", "Share of outputs by extractive coverage and density."),
    "length": ("By document length", "Success rate and ROUGE-1 by document length."),
    "loss": ("Loss", "Training and validation loss by optimizer step."),
}
FACET_TITLES = {
    "status": "fine-tuned model's output",
    "cut": "article",
    "length": "document length",
    "novelty": "novelty of the reference",
}


def group_table(title: str, rows: list[dict], confidence: float) -> dict:
    """One table of the error analysis, for the page."""

    return {
        "caption": f"By {title}",
        "columns": [
            title,
            "n",
            *(f"{NAMES[name]}, ROUGE-1" for name in PAGE_SYSTEMS),
            "tuned - lead, ROUGE-1",
            "success, fine-tuned",
        ],
        "rows": [
            [
                row["group"],
                f"{row['n']:,}",
                *(cell(row[name], ".2f") for name in PAGE_SYSTEMS),
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
) -> list[dict]:
    """The articles to read, once each, in the order of the test set.

    chosen: rows of `table` by group; table: articles and references; tables: scores by system; labels: each
    row's group by facet.
    """
    rows = sorted({i for indices in chosen.values() for i in indices})
    items = []
    for i in rows:
        groups = [name for name, indices in chosen.items() if i in indices]
        facets = {key: labels[key][i] for key in labels}
        items.append(page_item(i, table, tables, groups, facets))
    return items


def page_item(
    i: int,
    table: pa.Table,
    tables: dict[str, pa.Table],
    groups: list[str],
    facets: dict[str, str],
) -> dict:
    """One article with its reference, its outputs and their scores; what is marked in each text."""
    body, reference = table["document"][i].as_py(), table["summary"][i].as_py()
    document = with_heading(table["heading"][i].as_py(), body)
    article = Article(body, document)
    heading = len(document) - len(body)
    outputs, unsupported, copied = {}, 0, []
    for name in PAGE_SYSTEMS:
        text = tables[name]["text"][i].as_py()
        marks, sources = output_marks(article, text)
        outputs[name] = segments(text, marks)
        if name == "tuned":
            unsupported = len(marks["number"]) + len(marks["name"])
            copied = [(start + heading, end + heading) for start, end in sources]
    value = {name: tables[name][HEADLINE][i].as_py() for name in PAGE_SYSTEMS}
    cut = tables["tuned"]["document_tokens_cut"][i].as_py()
    return {
        "id": table["id"][i].as_py(),
        "groups": groups,
        "document": segments(document, {"copied": copied}),
        "reference": segments(reference, output_marks(article, reference)[0]),
        "outputs": outputs,
        "status": {name: status_of(tables[name], i) for name in PAGE_SYSTEMS},
        "scores": {name: item_scores(tables[name], i) for name in PAGE_SYSTEMS},
        "values": {
            "tuned_rouge1": value["tuned"],
            "gain": value["tuned"] - value["base"],
            "document_words": float(len(article.words)),
            "novelty": tables["reference"]["novel_2"][i].as_py(),
            "unsupported": float(unsupported),
        },
        "facets": facets,
        "note": f"{cut:,} tokens of the article did not fit the prompt and were cut" if cut else "",
    }


def status_of(scores: pa.Table, i: int) -> str:
    """What became of an output; the first sentence of an article cannot fail."""
    return scores["status"][i].as_py() if "status" in scores.column_names else "ok"


def item_scores(scores: pa.Table, i: int) -> list[list]:
    """[title, value, unit] of the metrics that the page shows beside an output."""
    shown = ("rouge1", "rouge2", "rougeL", "bertscore")
    return [[METRICS[metric].title, scores[metric][i].as_py(), METRICS[metric].unit] for metric in shown]


def rated_hash(ids: list[str], references: list[str], tables: dict[str, pa.Table]) -> str:
    """Hash of what is rated: articles, references and outputs. Ratings of other outputs are not added up."""
    outputs = (tables[name]["text"].to_pylist() for name in PAGE_SYSTEMS)
    return test_hash(ids, ["\n".join(texts) for texts in zip(references, *outputs, strict=True)])


def run_facts(p, evaluation: dict) -> list[list[str]]:
    """[label, text] of what was run: data, model, decoding, intervals, test set."""
    quantized = "" if p.model.quantization == "none" else f", {p.model.quantization}"
    return [
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
    ]


def page_tables(evaluation: dict) -> list[dict]:
    """Scores by system, and a table for each comparison."""
    scores = {
        "caption": "Scores by system",
        **score_rows(evaluation, NAMES),
        "note": "↑ higher is better, ↓ lower is better. A failed output scores 0 in every quality metric. "
        "n/a: undefined, or not measured.",
    }
    return [scores, *(comparison_table(evaluation, pair) for pair in evaluation["comparisons"])]


def page_plots(folder: Path) -> list[dict]:
    """The plots of a run, read from the folder that they were drawn into."""
    return [
        {"title": title, "alt": alt, "svg": (folder / f"{name}.svg").read_text(encoding="utf-8")}
        for name, (title, alt) in PLOT_TITLES.items()
    ]


def page_data(
    p, evaluation: dict, tables: dict, groups: dict, labels: dict, table: pa.Table, plots: Path
) -> dict:
    """Everything that the page shows; see `onesentence.report.render.render`.

    tables: scores by system; groups, labels: of `subgroups.grouped`; table: articles and references; plots:
    the folder of the plots.
    """
    chosen = subgroups.chosen_articles(tables["tuned"][HEADLINE].to_numpy())
    count = len(chosen["random"])
    ids = table["id"].to_pylist()
    return {
        "title": f"One-sentence summaries of {evaluation['n']:,} {evaluation['split']} articles",
        "facts": run_facts(p, evaluation),
        "verdict": summarize_evaluation(evaluation),
        "tables": page_tables(evaluation),
        "analysis": [group_table(title, rows, evaluation["confidence"]) for title, rows in groups.values()],
        "plots": page_plots(plots),
        "groups": [
            ["worst", f"Worst {count} (ROUGE-1, fine-tuned)"],
            ["average", f"Average {count} (nearest to the mean)"],
            ["best", f"Best {count}"],
            ["random", f"Random {count}"],
        ],
        "systems": [[name, NAMES[name]] for name in PAGE_SYSTEMS],
        "sorts": SORTS,
        "facets": [[key, title] for key, title in FACET_TITLES.items()],
        "facet_values": {key: [row["group"] for row in groups[key][1]] for key in FACET_TITLES},
        "items": page_items(chosen, table, tables, labels),
        "rating": {
            "test": rated_hash(ids, table["summary"].to_pylist(), tables),
            "items": [ids[i] for i in chosen["random"]],
            "pairs": [["tuned", "lead"], ["tuned", "base"], ["tuned", "reference"]],
            "criteria": [[name.lower(), name] for name in CRITERIA],
        },
    }
