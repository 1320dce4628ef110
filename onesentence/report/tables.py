"""Tables of the results: Markdown for results.md and the README, rows for the page and the terminal."""

from collections.abc import Sequence
from typing import Any

from onesentence.core.text import percent
from onesentence.evaluation.comparison import is_significant
from onesentence.evaluation.metrics import HEADLINE, METRICS
from onesentence.evaluation.resampling import SUBSETS
from onesentence.report.formatting import formatted, mde_text
from onesentence.report.sentences import NAMES, clusters_phrase

# XSum test, ROUGE-1/2/L as published: (system, ROUGE-1, ROUGE-2, ROUGE-L, n, scorer, source).
PERL = "ROUGE-1.5.5"
PUBLISHED_XSUM = (
    ("first sentence (lead)", 16.30, 1.60, 11.95, 11_334, PERL, "Narayan et al. 2018"),
    ("extractive oracle", 29.79, 8.81, 22.66, 11_334, PERL, "Narayan et al. 2018"),
    ("ConvS2S", 31.27, 11.07, 25.23, 11_334, PERL, "Narayan et al. 2018"),
    ("Topic-ConvS2S", 31.89, 11.54, 25.75, 11_334, PERL, "Narayan et al. 2018"),
    ("Phi-2 + LoRA, 1,000 pairs", 32.08, 11.85, 24.66, 100, "not stated", "a course repository"),
    ("BART, QLoRA NF4 r = 16", 43.29, 20.05, 35.15, 11_334, PERL, "LoftQ (Li et al. 2023)"),
    ("BART, LoRA r = 16", 43.95, 20.72, 35.68, 11_334, PERL, "LoftQ (Li et al. 2023)"),
    ("BART-large", 45.14, 22.27, 37.25, 11_334, PERL, "Lewis et al. 2020"),
    ("PEGASUS", 47.21, 24.56, 39.25, 11_334, PERL, "Zhang et al. 2020"),
    ("BRIO", 49.07, 25.59, 40.40, 11_334, PERL, "Liu et al. 2022"),
)
ARROWS = {"higher": "↑", "lower": "↓", "none": ""}
SYSTEMS = ("lead", "oracle", "base", "tuned")
TABLE_METRICS = ("rouge1", "rouge2", "rougeL", "bertscore", "verbatim")  # of plots/results.md

# Faults of an output: (metric, what a reader calls the fault, whether the metric counts the faultless ones).
FAULTS = (
    ("empty", "empty outputs", False),
    ("echo", "outputs that begin with the prompt", False),
    ("stopped", "outputs cut off at the token limit", True),
    ("verbatim", "outputs copied from the article word for word", False),
    ("repeated_trigram", "outputs that repeat a 3-gram", False),
    ("name_precision", "names of an output that its article lacks (mean of outputs with names)", True),
    ("number_precision", "numbers of an output that its article lacks (mean of outputs with numbers)", True),
)


def complement(entry: dict[str, Any]) -> dict[str, Any]:
    """100 minus a percentage, with its interval."""
    # 100 minus the upper end is the lower end.
    ends = (("value", "value"), ("low", "high"), ("high", "low"))
    return {key: None if entry[other] is None else 100 - entry[other] for key, other in ends}


def faults_table(evaluation: dict[str, Any]) -> list[str]:
    """Markdown lines: how often outputs of the two models have each fault, in percent with intervals."""
    lines = [f"| what goes wrong (%) | {NAMES['base']} | {NAMES['tuned']} |", "|---|---|---|"]
    for metric, title, counts_faultless in FAULTS:
        cells = []
        for system in ("base", "tuned"):
            entry = evaluation["systems"][system].get(metric)
            if entry is None or entry["value"] is None:
                cells.append("n/a")
            else:
                cells.append(cell(complement(entry) if counts_faultless else entry))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def results_table(evaluation: dict[str, Any], published: str) -> str:
    """Markdown: scores of the systems, paired differences, faults, and published rows where they compare.

    published: `report.published` of params.yaml.
    """
    lines = [*_systems_table(evaluation), "", *_differences_table(evaluation), "", *faults_table(evaluation)]
    if published == "xsum":
        lines += [
            "",
            "Published on XSum's test set. The Perl scorer ROUGE-1.5.5 gives 0.0 to 0.4 points more than "
            "rouge_score. The study's goal was a ROUGE-1 of 35.",
            "",
            "| system | ROUGE-1 | ROUGE-2 | ROUGE-L | n | scorer | source |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {name} | {r1:.2f} | {r2:.2f} | {rl:.2f} | {n:,} | {scorer} | {source} |"
            for name, r1, r2, rl, n, scorer, source in PUBLISHED_XSUM
        ]
    return "\n".join(lines) + "\n"


def rouge_words(evaluation: dict[str, Any]) -> str:
    """What ROUGE counts, by its signature: rouge_score's words of English, or words of another language."""
    signature = evaluation["metrics"]["quality"][HEADLINE]["signature"]
    fields = dict(part.partition(":")[::2] for part in signature.split("|"))
    if fields["tokens"] == "rouge_score":
        return "rouge_score with stemmer"
    return f"{fields['tokens']} (language {fields['lang']}; stemmer: {fields['stemmer']})"


def _systems_table(evaluation: dict[str, Any]) -> list[str]:
    """Markdown lines: scores of each system with intervals, and the share of outputs that are a summary."""
    few = evaluation["resampling"]["interval"] == SUBSETS
    way = SUBSETS if few else "resamples of whole clusters"
    lines = [
        f"Split {evaluation['split']}, {clusters_phrase(evaluation)}. Each value has its "
        f"{percent(evaluation['confidence'])} interval ({evaluation['resamples']:,} {way}). "
        f"A failed output scores 0. ROUGE: {rouge_words(evaluation)}, F1 x 100. Design effect: variance of "
        "ROUGE-1, divided by that of as many independent articles. Copied: the output is a word-for-word "
        "span of its article.",
        "",
        "| system | ROUGE-1 | design effect | ROUGE-2 | ROUGE-L | BERTScore | copied (%) | success rate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in SYSTEMS:
        scores = evaluation["systems"][name]
        cells = [cell(scores[metric]) for metric in TABLE_METRICS]
        cells.insert(1, number(scores[HEADLINE]["design_effect"]))
        lines.append(f"| {NAMES[name]} | {' | '.join(cells)} | {scores['success_rate']['value']:.1%} |")
    return lines


def _differences_table(evaluation: dict[str, Any]) -> list[str]:
    """Markdown lines: each paired difference in the main metric with its test."""
    lines = [
        "Paired differences in ROUGE-1. MDE: minimum detectable effect of one test at 80% power. p: "
        "approximate randomization of whole clusters, with Holm's correction over all "
        f"{sum(map(len, evaluation['comparisons'].values()))} tests of `metrics/evaluation.json`.",
        "",
        "| difference | ROUGE-1 | design effect | MDE | p (Holm) | significant? |",
        "|---|---|---|---|---|---|",
    ]
    for pair, metrics in evaluation["comparisons"].items():
        entry = metrics[HEADLINE]
        significant = "yes" if is_significant(entry, evaluation["confidence"]) else "no"
        lines.append(
            f"| {pair.replace('-', ' - ')} | {cell(entry, '+.2f')} | {number(entry['design_effect'])} | "
            f"{mde_text(entry['mde'])} | {number(entry['p_holm'], '.4f')} | {significant} |"
        )
    return lines


def score_rows(
    evaluation: dict[str, Any], names: dict[str, str], metrics: Sequence[str] | None = None
) -> dict[str, Any]:
    """Columns and rows of the table of metrics by system.

    names: titles of systems; a system without one is called by its key. metrics: which ones, in this order;
    None: all that were measured.
    """
    systems = evaluation["systems"]
    measured = [name for name in METRICS if any(name in scores for scores in systems.values())]
    rows = []
    for name in measured if metrics is None else (name for name in metrics if name in measured):
        metric = METRICS[name]
        form = ".4f" if metric.unit == "share" else ".2f"
        unit = f"{metric.unit} {ARROWS[metric.direction]}".strip()
        cells = [cell(scores[name], form) if name in scores else "n/a" for scores in systems.values()]
        rows.append([metric.title, unit, *cells])
    return {"columns": ["metric", "unit", *(names.get(name, name) for name in systems)], "rows": rows}


def comparison_rows(evaluation: dict[str, Any], pair: str) -> dict[str, Any]:
    """Columns and rows of the table of one paired comparison."""
    columns = [
        "metric",
        "difference",
        f"{percent(evaluation['confidence'])} interval",
        "BCa interval",
        "MDE",
        "p (boot.)",
        "p (rand.)",
        "p (Holm)",
        "significant?",
    ]
    rows = []
    for name, entry in evaluation["comparisons"][pair].items():
        rows.append(
            [
                METRICS[name].title,
                number(entry["value"], "+.2f"),
                interval(entry, "+.2f"),
                interval({"low": entry["bca_low"], "high": entry["bca_high"]}, "+.2f"),
                mde_text(entry["mde"]),
                *(number(entry[key], ".4f") for key in ("p_bootstrap", "p_randomization", "p_holm")),
                "yes" if is_significant(entry, evaluation["confidence"]) else "no",
            ]
        )
    return {"columns": columns, "rows": rows}


def number(value: float | None, form: str = ".2f") -> str:
    """A number as text, or n/a where it is undefined."""
    return "n/a" if value is None else formatted(value, form)


def interval(entry: dict[str, Any], form: str = ".2f") -> str:
    """An interval in brackets. entry: holds `low` and `high`."""
    return f"[{number(entry['low'], form)}, {number(entry['high'], form)}]"


def cell(entry: dict[str, Any], form: str = ".2f") -> str:
    """A value with its interval. entry: holds `value`, `low` and `high`."""
    return f"{number(entry['value'], form)} {interval(entry, form)}"
