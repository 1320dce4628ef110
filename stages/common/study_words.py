"""A study in words, from its numbers alone: what differs, what does not, and what could have been missed."""

from stages.common.metrics import HEADLINE, METRICS
from stages.common.statistics import POWER
from stages.common.verdict import is_real

TITLE = METRICS[HEADLINE].title


def between(found: dict, spec: str = "+.2f") -> str:
    """value [low, high]."""
    return f"{found['value']:{spec}} [{found['low']:{spec}}, {found['high']:{spec}}]"


def differences_sentence(found: dict) -> str:
    """Which variants differ from the reference in the headline metric, and how small a difference shows."""
    confidence, reference = found["confidence"], found["reference"]
    entries = {name: v["difference"][HEADLINE] for name, v in found["variants"].items() if v["difference"]}
    real = {name: entry for name, entry in entries.items() if is_real(entry, confidence)}
    others = {name: entry for name, entry in entries.items() if name not in real}
    said = []
    if real:
        ordered = sorted(real.items(), key=lambda item: -item[1]["value"])
        shown = ", ".join(f"{name} {between(entry)}" for name, entry in ordered)
        said.append(f"Real differences in {TITLE} from {reference}: {shown}.")
    if others:
        largest = max(entry["detectable"] for entry in others.values())
        names = "no variant differs" if not real else f"not distinguishable: {', '.join(others)}"
        said.append(
            f"{'From ' + reference + ' ' if not real else ''}{names}; a true difference of {largest:.2f} "
            f"points would have shown in {POWER:.0%} of cases, a smaller one could have been missed."
        )
    text = " ".join(said)
    return text[0].upper() + text[1:]


def chance_sentence(found: dict) -> str:
    """How much seeds and articles each move a variant's score."""
    scores = [v["scores"][HEADLINE] for v in found["variants"].values()]
    articles = max(score["sampling_se"] for score in scores)
    if len(found["seeds"]) == 1:
        return (
            f"One seed each: how far seeds are apart is not known here; the draw of {found['n']:,} articles "
            f"alone moves a score by {articles:.2f} points (standard error)."
        )
    spread = sorted(score["seed_sd"] for score in scores)
    return (
        f"Seeds are {spread[len(spread) // 2]:.2f} points apart (median standard deviation over "
        f"{len(found['seeds'])} seeds, at most {spread[-1]:.2f}); the draw of {found['n']:,} articles moves "
        f"a score by {articles:.2f} points (standard error)."
    )


def analysis_sentences(found: dict) -> list[str]:
    """What the kind of study adds."""
    analysis, confidence = found["analysis"], found["confidence"]
    said = []
    for label, entry in analysis.get("for_each_doubling", {}).items():
        grows = entry["p"] <= 1 - confidence
        said.append(
            f"{label + ': ' if label else ''}{between(entry)} points of {TITLE} for each doubling "
            f"(p = {entry['p']:.4f}): "
            + (
                f"quality {'grows' if entry['value'] > 0 else 'falls'} with it."
                if grows
                else f"no trend is shown; one of {entry['detectable']:.2f} points would have been."
            )
        )
    for label, law in analysis.get("laws", {}).items():
        miss, near = law["miss"], law["within_one_point"]
        held = "missed the law" if miss["p"] <= 1 - confidence else "agrees with the law"
        said.append(
            f"{label + ': ' if label else ''}{TITLE} = {law['asymptote']:.2f} - {law['factor']:.3g} x "
            f"pairs^-{law['exponent']:.2f}, fitted without the largest size, which {held}: predicted "
            f"{between(law['predicted'], '.2f')}, off by {between(miss)}. Within one point of the largest "
            f"from {near['value']:,} pairs on [{near['low']:,}, {near['high']:,}]. The asymptote is an "
            "extrapolation."
        )
    if "pareto_front" in analysis:
        front = analysis["pareto_front"]
        shown = ", ".join(
            f"{name} ({found['variants'][name]['cost']['base_bytes'] / 1e6:,.1f} MB, "
            f"{found['variants'][name]['scores'][HEADLINE]['value']:.2f})"
            for name in front
        )
        said.append(f"Best quality for their memory: {shown}.")
    if "gap_closed_by_prompting" in analysis:
        closed = analysis["gap_closed_by_prompting"]
        best = analysis["best_prompt_of_the_base"]
        said.append(
            f"Prompting alone closes {100 * closed['value']:.0f}% [{100 * closed['low']:.0f}, "
            f"{100 * closed['high']:.0f}] of the way from the untuned base under {found['reference']} to the "
            f"model tuned with it; the untuned base's best prompt is {best}."
        )
    for name, entry in analysis.get("percent_below_full", {}).items():
        said.append(f"{name} is {between(entry, '.1f')}% below {found['reference']}.")
    for name, metrics in analysis.get("copying", {}).items():
        shown = ", ".join(
            f"{METRICS[metric].title} {between(entry)} points"
            + ("" if entry["p"] <= 1 - confidence else " (not distinguishable)")
            for metric, entry in metrics.items()
        )
        said.append(f"{name} against {found['reference']}: {shown}; p-values not corrected.")
    for entry in analysis.get("exchanges", []):
        if not is_real(entry, confidence):
            end = f"not distinguishable; {entry['detectable']:.2f} points would have been"
        else:
            better = "smaller model with more data" if entry["value"] > 0 else "larger model"
            end = f"the {better} is better"
        said.append(f"{entry['smaller']} against {entry['larger']}: {between(entry)}: {end}.")
    return said


def verdict(found: dict) -> list[str]:
    """A study in sentences. found: as metrics/studies/NAME.json."""
    return [differences_sentence(found), *analysis_sentences(found), chance_sentence(found)]
