"""A study in words, from its numbers alone: what differs, what does not, and what was too small to detect."""

from typing import Any

import numpy as np

from onesentence.core import params
from onesentence.evaluation.comparison import is_significant
from onesentence.evaluation.equivalence import DIFFERENT, EQUIVALENT, UNDECIDED
from onesentence.evaluation.metrics import HEADLINE
from onesentence.report.formatting import mde_text
from onesentence.study.analyses import ANALYSES
from onesentence.study.comparison import SUCCESS
from onesentence.study.experiments import flat, shown
from onesentence.study.phrases import TITLE, VARIANTS_LISTED, between

BOOKKEEPING = (  # settings that change no score
    *("data.validation_size", "data.test_size", "evaluate.split"),
    *("train.log_every", "train.checkpoint_every", "generate.max_batch_tokens"),
    *params.NO_EFFECT,
)
SET_WITH_MODEL = ("model.watch", "model.revision")  # settings that change with model.name
EXCEPTIONS_LISTED = 3  # variants with a setting of their own that a sentence lists
REMOVED = "removed"  # a default that params.yaml no longer has


def differences_sentence(result: dict[str, Any]) -> str:
    """Which variants differ significantly from the baseline, and the largest MDE of the others."""
    confidence, baseline = result["confidence"], result["baseline"]
    entries = {name: v["difference"][HEADLINE] for name, v in result["variants"].items() if v["difference"]}
    # df: a difference of a few articles can be rounded to 0 in the file, but it has degrees of freedom.
    same = [name for name, entry in entries.items() if entry["value"] == 0 and entry["df"] is None]
    significant = {name: entry for name, entry in entries.items() if is_significant(entry, confidence)}
    others = {name: entry for name, entry in entries.items() if name not in (*significant, *same)}
    sentences = []
    if significant:
        ordered = sorted(significant.items(), key=lambda item: -item[1]["value"])
        listed = ", ".join(f"{name} ({between(entry)})" for name, entry in ordered)
        sentences.append(f"Significantly different from {baseline} in {TITLE}: {listed}.")
    if others:
        effects = [entry["mde"] for entry in others.values() if entry["mde"] is not None]
        mde = f"(MDE up to {mde_text(max(effects))} points)" if effects else "(no MDE: nothing varies)"
        if significant or same:
            listed = ", ".join(others) if len(others) <= VARIANTS_LISTED else f"the other {len(others)}"
            sentences.append(f"No significant difference: {listed} {mde}.")
        else:
            sentences.append(f"No variant differs significantly from {baseline} in {TITLE} {mde}.")
    if same:
        sentences.append(f"Same score as {baseline} on every article: {', '.join(same)}.")
    return " ".join(sentences)


def equivalence_sentences(result: dict[str, Any]) -> list[str]:
    """Which variants are as good as the baseline within the margin that the study declares."""
    if "equivalence" not in result:
        return []
    tests, margin = result["equivalence"]["variants"], f"{result['equivalence']['margin']:g}"
    names = {
        verdict: ", ".join(name for name, test in tests.items() if test["verdict"] == verdict)
        for verdict in (EQUIVALENT, DIFFERENT, UNDECIDED)
    }
    within = f"{margin} point{'s' * (margin != '1')} of {TITLE}"
    sentences = {
        EQUIVALENT: f"Within {within} of {result['baseline']} (test of equivalence): {names[EQUIVALENT]}.",
        DIFFERENT: f"More than {within} from {result['baseline']}: {names[DIFFERENT]}.",
        UNDECIDED: f"Too few articles or seeds to decide whether within {within} of the baseline "
        f"{result['baseline']}: {names[UNDECIDED]}.",
    }
    return [" ".join(sentence for verdict, sentence in sentences.items() if names[verdict])]


def several_settings_sentences(result: dict[str, Any]) -> list[str]:
    """The variants that differ from the baseline in more than one setting."""
    baseline = result["variants"][result["baseline"]]["values"]
    by_keys: dict[str, list[str]] = {}
    for name, variant in result["variants"].items():
        keys = [key for key, value in variant["values"].items() if value != baseline[key]]
        keys = [key for key in keys if key not in (*BOOKKEEPING, *SET_WITH_MODEL)]
        if len(keys) > 1:
            by_keys.setdefault(", ".join(keys), []).append(name)
    if not by_keys:
        return []
    names = [name for group in by_keys.values() for name in group]
    if len(by_keys) > EXCEPTIONS_LISTED or len(names) > VARIANTS_LISTED:
        listed = f"{len(names)} of {len(result['variants']) - 1}"
    else:
        listed = "; ".join(f"{', '.join(group)} ({keys})" for keys, group in by_keys.items())
    return [f"Variants that differ from {result['baseline']} in more than one setting: {listed}."]


def untuned_sentences(result: dict[str, Any]) -> list[str]:
    """How the untuned base does, for each way to load and prompt it that the study has."""
    by_score: dict[tuple[float, float], list[str]] = {}
    for name, variant in result["variants"].items():
        if SUCCESS not in variant["base"]:  # compared before this was kept
            return []
        by_score.setdefault((variant["base"][HEADLINE]["value"], variant["base"][SUCCESS]), []).append(name)
    if len(by_score) > VARIANTS_LISTED:
        return []
    texts = []
    for (score, success), names in by_score.items():
        where = f" in {', '.join(names)}" if len(by_score) > 1 else ""
        texts.append(f"{score:.2f}{where} ({success:.0%} of the outputs succeed)")
    models = {variant["values"].get("model.name") for variant in result["variants"].values()}
    subject = "The untuned model scores" if len(models) == 1 else "The untuned models score"
    return [f"{subject} {'; '.join(texts)}. A failed output scores 0."]


def chance_sentence(result: dict[str, Any]) -> str:
    """How much seeds and articles each move a variant's score."""
    scores = [variant["scores"][HEADLINE] for variant in result["variants"].values()]
    largest = max(score["sampling_se"] for score in scores)
    sampling = (
        f"The sample of {result['n']:,} articles alone gives a score a standard error of up to "
        f"{largest:.2f} points."
    )
    if len(result["seeds"]) > 1:
        deviations = [score["seed_sd"] for score in scores]
        return (
            f"Scores of one variant's {len(result['seeds'])} seeds have a standard deviation of "
            f"{np.median(deviations):.2f} points (median over variants, at most {max(deviations):.2f}). "
            f"{sampling}"
        )
    if result["spread_from"]:
        return (
            "One seed for each variant. Intervals allow for other seeds with the seed variance of the study "
            f"{result['spread_from']}, where scores of one variant's seeds have a standard deviation of "
            f"{result['spread_sd']:.2f} points. {sampling}"
        )
    return (
        "One seed for each variant, with no allowance for other seeds: the results hold for these trained "
        f"models. {sampling}"
    )


def independence_sentences(result: dict[str, Any]) -> list[str]:
    """A note on a study that was compared before clusters were resampled, and whose scores are lost."""
    if "resampling" in result:
        return []
    return [
        "Articles are taken as independent: this study was compared before articles of one source file were "
        "resampled together. Its intervals are too narrow, by about a tenth for two variants of one model."
    ]


def analysis_sentences(result: dict[str, Any]) -> list[str]:
    """What the kind of study adds."""
    return [sentence for analysis in ANALYSES.values() for sentence in analysis.sentences(result)]


def exceptions(result: dict[str, Any], key: str) -> str:
    """The variants that set a study's setting to another value: ` (352 in phi-tiny-250)`; "" for none."""
    others: dict[str, list[str]] = {}
    for name, variant in result["variants"].items():
        if key in variant["sets"] and variant["sets"][key] != result["settings"][key]:
            others.setdefault(shown(variant["sets"][key]), []).append(name)
    count = sum(map(len, others.values()))
    if count > EXCEPTIONS_LISTED:
        return f" (others in {count} variants)"
    texts = [f"{value} in {', '.join(names)}" for value, names in others.items()]
    return f" ({'; '.join(texts)})" if texts else ""


def settings_sentence(result: dict[str, Any], values: dict[str, Any]) -> str:
    """The conditions of a study: scale, articles, seeds, and settings that change scores and that not every
    variant sets; then the defaults that params.yaml has changed since. values: params.yaml.
    """
    seeds = len(result["seeds"])
    own = set.intersection(*(set(variant["sets"]) for variant in result["variants"].values()))
    settings = [
        f"{key} {shown(value)}{exceptions(result, key)}"
        for key, value in result["settings"].items()
        if key not in (*BOOKKEEPING, *own)
    ]
    articles = f"{result['n']:,} {result['split']} articles"
    conditions = ", ".join([result["scale"], articles, f"{seeds} seed{'s' * (seeds > 1)}", *settings])
    now = flat(values)
    changed = [
        f"{key} {shown(value)} (now {shown(now.get(key, REMOVED))})"
        for key, value in result["defaults"].items()
        if key not in BOOKKEEPING and now.get(key, REMOVED) != value
    ]
    return f"{conditions}; defaults changed since: {', '.join(changed)}" if changed else conditions


def summarize_study(result: dict[str, Any]) -> list[str]:
    """A study in sentences. result: as in metrics/studies/NAME.json."""
    left_out = [f"Left out because runs are missing: {', '.join(result['left_out'])}."] * bool(
        result["left_out"]
    )
    return [
        *left_out,
        differences_sentence(result),
        *several_settings_sentences(result),
        *equivalence_sentences(result),
        *analysis_sentences(result),
        *untuned_sentences(result),
        *([result["note"]] if "note" in result else []),
        chance_sentence(result),
        *independence_sentences(result),
    ]
