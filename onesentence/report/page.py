"""The content of the report page: verdict, headline plot, three examples, tables, plots, articles to rate."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa

from onesentence.core.params import Params
from onesentence.core.text import percent, with_heading
from onesentence.evaluation.extraction import Article, output_marks, segments
from onesentence.evaluation.metrics import HEADLINE, METRICS, test_hash
from onesentence.report import subgroups
from onesentence.report.sentences import NAMES, clusters_phrase, summarize_evaluation, verdict_sentences
from onesentence.report.tables import TABLE_METRICS, cell, comparison_rows, interval, number, score_rows

METHOD_TITLES = {
    "lora": "LoRA, rank {rank}",
    "rslora": "rsLoRA, rank {rank}",
    "dora": "DoRA, rank {rank}",
    "full": "every weight",
}
PAGE_SYSTEMS = ("lead", "base", "tuned")  # whose outputs the page shows, beside the reference
HEADLINE_SYSTEMS = ("tuned", "base", "lead", "oracle")  # of the headline plot, from top to bottom
HIGHLIGHTS = {  # the examples of the first screen: title, note, by group of `subgroups.chosen_articles`
    "best": ("Best", ""),
    "average": ("Middle", ", nearest to the mean"),
    "worst": ("Worst", ""),
}
SORTS = [
    ["tuned_rouge1", "ROUGE-1, fine-tuned"],
    ["gain", "ROUGE-1, fine-tuned - untuned"],
    ["document_words", "document length (words)"],
    ["novelty", "novel 2-grams of the reference (%)"],
    ["unsupported", "numbers and names not in the article"],
]
CRITERIA = ("Overall", "Fluency", "Faithfulness", "Coherence", "Coverage")
PLOT_TITLES = {  # title, and a description for readers who cannot see the plot
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


def group_table(title: str, rows: list[dict[str, Any]], confidence: float) -> dict[str, Any]:
    """One table of the error analysis, for the page."""
    return {
        "summary": f"ROUGE-1 and success rate by {title}: {len(rows)} group{'s' * (len(rows) != 1)}",
        "caption": f"By {title}",
        "columns": [
            title,
            "n",
            *(f"{NAMES[name]}, ROUGE-1" for name in PAGE_SYSTEMS),
            "fine-tuned - lead, ROUGE-1",
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
        "note": f"Mean [{percent(confidence)} interval] over the articles of a group. No test compares the "
        "groups: read their differences as hints.",
    }


def comparison_table(evaluation: dict[str, Any], pair: str) -> dict[str, Any]:
    """The table of one paired comparison, for the page."""
    left, _, right = pair.partition("-")
    metrics = len(evaluation["comparisons"][pair])
    return {
        "summary": f"Tests, {NAMES[left]} against {NAMES[right]}: {metrics} metrics",
        "caption": f"{NAMES[left]} - {NAMES[right]}",
        **comparison_rows(evaluation, pair),
        "note": "Paired on the same articles. MDE: minimum detectable effect of one test at 80% power. "
        "Holm's correction covers all tests of the evaluation.",
    }


def page_items(
    chosen: dict[str, list[int]],
    table: pa.Table,
    tables: dict[str, pa.Table],
    labels: dict[str, list[str]],
) -> list[dict[str, Any]]:
    """The articles to read, once each, in the order of the test set.

    chosen: indices of rows of `table` by group; table: articles and references; tables: scores by system;
    labels: label of each row by facet.
    """
    rows = sorted({i for indices in chosen.values() for i in indices})  # a random article may be a worst one
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
) -> dict[str, Any]:
    """One article with its reference, its outputs and their scores, each text cut into marked segments."""
    body, reference = table["document"][i].as_py(), table["summary"][i].as_py()
    document = with_heading(table["heading"][i].as_py(), body)
    article = Article(body, document)
    heading = len(document) - len(body)  # spans are counted in the body, and the page shows both
    outputs, unsupported, copied = {}, 0, []
    for name in PAGE_SYSTEMS:
        text = tables[name]["text"][i].as_py()
        marks, sources = output_marks(article, text)
        outputs[name] = segments(text, marks)
        if name == "tuned":  # the system whose copying the article's own marks show
            unsupported = len(marks["number"]) + len(marks["name"])
            copied = [(start + heading, end + heading) for start, end in sources]
    score = {name: tables[name][HEADLINE][i].as_py() for name in PAGE_SYSTEMS}
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
            "tuned_rouge1": score["tuned"],
            "gain": score["tuned"] - score["base"],
            "document_words": float(len(article.words)),
            "novelty": tables["reference"]["novel_2"][i].as_py(),
            "unsupported": float(unsupported),
        },
        "facets": facets,
        "note": f"{cut:,} tokens of the article did not fit the prompt and were cut" if cut else "",
    }


def status_of(scores: pa.Table, i: int) -> str:
    """The status of an output; first sentences have none, because they cannot fail."""
    return str(scores["status"][i].as_py()) if "status" in scores.column_names else "ok"


def item_scores(scores: pa.Table, i: int) -> list[list[Any]]:
    """[title, value, unit] of the metrics that the page shows beside an output."""
    names = ["rouge1", "rouge2", "rougeL", "bertscore"]
    names += ["entailment"] if "entailment" in scores.column_names else []
    return [[METRICS[name].title, scores[name][i].as_py(), METRICS[name].unit] for name in names]


def rated_hash(ids: list[str], references: list[str], tables: dict[str, pa.Table]) -> str:
    """Hash of what people rate: articles, references and outputs.

    Ratings carry it, so that ratings of other outputs are never counted together.
    """
    outputs = (tables[name]["text"].to_pylist() for name in PAGE_SYSTEMS)
    return test_hash(ids, ["\n".join(texts) for texts in zip(references, *outputs, strict=True)])


def run_facts(p: Params, evaluation: dict[str, Any]) -> list[list[str]]:
    """[label, text] of the run: data, model, decoding, intervals, hash of the test set."""
    quantized = "" if p.model.quantization == "none" else f", {p.model.quantization}"
    written = p.generate.quantization or p.model.quantization
    form = "not quantized" if written == "none" else f"in {written}"
    decoded = "" if written == p.model.quantization else f", base {form}"
    return [
        ["data", f"{p.data.source}, {evaluation['split']} split, {clusters_phrase(evaluation)}"],
        ["base model", f"{p.model.name}{quantized}"],
        ["fine-tuning", METHOD_TITLES[p.train.method].format(rank=p.lora.rank)],
        ["decoding", f"{p.generate.num_beams} beams{decoded}"],
        [
            "intervals and tests",
            f"{percent(evaluation['confidence'])}, {evaluation['resamples']:,} resamples, "
            f"{evaluation['resampling']['interval']}",
        ],
        ["test set", evaluation["test"]],
    ]


def headline_plot(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The plot of the first screen: the headline metric of each system with its interval.

    Positions are percent of the axis, from 0 to the next multiple of 10 above every interval.
    """
    scores = {name: evaluation["systems"][name][HEADLINE] for name in HEADLINE_SYSTEMS}
    highest = max(end for e in scores.values() for end in (e["value"], e["high"]) if end is not None)
    end = max(10, 10 * math.ceil(highest / 10))  # at least 10: scores of 0 need an axis too

    def position(value: float | None) -> float | None:
        return None if value is None else round(100 * value / end, 2)

    metric = METRICS[HEADLINE]
    return {
        "title": f"{metric.title} by system, with {percent(evaluation['confidence'])} intervals "
        f"({metric.unit})",
        "ticks": [[value, position(value)] for value in range(0, end + 1, 10 if end <= 60 else 20)],
        "rows": [
            {
                "label": NAMES[name],
                "main": name == "tuned",
                "value": number(entry["value"]),
                "interval": "" if entry["low"] is None else interval(entry),
                **{key: position(entry[key]) for key in ("low", "high")},
                "place": position(entry["value"]),
            }
            for name, entry in scores.items()
        ],
    }


def page_highlights(
    chosen: dict[str, list[int]], table: pa.Table, tables: dict[str, pa.Table], items: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The fine-tuned model's best, middle and worst output, each beside its reference and the untuned output.

    `item` is the index in `items` of the full entry.
    """
    places = {item["id"]: place for place, item in enumerate(items)}
    highlights = []
    for group, (title, note) in HIGHLIGHTS.items():
        i = chosen[group][0]
        article_id = table["id"][i].as_py()
        texts = [
            [NAMES["tuned"], tables["tuned"]["text"][i].as_py()],
            ["reference", table["summary"][i].as_py()],
            [NAMES["base"], tables["base"]["text"][i].as_py()],
        ]
        highlights.append(
            {
                "title": title,
                "score": f"{METRICS[HEADLINE].title} {tables['tuned'][HEADLINE][i].as_py():.1f}{note}",
                "id": article_id,
                "item": places[article_id],
                "texts": [[label, " ".join(text.split())] for label, text in texts],  # a card has few lines
            }
        )
    return highlights


def page_tables(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """The main scores by system, unfolded; then all scores, and the tests of each comparison, folded."""
    legend = "↑ higher is better, ↓ lower is better. A failed output scores 0 in every quality metric."
    scores = score_rows(evaluation, NAMES)
    return [
        {
            "summary": "",  # without a summary a table is not folded
            "caption": "Main scores by system",
            **score_rows(evaluation, NAMES, [*TABLE_METRICS, "novel_2", "words"]),
            "note": legend,
        },
        {
            "summary": f"All {len(scores['rows'])} metrics by system",
            "caption": "Scores by system",
            **scores,
            "note": f"{legend} n/a: undefined, or not measured.",
        },
        *(comparison_table(evaluation, pair) for pair in evaluation["comparisons"]),
    ]


def page_plots(folder: Path) -> list[dict[str, str]]:
    """The plots of a run, read from the folder that they were drawn into."""
    return [
        {"title": title, "alt": alt, "svg": (folder / f"{name}.svg").read_text(encoding="utf-8")}
        for name, (title, alt) in PLOT_TITLES.items()
    ]


def page_data(
    p: Params,
    evaluation: dict[str, Any],
    tables: dict[str, pa.Table],
    groups: dict[str, tuple[str, list[dict[str, Any]]]],
    labels: dict[str, list[str]],
    table: pa.Table,
    plots: Path,
) -> dict[str, Any]:
    """Everything that the page shows; see `onesentence.report.render.render`.

    tables: scores by system; groups, labels: of `subgroups.grouped`; table: articles and references; plots:
    the folder of the plots.
    """
    chosen = subgroups.chosen_articles(tables["tuned"][HEADLINE].to_numpy())
    count = len(chosen["random"])
    ids = table["id"].to_pylist()
    items = page_items(chosen, table, tables, labels)
    return {
        "title": f"One-sentence summaries of {evaluation['n']:,} {evaluation['split']} articles",
        "facts": run_facts(p, evaluation),
        "verdict": verdict_sentences(evaluation),
        "headline": headline_plot(evaluation),
        "highlights": page_highlights(chosen, table, tables, items),
        "findings": summarize_evaluation(evaluation),
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
        "items": items,
        "rating": {
            "test": rated_hash(ids, table["summary"].to_pylist(), tables),
            "items": [ids[i] for i in chosen["random"]],
            "pairs": [["tuned", "lead"], ["tuned", "base"], ["tuned", "reference"]],
            "criteria": [[name.lower(), name] for name in CRITERIA],
        },
    }
