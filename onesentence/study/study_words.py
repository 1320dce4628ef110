"""A study in words, from its numbers alone: what differs, what does not, and what could have been missed."""

import numpy as np

from onesentence.evaluation.metrics import HEADLINE, METRICS
from onesentence.evaluation.statistics import POWER
from onesentence.report.verdict import is_real
from onesentence.study.experiments import flat, shown

TITLE = METRICS[HEADLINE].title
NAMED = 8  # variants that a sentence lists; beyond, it counts them and the plot names them
EXPECTED = 5  # percent below full fine-tuning that the original study expected LoRA to stay under
BOOKKEEPING = (  # settings that change no score
    *("data.validation_size", "data.test_size", "evaluate.split"),
    *("train.log_every", "train.checkpoint_every", "generate.batch_tokens"),
)


def between(found: dict, spec: str = "+.2f") -> str:
    """value [low, high]."""
    return f"{found['value']:{spec}} [{found['low']:{spec}}, {found['high']:{spec}}]"


def would_show(entry: dict) -> str:
    """What a test that showed nothing would have shown."""
    if entry["detectable"] is None:
        return "and nothing varies, so that no minimum detectable effect can be given"
    return f"where one of {entry['detectable']:.2f} would have been in {POWER:.0%} of cases"


def differences_sentence(found: dict) -> str:
    """Which variants differ from the reference in the headline metric, and how small a difference shows."""
    confidence, reference = found["confidence"], found["reference"]
    entries = {name: v["difference"][HEADLINE] for name, v in found["variants"].items() if v["difference"]}
    same = [name for name, entry in entries.items() if entry["se"] == 0 == entry["value"]]
    real = {name: entry for name, entry in entries.items() if is_real(entry, confidence)}
    others = {name: entry for name, entry in entries.items() if name not in (*real, *same)}
    said = []
    if real:
        ordered = sorted(real.items(), key=lambda item: -item[1]["value"])
        shown = ", ".join(f"{name} {between(entry)}" for name, entry in ordered)
        said.append(f"Real differences in {TITLE} from {reference}: {shown}.")
    if others:
        largest = max(entry["detectable"] or 0.0 for entry in others.values())
        if real or same:
            shown = ", ".join(others) if len(others) <= NAMED else f"the other {len(others)}"
            names = f"Not distinguishable from {reference}: {shown}"
        else:
            names = f"No variant was shown to differ from {reference} in {TITLE}"
        said.append(
            f"{names}; a true difference of {largest:.2f} points would have been called real in "
            f"{POWER:.0%} of cases, a smaller one could have been missed."
        )
    if same:
        said.append(f"Scores of every article are those of {reference}: {', '.join(same)}.")
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


def trend_sentence(label: str, entry: dict, unit: str, confidence: float) -> str:
    """A slope in words."""
    found = f"{label + ': ' if label else ''}{between(entry)} points of {TITLE} for {unit}"
    if is_real(entry, confidence):
        verb = "grows" if entry["value"] > 0 else "falls"
        return f"{found} (p = {entry['p_holm']:.4f}): quality {verb} with it."
    return f"{found} (p = {entry['p_holm']:.4f}): no trend was shown, {would_show(entry)}."


def law_sentence(label: str, law: dict, confidence: float) -> str:
    """A power law, what it foretold, and how little data would do."""
    miss, near = law["miss"], law["within_one_point"]
    if not is_real(law["growth"], confidence) or law["growth"]["value"] < 0:
        return (
            f"{label + ': ' if label else ''}from the smallest size to the largest {between(law['growth'])} "
            f"points: no growth with the data was shown, {would_show(law['growth'])}, and there is no law "
            "to fit."
        )
    if law["saturates"]:
        form = (
            f"{TITLE} = {law['asymptote']['value']:.2f} - {law['factor']['value']:.3g} x "
            f"pairs^-{law['exponent']['value']:.2f}, fitted without the largest size; the asymptote "
            f"[{law['asymptote']['low']:.2f}, {law['asymptote']['high']:.2f}] is an extrapolation"
        )
    else:
        form = (
            "a power law fitted without the largest size does not tell whether scores saturate: how far more "
            "data would lead cannot be said"
        )
    if is_real(miss, confidence):
        held = "the measured score misses it"
    else:
        held = f"no miss was shown, {would_show(miss)}"
    interval = f"(interval {near['low']:,} to {near['high']:,})"
    if near["value"] == law["curve"][-1][0]:
        enough = f"Scores are within one point of the largest size's from that size on {interval}."
    else:
        enough = (
            f"Scores are within one point of the largest size's from {near['value']:,} pairs on {interval}."
        )
    said = (
        f"{form}. It foretold {between(law['predicted'], '.2f')} for the largest size, off by "
        f"{between(miss)}: {held}. {enough}"
    )
    return f"{label}: {said}" if label else said[0].upper() + said[1:]


def best_sentence(label: str, entry: dict, found: dict) -> str:
    """The best of a series, what it may be confused with, and what its choice is worth."""
    open_, over = entry["not_distinguishable"], entry["over_reference"]
    shown = ", ".join(open_) if len(open_) <= NAMED else f"{len(open_)} others"
    rest = f"not distinguishable from it: {shown}" if open_ else "all others are worse"
    first = f"{label + ': ' if label else ''}best is {entry['best']}"
    if not label and (sets := found["variants"][entry["best"]]["sets"]):
        first += f" ({', '.join(f'{key} {value}' for key, value in sets.items())})"
    if entry["at_the_end"]:
        first += f" (the {entry['at_the_end']} that was tried: a better one may lie beyond)"
    if entry["best"] == found["reference"]:
        return f"{first}, the reference; {rest}."
    worth = "" if is_real(over, found["confidence"]) else f": no gain was shown, {would_show(over)}"
    return (
        f"{first}; {rest}. Chosen on one half of the articles and measured on the other, the best is "
        f"{between(over)} from {found['reference']}{worth}; the interval allows for the luck of a seed that "
        "was chosen too."
    )


def prompt_sentences(analysis: dict, found: dict) -> list[str]:
    """What a prompt alone reaches, and what its length is worth."""
    closed = analysis["percent_of_the_gap_closed_by_prompting"]
    said = [
        f"The untuned base's best prompt is {analysis['best_prompt_of_the_base']}. The model tuned "
        f"with {found['reference']} is {between(analysis['gap'])} points above the untuned base under it."
    ]
    if closed["value"] is not None:
        said.append(
            f"The best prompt alone, chosen on one half of the articles and measured on the other, closes "
            f"{between(closed, '.1f')}% of that gap."
        )
    for label, entry in analysis["for_each_10_tokens_of_prompt"].items():
        said.append(trend_sentence(label, entry, "10 more tokens of prompt", found["confidence"]))
    return said


def full_sentence(name: str, entry: dict, reference: str) -> str:
    """How far from training every weight, and whether that is under the 5 % that the study expected."""
    if entry["high"] < EXPECTED:
        held = f"under {EXPECTED}%"
    elif entry["low"] > EXPECTED:
        held = f"more than {EXPECTED}%"
    else:
        held = f"whether under {EXPECTED}% is open"
    above = ", that is above it" if entry["value"] < 0 else ""
    return f"{name} is {between(entry, '.1f')}% below {reference}{above}: {held}."


def analysis_sentences(found: dict) -> list[str]:
    """What the kind of study adds."""
    analysis, confidence = found["analysis"], found["confidence"]
    said = [
        trend_sentence(label, entry, "each doubling", confidence)
        for label, entry in analysis.get("for_each_doubling", {}).items()
    ]
    said += [best_sentence(label, entry, found) for label, entry in analysis.get("best", {}).items()]
    said += [law_sentence(label, law, confidence) for label, law in analysis.get("laws", {}).items()]
    if "pareto_front" in analysis:
        shown = ", ".join(
            f"{name} ({found['variants'][name]['cost']['base_bytes'] / 1e6:,.1f} MB, {TITLE} "
            f"{found['variants'][name]['scores'][HEADLINE]['value']:.2f}; so in "
            f"{analysis['percent_of_draws_on_it'][name]:.0f}% of the resamples)"
            for name in analysis["pareto_front"]
        )
        said.append(f"No other variant is both smaller and better than one of these: {shown}.")
    if "gap" in analysis:
        said += prompt_sentences(analysis, found)
    for name, entry in analysis.get("percent_below_full", {}).items():
        said.append(full_sentence(name, entry, found["reference"]))
    if "percent_below_full" in analysis:
        said.append("The intervals of these percentages hold for all variants at once.")
    for name, metrics in analysis.get("copying", {}).items():
        shown = ", ".join(
            f"{METRICS[metric].title} {between(entry)} points"
            + ("" if is_real(entry, confidence) else " (not distinguishable)")
            for metric, entry in metrics.items()
            if entry["value"] is not None
        )
        said.append(f"{name} against {found['reference']}: {shown or 'undefined'}.")
    exchanges = analysis.get("exchanges", [])
    if exchanges:
        real = [entry["value"] > 0 for entry in exchanges if is_real(entry, confidence)]
        said.append(
            f"Of {len(exchanges)} pairs of a model with more data and the next larger one with less, the "
            f"smaller is better in {real.count(True)}, the larger in {real.count(False)}, and neither was "
            f"shown to be in {len(exchanges) - len(real)}."
        )
    for entry in exchanges:
        if is_real(entry, confidence):
            better = "smaller model with more data" if entry["value"] > 0 else "larger model"
            end = f"the {better} is better"
        else:
            end = f"not distinguishable, {would_show(entry)}"
        said.append(f"{entry['smaller']} against {entry['larger']}: {between(entry)}: {end}.")
    return said


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


def verdict(found: dict) -> list[str]:
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
