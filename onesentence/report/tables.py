"""The results as a table: one writer for plots/results.md and the README, one set of published rows."""

from onesentence.evaluation.comparison import is_real
from onesentence.evaluation.metrics import HEADLINE, METRICS
from onesentence.report.sentences import NAMES, clusters_phrase

# XSum test, ROUGE-1/2/L as published: (system, ROUGE-1, ROUGE-2, ROUGE-L, n, scorer, source).
PERL = "ROUGE-1.5.5"
PUBLISHED_XSUM = (
    ("first sentence (lead)", 16.30, 1.60, 11.95, 11_334, PERL, "Narayan et al. 2018"),
    ("extractive oracle", 29.79, 8.81, 22.66, 11_334, PERL, "Narayan et al. 2018"),
    ("ConvS2S", 31.27, 11.07, 25.23, 11_334, PERL, "Narayan et al. 2018"),
    ("Topic-ConvS2S", 31.89, 11.54, 25.75, 11_334, PERL, "Narayan et al. 2018"),
    ("Phi-2 + LoRA, 1,000 pairs", 32.08, 11.85, 24.66, 100, "not stated", "a course repository"),
    ("BART, QLoRA NF4 r = 16", 43.29, 20.05, 35.15, 11_334, PERL, "published LoRA study"),
    ("BART, LoRA r = 16", 43.95, 20.72, 35.68, 11_334, PERL, "published LoRA study"),
    ("BART-large", 45.14, 22.27, 37.25, 11_334, PERL, "Lewis et al. 2020"),
    ("PEGASUS", 47.21, 24.56, 39.25, 11_334, PERL, "Zhang et al. 2020"),
    ("BRIO", 49.07, 25.59, 40.40, 11_334, PERL, "Liu et al. 2022"),
)
ARROWS = {"higher": "↑", "lower": "↓", "none": ""}
SYSTEMS = ("lead", "oracle", "base", "tuned")
TABLE_METRICS = ("rouge1", "rouge2", "rougeL", "bertscore", "verbatim")  # of the table in the README

# What may be wrong with an output: (metric, what a reader calls it, whether the metric counts what is right).
FAULTS = (
    ("empty", "outputs that say nothing", False),
    ("echo", "outputs that begin with the prompt", False),
    ("stopped", "outputs cut off at the limit of tokens", True),
    ("verbatim", "outputs that are a span of their article", False),
    ("repeated_trigram", "outputs that repeat three words", False),
    ("name_precision", "names that the article lacks, of all names", True),
    ("number_precision", "numbers that the article lacks, of all numbers", True),
)


def complement(found: dict) -> dict:
    """100 less a percentage, with its interval."""
    ends = (("value", "value"), ("low", "high"), ("high", "low"))
    return {key: None if found[other] is None else 100 - found[other] for key, other in ends}


def faults_table(evaluation: dict) -> list[str]:
    """Markdown lines: how often outputs of the models are faulty, in percent with intervals."""
    lines = [f"| what goes wrong (%) | {NAMES['base']} | {NAMES['tuned']} |", "|---|---|---|"]
    for metric, words, right in FAULTS:
        cells = []
        for system in ("base", "tuned"):
            found = evaluation["systems"][system].get(metric)
            if found is None or found["value"] is None:
                cells.append("n/a")
            else:
                cells.append(cell(complement(found) if right else found))
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return lines


def results_table(evaluation: dict, reference: str) -> str:
    """Markdown: systems with intervals and success rate, the paired differences, faults, published rows."""
    percent = f"{evaluation['confidence']:.0%}"
    lines = [
        f"Split {evaluation['split']}, {clusters_phrase(evaluation)}; value [{percent} interval, "
        f"{evaluation['resamples']:,} resamples of whole clusters]; a failed output scores 0. ROUGE: "
        "rouge_score with stemmer, F1 x 100. Design effect: variance of ROUGE-1 over that of as many "
        "articles drawn one by one. Copied: outputs that are a span of their article word for word.",
        "",
        "| system | ROUGE-1 | design effect | ROUGE-2 | ROUGE-L | BERTScore | copied (%) | success rate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in SYSTEMS:
        found = evaluation["systems"][name]
        cells = [cell(found[metric]) for metric in TABLE_METRICS]
        cells.insert(1, number(found[HEADLINE]["design_effect"]))
        lines.append(f"| {NAMES[name]} | {' | '.join(cells)} | {found['success_rate']['value']:.1%} |")
    lines += [
        "",
        "Paired differences in ROUGE-1. MDE: minimum detectable effect of one test at 80% power. p: "
        "approximate randomization of whole clusters, after Holm's correction over all "
        f"{sum(map(len, evaluation['comparisons'].values()))} tests of `metrics/evaluation.json`.",
        "",
        "| difference | ROUGE-1 | design effect | MDE | p (Holm) | significant? |",
        "|---|---|---|---|---|---|",
    ]
    for pair, entries in evaluation["comparisons"].items():
        found = entries[HEADLINE]
        significant = "yes" if is_real(found, evaluation["confidence"]) else "no"
        lines.append(
            f"| {pair.replace('-', ' - ')} | {cell(found, '+.2f')} | {number(found['design_effect'])} | "
            f"{number(found['mde'])} | {number(found['p_holm'], '.4f')} | {significant} |"
        )
    lines += ["", *faults_table(evaluation)]
    if reference == "xsum":
        lines += [
            "",
            "Published on XSum's test set; the Perl ROUGE-1.5.5 runs 0.0 to 0.4 above rouge_score. "
            "The study's goal was a ROUGE-1 of 35.",
            "",
            "| system | ROUGE-1 | ROUGE-2 | ROUGE-L | n | scorer | source |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {name} | {r1:.2f} | {r2:.2f} | {rl:.2f} | {n:,} | {scorer} | {source} |"
            for name, r1, r2, rl, n, scorer, source in PUBLISHED_XSUM
        ]
    return "\n".join(lines) + "\n"


def score_rows(evaluation: dict, names: dict[str, str]) -> dict:
    """Columns and rows of the table of metrics by system. names: what a system is called, if not its key."""
    systems = evaluation["systems"]
    shown = [name for name in METRICS if any(name in found for found in systems.values())]
    return {
        "columns": ["metric", "unit", *(names.get(name, name) for name in systems)],
        "rows": [
            [
                METRICS[name].title,
                f"{METRICS[name].unit} {ARROWS[METRICS[name].direction]}".strip(),
                *(
                    cell(found[name], ".4f" if METRICS[name].unit == "share" else ".2f")
                    if name in found
                    else "n/a"
                    for found in systems.values()
                ),
            ]
            for name in shown
        ],
    }


def comparison_rows(evaluation: dict, pair: str) -> dict:
    """Columns and rows of the table of one paired comparison."""
    entries = evaluation["comparisons"][pair]
    percent = f"{evaluation['confidence']:.0%}"
    return {
        "columns": [
            "metric",
            "difference",
            f"{percent} interval",
            "BCa interval",
            "MDE",
            "p (boot.)",
            "p (rand.)",
            "p (Holm)",
            "significant?",
        ],
        "rows": [
            [
                METRICS[name].title,
                number(found["value"], "+.2f"),
                interval(found, "+.2f"),
                interval({"low": found["bca_low"], "high": found["bca_high"]}, "+.2f"),
                number(found["mde"]),
                *(number(found[key], ".4f") for key in ("p_bootstrap", "p_randomization", "p_holm")),
                "yes" if is_real(found, evaluation["confidence"]) else "no",
            ]
            for name, found in entries.items()
        ],
    }


def number(value: float | None, form: str = ".2f") -> str:
    """A number, or n/a where it is undefined."""
    return "n/a" if value is None else f"{value:{form}}"


def interval(found: dict, form: str = ".2f") -> str:
    """An interval in brackets."""
    return f"[{number(found['low'], form)}, {number(found['high'], form)}]"


def cell(found: dict, form: str = ".2f") -> str:
    """A value with its interval."""
    return f"{number(found['value'], form)} {interval(found, form)}"
