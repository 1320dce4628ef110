"""What the numbers say, in words that hold no more than they do."""

from onesentence.evaluation.comparison import ROUNDING, is_real
from onesentence.evaluation.metrics import HEADLINE, METRICS

NAMES = {  # of the pipeline's systems; a given system is called what the user calls it
    "lead": "first sentence (lead)",
    "oracle": "extractive oracle",
    "base": "untuned base",
    "tuned": "fine-tuned model",
    "reference": "references",
}
LEANING = 0.05  # p of the rank test below which failures are said to lean


def clusters_phrase(evaluation: dict) -> str:
    """How many articles were scored, and in how many clusters, where these are not articles themselves."""
    n, resampling = evaluation["n"], evaluation["resampling"]
    articles = f"{n:,} article{'s' * (n != 1)}"
    if resampling["clusters"] == n:
        return articles
    unit, count = resampling["unit"], resampling["clusters"]
    return f"{articles} in {count:,} cluster{'s' * (count != 1)} (unit: {unit})"


def difference_sentence(
    left: str, right: str, entry: dict, metric: str, articles: str, confidence: float
) -> str:
    """One comparison in words: the difference, its interval, and what could not have been seen.

    left, right: names as they are inside a sentence; articles: how many, and in how many clusters
    (`clusters_phrase`).
    """
    title = METRICS[metric].title
    if entry["value"] is None:
        return f"{left} and {right} cannot be compared in {title}: it is undefined."
    if entry["low"] is None:
        said = (
            f"{left} differs from {right} by {entry['value']:+.2f} points of {title} on {articles}: too few "
            f"for a {confidence:.0%} interval. Use articles of more clusters."
        )
        return f"T{said[1:]}" if said.startswith("the ") else said
    numbers = (
        f"({confidence:.0%} interval {entry['low']:+.2f} to {entry['high']:+.2f}, "
        f"p = {entry['p_holm']:.4f} after Holm's correction)"
    )
    if entry["mde"] is None:
        # No spread, no minimum detectable effect: "0.00 points" would promise what nothing supports.
        power = f"The difference is the same on every unit of {articles}, so no MDE can be given"
    else:
        power = (
            f"Minimum detectable effect (MDE) of one test on {articles}, at 80% power: "
            f"{entry['mde']:.2f} points"
        )
    if is_real(entry, confidence):
        verb = "gains" if entry["value"] > 0 else "loses"
        side = "over" if entry["value"] > 0 else "against"
        said = f"{left} {verb} {abs(entry['value']):.2f} points of {title} {side} {right} {numbers}. {power}."
        return f"T{said[1:]}" if said.startswith("the ") else said
    return (
        f"No significant difference in {title} between {left} and {right}: {entry['value']:+.2f} points "
        f"{numbers}. {power}{'' if entry['mde'] is None else '; a smaller one is not excluded'}."
    )


def resampling_sentence(evaluation: dict) -> str:
    """What the intervals resample, and what the clusters cost."""
    resampling, tuned = evaluation["resampling"], evaluation["systems"]["tuned"][HEADLINE]
    if resampling["clusters"] == evaluation["n"]:
        return "Intervals and tests resample articles one by one: none is taken to be like another."
    effect = tuned["design_effect"]
    cost = (
        ""
        if effect is None
        else f" The design effect of the fine-tuned model's {METRICS[HEADLINE].title} is {effect:.2f}: its "
        f"variance is {effect:.2f} times that of {evaluation['n']:,} articles drawn one by one."
    )
    return (
        f"Intervals and tests resample {resampling['clusters']:,} clusters (unit: {resampling['unit']}; they "
        f"tell as much as {resampling['effective_clusters']:.0f} of equal size), since articles of one "
        f"cluster are alike.{cost}"
    )


def family_sentence(comparisons: dict, resamples: int, confidence: float) -> str:
    """How many tests the p-values are corrected for, and whether so many can be told apart from chance."""
    tests = sum(len(pair) for pair in comparisons.values())
    smallest = tests / (resamples + 1)
    text = f"Holm's correction is over all {tests} tests ({len(comparisons)} comparisons)."
    if smallest > 1 - confidence + ROUNDING:
        text += (
            f" With {resamples:,} resamples no corrected p-value can fall below {min(1.0, smallest):.4f}: "
            "nothing can be called real. Set evaluate.resamples to at least "
            f"{round(tests / (1 - confidence)):,}."
        )
    return text


def bias_sentence(name: str, bias: dict, n: int) -> str:
    """Whether a system's failures lean to long or short articles."""
    failed = bias["failed"]
    if failed == 0:
        return f"{name}: no output failed."
    if failed == n:
        return f"{name}: every output failed."
    counted = f"{name}: {failed:,} of {n:,} outputs failed ({failed / n:.1%}) and score 0"
    if bias["p"] is None:
        return f"{counted}; whether they lean to long or short articles cannot be tested on these clusters."
    medians = (
        f"median length {bias['median_words_failed']:,.0f} words against {bias['median_words_ok']:,.0f}, "
        f"rank test p = {bias['p']:.4f}"
    )
    if bias["p"] > LEANING:
        return f"{counted}; they do not lean to long or short articles ({medians})."
    side = "long" if bias["longer"] > 0.5 else "short"
    return f"{counted}; they lean to {side} articles ({medians}): dropping them would bias the scores."


def copying_sentence(systems: dict) -> str:
    """What ROUGE cannot show: how much of the fine-tuned model's output is copied, against the references."""
    tuned, reference = systems["tuned"], systems["reference"]
    if tuned["verbatim"]["value"] is None:
        return "No output of the fine-tuned model has a word in it."
    return (
        f"{tuned['verbatim']['value']:.1f}% of the fine-tuned model's outputs are spans of their article "
        f"word for word, of the references {reference['verbatim']['value']:.1f}%. New 2-grams: "
        f"{_shown(tuned['novel_2']['value'])}% against {_shown(reference['novel_2']['value'])}%."
    )


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"


def summarize_evaluation(evaluation: dict) -> list[str]:
    """The evaluation in sentences, the most important first."""
    n, confidence = evaluation["n"], evaluation["confidence"]
    articles, said = clusters_phrase(evaluation), []
    for pair, found in evaluation["comparisons"].items():
        left, _, right = pair.partition("-")
        said.append(
            difference_sentence(
                f"the {NAMES[left]}", f"the {NAMES[right]}", found[HEADLINE], HEADLINE, articles, confidence
            )
        )
    said.append(resampling_sentence(evaluation))
    said.append(family_sentence(evaluation["comparisons"], evaluation["resamples"], confidence))
    said.append(copying_sentence(evaluation["systems"]))
    for name, bias in evaluation["failure_bias"]["document_words"].items():
        said.append(bias_sentence(f"The {NAMES[name]}", bias, n))
    return said
