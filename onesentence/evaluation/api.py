"""Score texts and compare systems from Python, with the metrics and tests of the pipeline.

from onesentence.evaluation.api import compare, score

scores = score(references, {"lead": first_sentences, "ours": outputs}, documents=articles)
result = compare(scores)
result["comparisons"]["lead-ours"]["rouge1"]  # value, low, high, p_randomization, p_holm, mde, ...
"""

from itertools import combinations
from typing import Any

from onesentence.core.errors import UserError
from onesentence.core.language import ENGLISH, require_language
from onesentence.core.params import Evaluate, part_of
from onesentence.core.rules import LANGUAGE, LANGUAGES
from onesentence.core.text import has_word
from onesentence.evaluation import comparison, metrics
from onesentence.evaluation.extraction import Article
from onesentence.evaluation.metrics import ROW, Scores
from onesentence.evaluation.scoring import score_systems

CONFIDENCE, RESAMPLES = 0.95, 2_000


def score(
    references: list[str],
    systems: dict[str, list[str]],
    documents: list[str] | None = None,
    groups: list[str] | None = None,
    language: str = ENGLISH,
    more: tuple[str, ...] = (),
) -> dict[str, Scores]:
    """Return every article's scores by system: overlap with the reference, length, repetition and copying.

    references: [articles]. systems: outputs [articles] by name; "" is a missing output and scores 0.
    documents: the articles [articles]; None leaves out the metrics of copying and of unsupported numbers and
    names. groups: the cluster of each article, such as its newspaper; None makes each article its own
    cluster. language: ISO 639-1, or `und` for any other. more: names of optional metrics, such as chrf_plus.
    BERTScore is left out: it needs a model, which params.yaml names.
    Raises UserError if the lists differ in length, the language is unknown or does not fit the references, a
    reference has no word, or a name holds "-", which joins two names in a comparison.
    """
    if language not in LANGUAGES:
        raise UserError(f"language: expected {LANGUAGE.expected}, found {language!r}")
    for name in systems:
        if not name or "-" in name:
            raise UserError(f"systems: expected names without '-', found {name!r}")
    for label, texts in {"references": references, **systems, "documents": documents or []}.items():
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(f"{label}[{number}]: expected a text, found {type(text).__name__}")
    if not references:
        raise UserError("references: expected at least one text, found none")
    for number, text in enumerate(references):
        if not has_word(text):
            raise UserError(f"references[{number}]: has no word, so no output can match it; leave it out")
    lengths = {"references": len(references)} | {name: len(texts) for name, texts in systems.items()}
    lengths |= {"documents": len(documents)} if documents is not None else {}
    lengths |= {"groups": len(groups)} if groups is not None else {}
    for name, length in lengths.items():
        if length != len(references):
            raise UserError(
                f"{name}: expected {len(references):,} texts, one for each reference, found {length:,}"
            )
    require_language(references, language)
    return score_systems(
        # The hash of the test set needs ids, which lists do not have: numbers take their place.
        [str(row) for row in range(1, len(references) + 1)],
        references,
        systems,
        {name: [bool(text.strip()) for text in texts] for name, texts in systems.items()},
        None if documents is None else [Article(text) for text in documents],
        part_of(Evaluate, {"language": language, "meteor_synonyms": False}),
        bertscore=False,
        behaviour={},
        groups=groups,
        unit=ROW if groups is None else "group",
        more=more,
    )


def compare(
    scores: dict[str, Scores], resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> dict[str, Any]:
    """Return every system's scores with intervals, and its differences from each system named after it.

    scores: by system, for the same articles. confidence: 0 to 1. The result has the layout of
    metrics/evaluation.json: `systems`, `comparisons` by "left-right", `metrics` (signatures), `resampling`.
    Raises UserError if the scores differ in articles or settings, or an argument is out of its range.
    """
    if not scores:
        raise UserError("scores: expected those of at least one system, found none")
    if not 0 < confidence < 1:
        raise UserError(f"confidence: expected a number between 0 and 1, found {confidence!r}")
    if not isinstance(resamples, int) or resamples < 1:
        raise UserError(f"resamples: expected a whole number of at least 1, found {resamples!r}")
    pairs = list(combinations(scores, 2))
    for left, right in pairs:
        metrics.require_comparable(scores[left], scores[right], left, right)
    sums = comparison.resampled(scores, resamples)
    return {
        "n": len(next(iter(scores.values())).ids),
        "confidence": confidence,
        "resamples": resamples,
        "resampling": comparison.described_sample(scores),
        "metrics": comparison.definitions(scores),
        "systems": comparison.summaries(scores, sums, confidence),
        "comparisons": comparison.comparisons(scores, pairs, sums, resamples, confidence) if pairs else {},
    }
