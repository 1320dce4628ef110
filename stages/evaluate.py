"""Stage `evaluate`: every system on the same articles, with intervals, paired tests and signatures.

Reads   data/prepared/SPLIT.parquet, data/predictions/{base,tuned}.jsonl.
Writes  data/scores/SYSTEM.parquet (a row an id), metrics/evaluation.json, metrics/summary.json (headline).
Run     python -m stages.evaluate
        python -m stages.evaluate --references FILE --predictions FILE [--documents FILE] [--output FILE]

`lead` is the first sentence of the document, `oracle` its sentence with the best ROUGE-1 + ROUGE-2 against
the reference. An output that failed scores 0 and stays in every mean. The second form scores what others
made with the same code and settings, and touches no file but --output.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.common import errors, evaluation, params
from stages.common.article import Article
from stages.common.commandline import add_options, print_scores, score_files, with_options
from stages.common.errors import UserError
from stages.common.files import read_jsonl, read_parquet, write_json
from stages.common.metrics import test_hash, write_scores
from stages.common.overlap import oracle_sentences
from stages.common.text import body_of, first_sentence

PARAMS = ("data.source", "evaluate")
PREPARED = Path("data/prepared")
PREDICTIONS = Path("data/predictions")
SCORES = Path("data/scores")
EVALUATION = Path("metrics/evaluation.json")
SUMMARY = Path("metrics/summary.json")
GENERATED = ("base", "tuned")
COMPARISONS = [("tuned", "base"), ("tuned", "lead"), ("tuned", "oracle")]


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


def behaviour_of(rows: list[dict]) -> dict[str, np.ndarray]:
    """Columns that only generation knows: stopped by EOS, prompt echo, in %."""
    return {
        "stopped": np.array([100.0 * row["stopped"] for row in rows]),
        "echo": np.array([100.0 * (row["status"] == "echo") for row in rows]),
    }


def headline(found: dict) -> dict[str, float | None]:
    """metrics/summary.json: what `dvc exp show` and `dvc metrics diff` put side by side."""
    tuned, differences = found["systems"]["tuned"], found["comparisons"]
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


def run_stage() -> None:
    """Score the systems of the pipeline."""
    p = params.load(PARAMS)
    settings = p.evaluate
    table = read_parquet(PREPARED / f"{settings.split}.parquet")
    ids, references = table["id"].to_pylist(), table["summary"].to_pylist()
    sources = table["document"].to_pylist()
    bodies = [body_of(source, p.data.source) for source in sources]
    documents = [Article(body, source) for body, source in zip(bodies, sources, strict=True)]
    lengths = np.array([len(document.words) for document in documents])

    outputs = {
        "lead": [first_sentence(body) for body in bodies],
        "oracle": oracle_sentences(bodies, references),
    }
    succeeded = {name: [True] * len(ids) for name in outputs}
    statuses, behaviour, cut = {}, {}, {}
    for name in GENERATED:
        rows = predictions_by_id(PREDICTIONS / f"{name}.jsonl", ids)
        outputs[name] = [row["prediction"] for row in rows]
        succeeded[name] = [row["status"] == "ok" for row in rows]
        statuses[name] = [row["status"] for row in rows]
        behaviour[name] = behaviour_of(rows)
        cut[name] = [row["document_tokens_cut"] for row in rows]
    scores = evaluation.score_systems(
        ids, references, outputs, succeeded, documents, settings, bertscore=True, behaviour=behaviour
    )
    of_references = evaluation.score_references(ids, references, documents)

    described = {**scores, "reference": of_references}
    sums = evaluation.resampled(described, settings.resamples)
    found = {
        "split": settings.split,
        "n": len(ids),
        "test": test_hash(ids, references),
        "confidence": settings.confidence,
        "resamples": settings.resamples,
        "metrics": evaluation.definitions(scores),
        "systems": evaluation.summaries(described, sums, settings.confidence),
        "comparisons": evaluation.comparisons(
            scores, COMPARISONS, sums, settings.resamples, settings.confidence
        ),
        "failure_bias": {
            "document_words": {
                name: evaluation.failure_bias(scores[name].columns["success_rate"] > 0, lengths)
                for name in GENERATED
            }
        },
    }
    for name, system in described.items():
        more = {
            "document_words": pa.array(lengths, pa.int32()),
            "text": pa.array(outputs.get(name, references), pa.string()),
        }
        if name in GENERATED:
            more["status"] = pa.array(statuses[name], pa.string())
            more["document_tokens_cut"] = pa.array(cut[name], pa.int32())
        write_scores(SCORES / f"{name}.parquet", system, more)
    evaluation.write_evaluation(EVALUATION, found)
    write_json(SUMMARY, headline(found))
    shown = ", ".join(f"{name} {found['systems'][name]['rouge1']['value']:.2f}" for name in outputs)
    print(f"evaluate: ROUGE-1 (F1 x 100) on {len(ids):,} {settings.split} articles: {shown}")


def run_files(arguments: argparse.Namespace) -> None:
    """Score one file of predictions against one of references."""
    settings = with_options(params.load(("evaluate",)).evaluate, arguments)
    scores, test = score_files(arguments, {"predictions": arguments.predictions}, settings)
    sums = evaluation.resampled(scores, settings.resamples)
    found = {
        "n": len(scores["predictions"].ids),
        "test": test,
        "confidence": settings.confidence,
        "resamples": settings.resamples,
        "metrics": evaluation.definitions(scores),
        "systems": evaluation.summaries(scores, sums, settings.confidence),
    }
    print_scores(found)
    if arguments.output:
        evaluation.write_evaluation(arguments.output, found)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.evaluate", description=__doc__.split("\n")[0])
    add_options(parser)
    parser.add_argument("--predictions", type=Path, help="a text a line, or .jsonl with `prediction`")
    arguments = parser.parse_args()
    given = [name for name, value in vars(arguments).items() if value != parser.get_default(name)]
    if not given:
        run_stage()
    elif arguments.references is None or arguments.predictions is None:
        raise UserError("--references and --predictions belong together; without any option, the stage runs")
    else:
        run_files(arguments)


if __name__ == "__main__":
    errors.run(main)
