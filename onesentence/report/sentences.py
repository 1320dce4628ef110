"""The numbers of an evaluation as plain sentences. No sentence claims more than its test showed."""

from collections.abc import Sequence
from typing import Any

from onesentence.core.text import percent
from onesentence.evaluation.comparison import ROUNDING, is_significant
from onesentence.evaluation.metrics import HEADLINE, METRICS
from onesentence.report.formatting import formatted, mde_text, p_text

NAMES = {  # of the pipeline's systems; other systems have the names that the user gave them
    "lead": "first sentence (lead)",
    "oracle": "extractive oracle",
    "base": "untuned base",
    "tuned": "fine-tuned model",
    "reference": "references",
}
LEANING = 0.05  # p of the rank test at and below which failures depend on the article's length


def clusters_phrase(evaluation: dict[str, Any]) -> str:
    """The number of articles, and of clusters where a cluster can hold more than one article."""
    n, resampling = evaluation["n"], evaluation["resampling"]
    articles = f"{n:,} article{'s' * (n != 1)}"
    if resampling["clusters"] == n:
        return articles
    unit, count = resampling["unit"], resampling["clusters"]
    return f"{articles} in {count:,} cluster{'s' * (count != 1)} (unit: {unit})"


def _sentence(text: str) -> str:
    """`text` with a capital T where it begins with "the"; other names keep their case."""
    return f"T{text[1:]}" if text.startswith("the ") else text


def difference_sentence(
    left: str, right: str, entry: dict[str, Any], metric: str, articles: str, confidence: float
) -> str:
    """One comparison in words: the difference, its interval, its p-value and the MDE.

    left, right: names as they are inside a sentence; articles: their number (`clusters_phrase`).
    """
    title = METRICS[metric].title
    if entry["value"] is None:
        return f"{left} and {right} cannot be compared in {title}: it is undefined."
    value = formatted(entry["value"], "+.2f")
    if entry["low"] is None:
        return _sentence(
            f"{left} differs from {right} by {value} points of {title} on {articles}: too few for a "
            f"{percent(confidence)} interval. Use articles of more clusters."
        )
    low, high = (formatted(entry[end], "+.2f") for end in ("low", "high"))
    numbers = (
        f"({percent(confidence)} interval {low} to {high}, {p_text(entry['p_holm'])} after Holm's correction)"
    )
    if entry["mde"] is None:
        # Without variation the formula gives an MDE of 0.00, which would promise certainty.
        power = f"The difference is the same on every unit of {articles}, so no MDE can be given"
    else:
        power = (
            f"Minimum detectable effect (MDE) of one test on {articles}, at 80% power: "
            f"{mde_text(entry['mde'])} points"
        )
    if is_significant(entry, confidence):
        gain = entry["value"] > 0
        verb, preposition = ("gains", "over") if gain else ("loses", "against")
        points = f"{abs(entry['value']):.2f} points of {title}"
        return _sentence(f"{left} {verb} {points} {preposition} {right} {numbers}. {power}.")
    caution = "" if entry["mde"] is None else "; a smaller true difference cannot be ruled out"
    return (
        f"No significant difference in {title} between {left} and {right}: {value} points {numbers}. "
        f"{power}{caution}."
    )


def resampling_sentence(evaluation: dict[str, Any]) -> str:
    """The unit that intervals and tests resample, and the design effect of its clusters."""
    n, resampling = evaluation["n"], evaluation["resampling"]
    if resampling["clusters"] == n:
        return "Intervals and tests resample single articles and treat them as independent."
    effect = evaluation["systems"]["tuned"][HEADLINE]["design_effect"]
    cost = (
        ""
        if effect is None
        else f" Design effect: the variance of the fine-tuned model's {METRICS[HEADLINE].title} is "
        f"{effect:.2f} times that of {n:,} independent articles."
    )
    count, equal = resampling["clusters"], round(resampling["effective_clusters"])
    sizes = (
        f" Their sizes differ: they carry as much information as {equal:,} clusters of equal size."
        if equal < count
        else ""
    )
    return (
        f"Intervals and tests resample {count:,} cluster{'s' * (count != 1)} (unit: {resampling['unit']}), "
        f"because articles of one cluster are alike.{sizes}{cost}"
    )


def family_sentence(comparisons: dict[str, Any], resamples: int, confidence: float, clusters: int) -> str:
    """The number of tests that Holm's correction covers, and whether there are enough resamples and clusters.

    clusters: of the articles; their number where each was drawn by itself.
    """
    tests, count = sum(len(pair) for pair in comparisons.values()), len(comparisons)
    # The smallest p of a randomization test is 1 / (resamples + 1); Holm multiplies it by the tests.
    smallest = tests / (resamples + 1)
    text = f"Holm's correction covers all {tests} tests ({count} comparison{'s' * (count != 1)})."
    if smallest > 1 - confidence + ROUNDING:
        text += (
            f" With {resamples:,} resamples no corrected p-value can fall below {min(1.0, smallest):.4f}, so "
            "no difference can be significant. Set evaluate.resamples to at least "
            f"{round(tests / (1 - confidence)):,}."
        )
    # All exchanges of the two systems' outputs: as many are as far from 0 as the observed difference and its
    # opposite.
    elif (least := tests * 2.0 ** (1 - clusters)) > 1 - confidence + ROUNDING:
        text += (
            f" With {clusters:,} cluster{'s' * (clusters != 1)} no corrected p-value can fall below "
            f"{min(1.0, least):.4f}, so no difference can be significant. Evaluate on articles of more "
            "clusters."
        )
    return text


def bias_sentence(name: str, bias: dict[str, Any], n: int) -> str:
    """How many outputs of a system failed, and whether that depends on the length of the article."""
    failed = bias["failed"]
    if failed == 0:
        return f"{name}: no output failed."
    if failed == n:
        return f"{name}: every output failed."
    failures = f"{name}: {failed:,} of {n:,} outputs failed ({failed / n:.1%}) and score 0"
    if bias["p"] is None:
        return f"{failures}; these clusters allow no test of whether failures depend on article length."
    medians = (
        f"median length {bias['median_words_failed']:,.0f} words against {bias['median_words_ok']:,.0f}, "
        f"rank test {p_text(bias['p'])}"
    )
    if bias["p"] > LEANING:
        return f"{failures}; failures do not depend significantly on article length ({medians})."
    length = "long" if bias["longer"] > 0.5 else "short"
    return (
        f"{failures}; {length} articles fail significantly more often ({medians}), so leaving failures out "
        "would bias the scores."
    )


def copying_sentence(systems: dict[str, Any]) -> str:
    """How much of the fine-tuned model's outputs and of the references is copied, which ROUGE cannot show."""
    tuned, reference = systems["tuned"], systems["reference"]
    if tuned["verbatim"]["value"] is None:
        return "No output of the fine-tuned model contains a word."
    return (
        f"{_percent(tuned['verbatim'])} of the fine-tuned model's outputs copy a span of their article word "
        f"for word (references: {_percent(reference['verbatim'])}). Novel 2-grams: "
        f"{_percent(tuned['novel_2'])} (references: {_percent(reference['novel_2'])})."
    )


def _percent(entry: dict[str, Any]) -> str:
    return "n/a" if entry["value"] is None else f"{entry['value']:.1f}%"


def summarize_evaluation(evaluation: dict[str, Any]) -> list[str]:
    """The evaluation in sentences, the most important first."""
    n, confidence = evaluation["n"], evaluation["confidence"]
    articles, sentences = clusters_phrase(evaluation), []
    for pair, metrics in evaluation["comparisons"].items():
        left, _, right = pair.partition("-")
        sentences.append(
            difference_sentence(
                f"the {NAMES[left]}", f"the {NAMES[right]}", metrics[HEADLINE], HEADLINE, articles, confidence
            )
        )
    sentences.append(resampling_sentence(evaluation))
    clusters = evaluation["resampling"]["clusters"]
    sentences.append(
        family_sentence(evaluation["comparisons"], evaluation["resamples"], confidence, clusters)
    )
    sentences.append(copying_sentence(evaluation["systems"]))
    for name, bias in evaluation["failure_bias"]["document_words"].items():
        sentences.append(bias_sentence(f"The {NAMES[name]}", bias, n))
    return sentences


def verdict_sentences(evaluation: dict[str, Any]) -> list[str]:
    """Two or three short sentences for the top of the page.

    They give the fine-tuned model's score, then the systems that it is significantly better or worse than,
    those that it does not differ from significantly, and those that too few articles allow no test against.
    """
    n, confidence = evaluation["n"], evaluation["confidence"]
    score = evaluation["systems"]["tuned"][HEADLINE]
    first = f"The fine-tuned model scores {score['value']:.2f} in {METRICS[HEADLINE].title}"
    first += f" on {n:,} article{'s' * (n != 1)}"
    if score["low"] is not None:
        first += f" ({percent(confidence)} interval {score['low']:.2f} to {score['high']:.2f})"
    groups: dict[str, list[str]] = {"better": [], "worse": [], "same": [], "untested": []}
    for pair, metrics in evaluation["comparisons"].items():
        left, _, right = pair.partition("-")
        entry = metrics[HEADLINE]
        if left == "tuned" and entry["value"] is not None:
            group = _outcome(entry, confidence)
            groups[group].append(f"the {NAMES[right]} ({_difference(entry, with_mde=group == 'same')})")
    sides = [f"significantly {key} than {_joined(groups[key])}" for key in ("better", "worse") if groups[key]]
    sentences = [f"{first}."]
    if sides:
        sentences.append(f"It is {' and '.join(sides)}.")
    if groups["same"]:
        sentences.append(f"It does not differ significantly from {_joined(groups['same'])}.")
    if groups["untested"]:
        sentences.append(
            f"There are too few clusters of articles to test it against {_joined(groups['untested'])}."
        )
    return sentences


def _outcome(entry: dict[str, Any], confidence: float) -> str:
    """What the test of a difference showed: better, worse, same (not significant) or untested."""
    if entry["low"] is None:
        return "untested"
    if not is_significant(entry, confidence):
        return "same"
    return "better" if entry["value"] > 0 else "worse"


def _difference(entry: dict[str, Any], with_mde: bool) -> str:
    """A difference in points, its interval and, where `with_mde`, its minimum detectable effect."""
    difference = f"{formatted(entry['value'], '+.2f')} points"
    if entry["low"] is not None:
        difference += f" [{formatted(entry['low'], '+.2f')}, {formatted(entry['high'], '+.2f')}]"
    if with_mde and entry["mde"] is not None:
        difference += f"; minimum detectable effect: {mde_text(entry['mde'])}"
    return difference


def _joined(words: Sequence[str]) -> str:
    """Words as a list in a sentence: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
