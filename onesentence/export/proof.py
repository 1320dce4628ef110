"""The proof that an exported model scores as the measured one does, and why it does not where it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onesentence.core.params import Evaluate, Export
from onesentence.core.text import percent
from onesentence.evaluation import comparison
from onesentence.evaluation.equivalence import (
    EQUIVALENT,
    UNDECIDED,
    equivalence_of,
    tost_confidence,
    verdict_of,
)
from onesentence.evaluation.metrics import HEADLINE, METRICS, Scores
from onesentence.export.engines import Written, engine_of
from onesentence.export.folder import Exported

EXPORTED, MEASURED = "exported", "tuned"
BEAMS = "beams"  # the measured model with its beams, where MEASURED is without: llama.cpp has none
OUTPUTS_SHOWN = 2  # outputs that the error shows
LONGEST_TEXT = 160  # characters of an output in the error
KEPT = 0.99  # share of the update that a format should keep
LOST_STOPS = 5.0  # percentage points of outputs that no longer end by EOS


@dataclass(frozen=True)
class Article:
    """One article: what the measured model read and wrote, and what the exported one did."""

    id: str
    trained_prompt: Sequence[int]
    measured: str
    measured_stopped: bool
    written: Written

    @property
    def same_prompt(self) -> bool:
        """Whether both read the same token ids."""
        return list(self.trained_prompt) == self.written.prompt_ids

    @property
    def same_output(self) -> bool:
        """Whether both wrote the same text."""
        return self.measured == self.written.text


def folder_bytes(folder: Path) -> int:
    """The size of a folder's files, in bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def proof(
    exported: Exported,
    articles: list[Article],
    scores: dict[str, Scores],
    settings: Evaluate,
    export: Export,
    size: int,
) -> dict[str, Any]:
    """The content of metrics/export.json.

    scores: of EXPORTED and MEASURED on the same articles, and of BEAMS if MEASURED is decoded by greedy
    search; size: of the folder, in bytes.
    """
    sums = comparison.resampled(scores, settings.resamples)
    differences: dict[str, Any] = {}
    for other in (name for name in (MEASURED, BEAMS) if name in scores):  # a family of tests each
        pair = [(EXPORTED, other)]
        differences |= comparison.comparisons(scores, pair, sums, settings.resamples, settings.confidence)
    decoding = "greedy search" if BEAMS in scores else "as measured"
    return {
        "target": export.target,
        "engine": engine_of(exported),
        "decoding": decoding,
        "split": settings.split,
        "n": len(articles),
        "unit": comparison.described_sample(scores)["unit"],
        "resamples": settings.resamples,
        "confidence": settings.confidence,
        "equivalence": {
            "metric": HEADLINE,
            "confidence": tost_confidence(settings.confidence),
            **equivalence_of(
                scores[EXPORTED].columns[HEADLINE],
                scores[MEASURED].columns[HEADLINE],
                export.margin,
                settings.resamples,
                settings.confidence,
                comparison.sample_of(scores),
            ),
        },
        "differences": differences[f"{EXPORTED}-{MEASURED}"],
        **({"differences_from_beams": differences[f"{EXPORTED}-{BEAMS}"]} if BEAMS in scores else {}),
        "prompts_that_differ": sum(not article.same_prompt for article in articles),
        "outputs_that_differ": sum(not article.same_output for article in articles),
        "update_kept": exported.kept,
        "bytes": size,
    }


def stopped_percent(stops: Sequence[bool]) -> float:
    """The share of outputs that EOS ended, in %."""
    return 100 * sum(stops) / len(stops)


def likely_cause(exported: Exported, articles: list[Article], decoding: dict[str, tuple[Any, Any]]) -> str:
    """The most likely reason of a difference: prompt, decoding, EOS, the format of the weights.

    decoding: (measured, exported) values of the settings that differ, by name.
    """
    differ = [article for article in articles if not article.same_prompt]
    if differ:
        first = differ[0]
        return (
            f"the prompt or the tokenizer: {len(differ)} of {len(articles)} prompts have other token ids "
            f"({first.id}: {first_difference(first.trained_prompt, first.written.prompt_ids)}); compare "
            "chat_template.jinja and tokenizer.json with those of the trained model"
        )
    if decoding:
        listed = ", ".join(f"{name} is {now!r}, was {was!r}" for name, (was, now) in decoding.items())
        return (
            f"decoding: generation_config.json or the tokenizer has other settings than measured ({listed})"
        )
    was = stopped_percent([article.measured_stopped for article in articles])
    now = stopped_percent([article.written.stopped for article in articles])
    if now < was - LOST_STOPS:
        return (
            f"EOS: {now:.0f}% of the outputs end by EOS, {was:.0f}% did; the weights or the tokenizer are "
            "not those that were measured"
        )
    if exported.kept < KEPT:
        return (
            f"the format of the weights: {exported.dtype} kept {exported.kept:.1%} of the update; use "
            "model.dtype: float32, or export.target: adapter"
        )
    if exported.quantization != "none":
        return f"the format of the weights: {exported.quantization} rounds them; use another export.target"
    return (
        "the engine: prompts, settings and EOS are equal; it ranks beams by other numbers (other kernels, "
        "another format than in training, or n-grams that are banned before the softmax)"
    )


def first_difference(expected: Sequence[int], found: Sequence[int]) -> str:
    """Where two lists of token ids differ first."""
    for place, (left, right) in enumerate(zip(expected, found, strict=False)):
        if left != right:
            return f"token {place} is {right}, expected {left}"
    return f"{len(found)} tokens, expected {len(expected)}"


def shown(text: str) -> str:
    """A text on one line, cut for an error, without characters that act on a terminal."""
    return repr(text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " ...")


def failure(
    exported: Exported, articles: list[Article], result: dict[str, Any], decoding: dict[str, tuple[Any, Any]]
) -> str | None:
    """Why an exported model must not be shipped, in a few lines; None if it is equivalent.

    result: from `proof`; decoding: as in `likely_cause`.
    """
    test = result["equivalence"]
    if test["verdict"] == EQUIVALENT:
        return None
    title = METRICS[HEADLINE].title
    if test["low"] is None:
        interval = "too few clusters for an interval"
    else:
        interval = f"{percent(test['confidence'])} interval [{test['low']:+.2f}, {test['high']:+.2f}]"
    value = "undefined" if test["value"] is None else f"{test['value']:+.2f}"
    advice = ""
    if test["verdict"] == UNDECIDED:
        # Without an interval, or where the interval alone would decide, no margin helps: articles are few.
        by_interval = verdict_of(test["low"], test["high"], test["margin"])
        wider = " or a larger margin" if test["low"] is not None and by_interval == UNDECIDED else ""
        advice = f"; more articles (data.test_size){wider} could decide"
    differ = [article for article in articles if not article.same_output]
    lines = [
        f"export: {result['target']} ({result['engine']}) is not shown to score as the measured model: "
        f"{test['verdict']}, {title} {value} ({interval}, export.margin {test['margin']:g}){advice}",
        f"prompts that differ: {result['prompts_that_differ']} of {result['n']}; "
        f"outputs that differ: {len(differ)}",
    ]
    for article in differ[:OUTPUTS_SHOWN]:
        lines.append(
            f"{article.id}: measured {shown(article.measured)}, exported {shown(article.written.text)}"
        )
    if differ:
        lines.append(f"likely cause: {likely_cause(exported, articles, decoding)}")
    return "\n  ".join(lines)
