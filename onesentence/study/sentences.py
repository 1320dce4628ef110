"""A study in words, from its numbers alone: what differs, what does not, and what could have been missed."""

import numpy as np

from onesentence.evaluation.comparison import is_real
from onesentence.evaluation.metrics import HEADLINE
from onesentence.evaluation.resampling import POWER
from onesentence.study.analyses import ANALYSES
from onesentence.study.experiments import flat, shown
from onesentence.study.phrases import NAMED, TITLE, between

BOOKKEEPING = (  # settings that change no score
    *("data.validation_size", "data.test_size", "evaluate.split"),
    *("train.log_every", "train.checkpoint_every", "generate.max_batch_tokens"),
)


def differences_sentence(found: dict) -> str:
    """Which variants differ from the baseline in the headline metric, and how small a difference shows."""
    confidence, baseline = found["confidence"], found["baseline"]
    entries = {name: v["difference"][HEADLINE] for name, v in found["variants"].items() if v["difference"]}
    same = [name for name, entry in entries.items() if entry["se"] == 0 == entry["value"]]
    real = {name: entry for name, entry in entries.items() if is_real(entry, confidence)}
    others = {name: entry for name, entry in entries.items() if name not in (*real, *same)}
    said = []
    if real:
        ordered = sorted(real.items(), key=lambda item: -item[1]["value"])
        shown = ", ".join(f"{name} {between(entry)}" for name, entry in ordered)
        said.append(f"Real differences in {TITLE} from {baseline}: {shown}.")
    if others:
        largest = max(entry["mde"] or 0.0 for entry in others.values())
        if real or same:
            shown = ", ".join(others) if len(others) <= NAMED else f"the other {len(others)}"
            names = f"Not distinguishable from {baseline}: {shown}"
        else:
            names = f"No variant was shown to differ from {baseline} in {TITLE}"
        said.append(
            f"{names}; a true difference of {largest:.2f} points would have been called real in "
            f"{POWER:.0%} of cases, a smaller one could have been missed."
        )
    if same:
        said.append(f"Scores of every article are those of {baseline}: {', '.join(same)}.")
    return " ".join(said)


def chance_sentence(found: dict) -> str:
    """How much seeds and articles each move a variant's score."""
    scores = [v["scores"][HEADLINE] for v in found["variants"].values()]
    articles = max(score["sampling_se"] for score in scores)
    drawn = (
        f"the draw of {found['n']:,} articles alone moves a score by {articles:.2f} points (standard error)"
    )
    if len(found["seeds"]) > 1:
        spread = [score["seed_sd"] for score in scores]
        return (
            f"Scores of one variant's {len(found['seeds'])} seeds have a standard deviation of "
            f"{np.median(spread):.2f} points (median over variants, at most {max(spread):.2f}); {drawn}."
        )
    if found["spread_from"]:
        return (
            f"One seed each; seeds are taken to be as far apart as in the study {found['spread_from']} (a "
            f"standard deviation of {found['spread_sd']:.2f} points); {drawn}."
        )
    return (
        f"One seed each, and no allowance for another: what is said holds for these trained models; {drawn}."
    )


def independence_sentences(found: dict) -> list[str]:
    """A note on a study that was compared before clusters were resampled, and whose scores are gone."""
    if "resampling" in found:
        return []
    return [
        "Rows taken as independent: this study was compared before articles of one source file were "
        "resampled together, so its intervals are too narrow, by about a tenth for two variants of one model."
    ]


def analysis_sentences(found: dict) -> list[str]:
    """What the kind of study adds."""
    return [sentence for analysis in ANALYSES.values() for sentence in analysis.sentences(found)]


def settings_sentence(found: dict, values: dict) -> str:
    """On what a study was made: the settings that change scores, but for those that every variant sets; and
    what params.yaml had then and has no more. values: params.yaml.
    """
    seeds = len(found["seeds"])
    own = set.intersection(*(set(variant["sets"]) for variant in found["variants"].values()))
    settings = [
        f"{key} {shown(value)}" for key, value in found["settings"].items() if key not in (*BOOKKEEPING, *own)
    ]
    articles = f"{found['n']:,} {found['split']} articles"
    said = ", ".join([found["scale"], articles, f"{seeds} seed{'s' * (seeds > 1)}", *settings])
    now = flat(values)
    changed = [
        f"{key} {shown(value)}, now {shown(now.get(key, 'gone'))}"
        for key, value in found["defaults"].items()
        if key not in BOOKKEEPING and now.get(key, "gone") != value
    ]
    return f"{said}; made with {'; '.join(changed)}" if changed else said


def summarize_study(found: dict) -> list[str]:
    """A study in sentences. found: as metrics/studies/NAME.json."""
    left_out = [f"Left out, since not every run is there: {', '.join(found['left_out'])}."] * bool(
        found["left_out"]
    )
    return [
        *left_out,
        differences_sentence(found),
        *analysis_sentences(found),
        chance_sentence(found),
        *independence_sentences(found),
    ]
