"""The verdict on the report page. Longer sentences are tested in tests/evaluation/test_metrics.py."""

from onesentence.report.sentences import verdict_sentences

SCORE = {"value": 30.811, "low": 28.54, "high": 32.89}
GAIN = {"value": 19.41, "low": 17.26, "high": 21.42, "mde": 3.1, "p_holm": 0.015}
LOSS = {"value": -2.5, "low": -3.5, "high": -1.5, "mde": 1.0, "p_holm": 0.015}
UNCLEAR = {"value": 0.4, "low": -1.99, "high": 2.64, "mde": 3.26, "p_holm": 0.93}


def evaluation(n: int = 500, score: dict = SCORE, **differences: dict) -> dict:
    """An evaluation with the differences tuned - NAME in ROUGE-1."""
    return {
        "n": n,
        "confidence": 0.95,
        "systems": {"tuned": {"rouge1": score}},
        "comparisons": {f"tuned-{name}": {"rouge1": entry} for name, entry in differences.items()},
    }


def test_the_verdict_groups_comparisons_by_what_their_test_showed():
    assert verdict_sentences(evaluation(base=GAIN, lead=GAIN, oracle=UNCLEAR)) == [
        "The fine-tuned model scores 30.81 in ROUGE-1 on 500 articles (95% interval 28.54 to 32.89).",
        "It is significantly better than the untuned base (+19.41 points [+17.26, +21.42]) and the first "
        "sentence (lead) (+19.41 points [+17.26, +21.42]).",
        "It does not differ significantly from the extractive oracle (+0.40 points [-1.99, +2.64]; minimum "
        "detectable effect: 3.26).",
    ]


def test_the_verdict_names_what_is_better_than_the_model():
    sentences = verdict_sentences(evaluation(base=GAIN, lead=LOSS, oracle=LOSS))
    assert len(sentences) == 2
    assert sentences[1].startswith("It is significantly better than the untuned base (+19.41 points")
    assert (
        "and significantly worse than the first sentence (lead) (-2.50 points [-3.50, -1.50]) and "
        in (sentences[1])
    )


def test_the_verdict_on_one_article_claims_nothing():
    """One article gives neither an interval nor a test."""
    score = {"value": 12.0, "low": None, "high": None}
    difference = {"value": 1.0, "low": None, "high": None, "mde": None, "p_holm": None}
    undefined = dict.fromkeys(difference)
    assert verdict_sentences(evaluation(1, score, base=difference, lead=undefined)) == [
        "The fine-tuned model scores 12.00 in ROUGE-1 on 1 article.",
        "There are too few clusters of articles to test it against the untuned base (+1.00 points).",
    ]
