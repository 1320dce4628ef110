"""Stage `evaluate`: every system on the same articles, with intervals and paired differences.

Reads   data/prepared/SPLIT.parquet, data/predictions/{base,adapter}.jsonl.
Writes  metrics/evaluation.json, metrics/summary.json (the headline), data/scores.parquet (a row for
        each article: what failed, and every system's ROUGE).
Run     python -m stages.evaluate

`lead` is the first sentence of the document. An output that failed scores 0 and stays in every mean.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.common import errors, params
from stages.common.errors import UserError
from stages.common.files import read_jsonl, read_parquet, write_json, write_parquet
from stages.common.scores import ROUGE, difference_of, rouge_scores, summary_of
from stages.common.text import body_of, first_sentence, words

PARAMS = ("data.source", "evaluate")
PREPARED = Path("data/prepared")
PREDICTIONS = Path("data/predictions")
EVALUATION = Path("metrics/evaluation.json")
SUMMARY = Path("metrics/summary.json")
SCORES = Path("data/scores.parquet")
SYSTEMS = ("lead", "base", "adapter")
DIFFERENCES = (("adapter", "base"), ("adapter", "lead"))


def predictions_by_id(path: Path, ids: list[str]) -> list[dict]:
    """The rows of a predictions file in the order of `ids`; they must be the same ids."""
    rows = read_jsonl(path)
    by_id = {row["id"]: row for row in rows}
    if len(by_id) != len(rows):
        raise UserError(f"{path}: {len(rows) - len(by_id)} ids stand twice; run `dvc repro`")
    missing, unknown = set(ids) - set(by_id), set(by_id) - set(ids)
    if missing or unknown:
        raise UserError(
            f"{path}: {len(missing)} articles have no prediction and {len(unknown)} predictions no article "
            f"(such as {sorted(missing | unknown)[0]!r}); run `dvc repro`"
        )
    return [by_id[name] for name in ids]


def main() -> None:
    p = params.load(PARAMS)
    settings = p.evaluate
    table = read_parquet(PREPARED / f"{settings.split}.parquet")
    ids, references = table["id"].to_pylist(), table["summary"].to_pylist()
    documents = [body_of(document, p.data.source) for document in table["document"].to_pylist()]

    outputs = {"lead": [first_sentence(document) for document in documents]}
    succeeded = {"lead": [bool(text) for text in outputs["lead"]]}
    for system in ("base", "adapter"):
        rows = predictions_by_id(PREDICTIONS / f"{system}.jsonl", ids)
        outputs[system] = [row["prediction"] for row in rows]
        succeeded[system] = [row["status"] == "ok" for row in rows]
    scores = {name: rouge_scores(references, outputs[name], succeeded[name]) for name in SYSTEMS}

    resamples, confidence = settings.bootstrap_samples, settings.confidence
    evaluation = {
        "split": settings.split,
        "n": len(ids),
        "systems": {
            name: {
                **{metric: summary_of(scores[name][metric], resamples, confidence) for metric in ROUGE},
                "success_rate": float(np.mean(succeeded[name])),
                "mean_words": float(np.mean([len(words(text)) for text in outputs[name]])),
            }
            for name in SYSTEMS
        },
        "differences": {
            f"{left}-{right}": {
                metric: difference_of(scores[left][metric], scores[right][metric], resamples, confidence)
                for metric in ROUGE
            }
            for left, right in DIFFERENCES
        },
        "reference_mean_words": float(np.mean([len(words(text)) for text in references])),
        "scorer": "rouge_score, F1 x 100, stemmer",
        "bootstrap_samples": resamples,
        "confidence": confidence,
    }
    columns = {
        "id": pa.array(ids, pa.string()),
        "document_words": pa.array([len(words(document)) for document in documents], pa.int32()),
    }
    for name in SYSTEMS:
        columns[f"{name}_succeeded"] = pa.array(succeeded[name], pa.bool_())
        for metric in ROUGE:
            columns[f"{name}_{metric}"] = pa.array(scores[name][metric], pa.float64())
    write_parquet(SCORES, columns)
    write_json(EVALUATION, evaluation)

    adapter = evaluation["systems"]["adapter"]
    write_json(
        SUMMARY,
        {
            "rouge1": adapter["rouge1"]["mean"],
            "rouge1_low": adapter["rouge1"]["low"],
            "rouge1_high": adapter["rouge1"]["high"],
            "rouge2": adapter["rouge2"]["mean"],
            "rougeL": adapter["rougeL"]["mean"],
            "success_rate": adapter["success_rate"],
            "rouge1_over_base": evaluation["differences"]["adapter-base"]["rouge1"]["mean"],
            "rouge1_over_lead": evaluation["differences"]["adapter-lead"]["rouge1"]["mean"],
        },
    )
    shown = ", ".join(f"{name} {evaluation['systems'][name]['rouge1']['mean']:.2f}" for name in SYSTEMS)
    print(f"evaluate: ROUGE-1 on {len(ids):,} {settings.split} articles: {shown}")


if __name__ == "__main__":
    errors.run(main)
