"""Stage `evaluate`: all systems on the same articles, with intervals, paired tests and signatures.

Reads   data/prepared/SPLIT.parquet, data/scores/.
Writes  metrics/evaluation.json, metrics/summary.json (headline).
Run     python -m stages.evaluate

A failed output scores 0 and stays in every mean. `onesentence score` scores other systems' outputs with the
same code and settings.
"""

from pathlib import Path
from typing import Any

from onesentence.core import params, stage
from onesentence.core.errors import UserError
from onesentence.core.files import read_parquet, write_json
from onesentence.core.language import require_language
from onesentence.evaluation import comparison
from onesentence.evaluation.metrics import Scores, read_scores, scores_file, test_hash

PARAMS = ("evaluate",)
PREPARED = Path("data/prepared")
EVALUATION = Path("metrics/evaluation.json")
SUMMARY = Path("metrics/summary.json")
SYSTEMS = ("lead", "oracle", "base", "tuned")
GENERATED = ("base", "tuned")
COMPARISONS = [("tuned", "base"), ("tuned", "lead"), ("tuned", "oracle")]


def headline(evaluation: dict[str, Any]) -> dict[str, float | None]:
    """Return metrics/summary.json: the numbers that `dvc exp show` and `dvc metrics diff` compare."""
    tuned, differences = evaluation["systems"]["tuned"], evaluation["comparisons"]
    return {
        "rouge1": tuned["rouge1"]["value"],
        "rouge1_low": tuned["rouge1"]["low"],
        "rouge1_high": tuned["rouge1"]["high"],
        "rouge2": tuned["rouge2"]["value"],
        "rougeL": tuned["rougeL"]["value"],
        "bertscore": tuned["bertscore"]["value"],
        "verbatim": tuned["verbatim"]["value"],
        "success_rate": tuned["success_rate"]["value"],
        "rouge1_over_base": differences["tuned-base"]["rouge1"]["value"],
        "rouge1_over_lead": differences["tuned-lead"]["rouge1"]["value"],
    }


def main() -> None:
    p = params.load(PARAMS)
    settings = p.evaluate
    table = read_parquet(PREPARED / f"{settings.split}.parquet", ["id", "summary"])
    ids, references = table["id"].to_pylist(), table["summary"].to_pylist()
    require_language(references, settings.language)
    # The references are described like a system, but not compared with one.
    described = {name: read_scores(scores_file(name)) for name in (*SYSTEMS, "reference")}
    for name, system in described.items():
        if system.ids != ids:
            raise UserError(f"{scores_file(name)}: its articles are not those of the split; run `dvc repro`")
    scores = {name: described[name] for name in SYSTEMS}
    lengths = read_parquet(scores_file("base"), ["document_words"])["document_words"].to_numpy()
    sums, sample = comparison.resampled(described, settings.resamples), comparison.sample_of(described)
    evaluation: dict[str, Any] = {
        "split": settings.split,
        "n": len(ids),
        "test": test_hash(ids, references),
        "confidence": settings.confidence,
        "resamples": settings.resamples,
        "resampling": comparison.described_sample(scores),
        "metrics": comparison.definitions(scores),
        "systems": comparison.summaries(described, sums, settings.confidence),
        "comparisons": comparison.comparisons(
            scores, COMPARISONS, sums, settings.resamples, settings.confidence
        ),
        "failure_bias": {
            "document_words": {
                name: comparison.failure_bias(scores[name].columns["success_rate"] > 0, lengths, sample)
                for name in GENERATED
            }
        },
    }
    comparison.write_evaluation(EVALUATION, evaluation)
    write_json(SUMMARY, headline(evaluation))
    print_warning(scores)
    rouge1 = ", ".join(f"{name} {evaluation['systems'][name]['rouge1']['value']:.2f}" for name in SYSTEMS)
    print(f"evaluate: ROUGE-1 (F1 x 100) on {len(ids):,} {settings.split} articles: {rouge1}")


def print_warning(scores: dict[str, Scores]) -> None:
    """Print a warning if clusters are few."""
    sample = comparison.sample_of(scores)
    warning = comparison.cluster_warning(sample, comparison.described_sample(scores)["unit"])
    if warning:
        print(f"evaluate: warning: {warning}")


if __name__ == "__main__":
    stage.run(main, __doc__)
