"""Scoring and testing texts from Python, with the metrics and tests of the pipeline.

from onesentence.evaluation.api import compare, score

scores = score(references, {"lead": first_sentences, "ours": outputs}, documents=articles)
found = compare(scores)
found["comparisons"]["lead-ours"]["rouge1"]  # value, low, high, p_randomization, p_holm, detectable, ...
"""

from itertools import combinations
from typing import Any

from onesentence.core.errors import UserError
from onesentence.core.language import ENGLISH, require_language
from onesentence.core.params import Evaluate, part_of
from onesentence.evaluation import comparison
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
    """Scores of every article by system: overlap with the reference, length, repetition, and copying.

    references, documents: [articles]; systems: outputs [articles] by name, "" where there is none (it scores
    0); documents: for what is copied and what has no source, None where they are not known; groups: the
    cluster that each article was drawn in, such as its newspaper (None: each article by itself); language:
    ISO 639-1, or `und` for another; more: names of optional metrics, such as chrf_plus. There is no BERTScore
    here: it takes a model, which params.yaml names.
    Raises UserError where the lists are of unlike lengths or the language does not suit the references.
    """
    lengths = {"references": len(references)} | {name: len(texts) for name, texts in systems.items()}
    lengths |= {"documents": len(documents)} if documents is not None else {}
    lengths |= {"groups": len(groups)} if groups is not None else {}
    for name, length in lengths.items():
        if length != len(references):
            raise UserError(
                f"{name}: expected {len(references):,} texts, as references has, found {length:,}"
            )
    require_language(references, language)
    return score_systems(
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
    """Every system's scores with intervals, and every system against each one named after it.

    scores: by system, of the same articles; confidence: 0 to 1. The result is laid out as
    metrics/evaluation.json: `systems`, `comparisons` by "left-right", `metrics` (signatures), `resampling`.
    Raises UserError where scores are of other articles or settings.
    """
    pairs = list(combinations(scores, 2))
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
