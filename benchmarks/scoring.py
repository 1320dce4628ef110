"""How fast is ROUGE with intervals, against rouge_score with its own BootstrapAggregator?

Both in one process, on the same files, ROUGE-1, 2, L and Lsum with stemmer, 1,000 resamples; the scores and
means must be the same. Ways take turns.

Run     python -m benchmarks.scoring --references FILE --predictions FILE [--rounds 5] [--output FILE]
"""

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.common import ratios
from onesentence.core import errors
from onesentence.core.errors import UserError
from onesentence.core.files import output_file, write_json
from onesentence.core.machine import machine
from onesentence.evaluation.external import align, read_outputs, read_references
from onesentence.evaluation.overlap.rouge import Rouge
from onesentence.evaluation.resampling import summary_of

RESAMPLES = 1_000
CONFIDENCE = 0.95


def ours(references: list[str], outputs: list[str]) -> tuple[np.ndarray, list[float]]:
    """(scores [texts, metrics], means) with intervals, by this project's code."""
    scorer = Rouge("en", meteor_synonyms=False)
    scores = np.array([scorer.all(r, o) for r, o in zip(references, outputs, strict=True)])
    means = [
        summary_of(100 * scores[:, k], RESAMPLES, CONFIDENCE)["value"] for k in range(len(Rouge.declared))
    ]
    return scores, means


def theirs(references: list[str], outputs: list[str]) -> tuple[np.ndarray, list[float]]:
    """The same by rouge_score alone."""
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.scoring import BootstrapAggregator

    scorer = RougeScorer(list(Rouge.declared), use_stemmer=True)
    aggregator = BootstrapAggregator(confidence_interval=CONFIDENCE, n_samples=RESAMPLES)
    found = [scorer.score(r, o) for r, o in zip(references, outputs, strict=True)]
    for row in found:
        aggregator.add_scores(row)
    aggregator.aggregate()
    scores = np.array([[row[name].fmeasure for name in Rouge.declared] for row in found])
    return scores, list(100 * scores.mean(axis=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--references", type=Path, required=True)
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=output_file)
    arguments = parser.parse_args()
    references = read_references(arguments.references)
    predictions = align(references, read_outputs(arguments.predictions, "predictions"))
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for way in (ours, theirs):  # imports are not what is measured
        way(references.texts[:10], predictions.texts[:10])
    for _ in range(arguments.rounds):
        found = {}
        for name, way in (("ours", ours), ("theirs", theirs)):
            started = time.perf_counter()
            found[name] = way(references.texts, predictions.texts)
            seconds[name].append(time.perf_counter() - started)
        if not np.array_equal(found["ours"][0], found["theirs"][0]):
            raise UserError("scoring: the ROUGE of single texts differs from rouge_score's")
        if not np.allclose(found["ours"][1], found["theirs"][1], atol=1e-6):
            raise UserError("scoring: the mean ROUGE differs from rouge_score's by more than 1e-6")
    speed = ratios(np.array(seconds["theirs"]), np.array(seconds["ours"]))
    result = {
        "texts": len(references.texts),
        "resamples": RESAMPLES,
        "times_rouge_score": speed,
        "machine": machine(),
    }
    print(f"scoring: {speed['median']:.1f} x rouge_score [{speed['low']:.1f}, {speed['high']:.1f}]")
    if arguments.output:
        write_json(arguments.output, result)


if __name__ == "__main__":
    errors.run(main)
