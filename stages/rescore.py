"""Stage `rescore`: run the exported model as other programs do, and prove that it scores as the measured one.

Reads   models/exported/ (and an adapter's base), data/prepared/SPLIT.parquet, data/tokenized/SPLIT.parquet
        (the prompts that were measured), data/predictions/tuned.jsonl, data/scores/tuned/.
Writes  data/predictions/exported.jsonl, data/scores/exported/, metrics/export.json.
Run     python -m stages.rescore (a pipeline of its own: `make export`)

Articles are the evaluated split's. The test is of equivalence: the interval of exported - measured must lie
within `export.margin`. Otherwise the stage fails, and says what differs and why.

llama.cpp has no beam search. A GGUF file is compared with the tuned model (models/tuned/) in greedy search,
which is run here; the difference to its beams is written beside that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from onesentence.core import params, stage
from onesentence.core.errors import UserError
from onesentence.core.files import atomic_write, id_arrays, read_jsonl, read_parquet, write_json, write_jsonl
from onesentence.core.runtime import set_up
from onesentence.core.text import with_heading
from onesentence.evaluation import extraction, scoring
from onesentence.evaluation.metrics import Scores, read_scores, unit_of, write_scores
from onesentence.export import engines, proof
from onesentence.export.folder import GGUF, Exported, read_settings
from onesentence.export.prompt_template import cut_article
from onesentence.generation.decoding import summarize_in_batches
from onesentence.generation.smoke_test import require_complete
from onesentence.model.adapters import load_tuned
from onesentence.model.loading import load_tokenizer

PARAMS = (
    "data.source",
    "data.group_column",
    "evaluate",
    "export",
    "generate.quantization",  # of the model that is measured in greedy search
    "model",
)
EXPORTED = Path("models/exported")
TUNED = Path("models/tuned")
PREPARED = Path("data/prepared")
TOKENIZED = Path("data/tokenized")
MEASURED = Path("data/predictions/tuned.jsonl")
MEASURED_SCORES = Path("data/scores/tuned")
PREDICTIONS = Path("data/predictions/exported.jsonl")
SCORES = Path("data/scores/exported")
METRICS_FILE = Path("metrics/export.json")


def write_all(
    exported: Exported, ids: list[str], articles: list[str]
) -> tuple[list[engines.Written], list[int]]:
    """(the output for each article, how many tokens of it were cut), in order."""
    tokenizer = engines.load_exported_tokenizer(EXPORTED)
    cut = [cut_article(tokenizer, exported.frame, text, exported.max_input_tokens) for text in articles]
    by_index: dict[int, engines.Written] = {}
    with tqdm(total=len(ids), desc=f"rescore {exported.target}", unit="article") as bar:
        for batch, outputs in engines.run(EXPORTED, exported, [text for text, _ in cut]):
            by_index |= zip(batch, outputs, strict=True)
            bar.update(len(batch))
    return [by_index[i] for i in range(len(ids))], [tokens for _, tokens in cut]


def measure_greedily(
    model: params.Model, exported: Exported, ids: list[str], prompts: list[list[int]]
) -> list[dict[str, Any]]:
    """What data/predictions/tuned.jsonl would hold in greedy search: the tuned model's rows, in order."""
    tokenizer, tuned = load_tokenizer(model), load_tuned(model, TUNED)
    by_index = {}
    with tqdm(total=len(ids), desc="measured model, greedy search", unit="article") as bar:
        for batch, outputs in summarize_in_batches(tuned, tokenizer, prompts, exported.generate, ids):
            by_index |= zip(batch, outputs, strict=True)
            bar.update(len(batch))
    outputs = [by_index[i] for i in range(len(ids))]
    for name, output in zip(ids, outputs, strict=True):
        require_complete(output, exported.generate.max_new_tokens, name, "the measured model")
    return [
        {"id": name, "prediction": output.text, "status": output.status, "stopped": output.stopped}
        for name, output in zip(ids, outputs, strict=True)
    ]


def rows_of(ids: list[str], written: list[engines.Written], cut: list[int]) -> list[dict[str, Any]]:
    """The rows of data/predictions/exported.jsonl, with the columns that stage `generate` writes."""
    return [
        {
            "id": name,
            "prediction": output.text,
            "status": output.status,
            "input_tokens": len(output.prompt_ids),
            "output_tokens": len(output.tokens),
            "document_tokens_cut": tokens,
            "stopped": output.stopped,
        }
        for name, output, tokens in zip(ids, written, cut, strict=True)
    ]


def score(p: params.Params, table: pa.Table, rows: dict[str, list[dict[str, Any]]]) -> dict[str, Scores]:
    """The scores of each system, computed and stored as stage `score` does. rows: by system."""
    bodies = table["document"].to_pylist()
    whole = map(with_heading, table["heading"].to_pylist(), bodies)
    scores = scoring.score_systems(
        table["id"].to_pylist(),
        table["summary"].to_pylist(),
        {name: [row["prediction"] for row in system] for name, system in rows.items()},
        {name: [row["status"] == "ok" for row in system] for name, system in rows.items()},
        [extraction.Article(body, article) for body, article in zip(bodies, whole, strict=True)],
        p.evaluate,
        bertscore=True,
        behaviour={name: scoring.behaviour_of(system) for name, system in rows.items()},
        groups=table["group"].to_pylist(),
        unit=unit_of(p.data),
    )
    with atomic_write(SCORES) as folder:
        folder.mkdir()
        for name, system in scores.items():
            texts = pa.array([row["prediction"] for row in rows[name]], pa.string())
            write_scores(folder / f"{name}.parquet", system, {"text": texts})
    return {name: read_scores(SCORES / f"{name}.parquet") for name in scores}


def read_measured(ids: list[str], split: str) -> tuple[list[list[int]], list[dict[str, Any]]]:
    """(prompts, outputs) of the measured model, in order; a UserError if the files list other articles."""
    table = read_parquet(TOKENIZED / f"{split}.parquet", ["id", "prompt_ids"])
    rows = read_jsonl(MEASURED)
    for path, found in ((TOKENIZED, table["id"].to_pylist()), (MEASURED, [row["id"] for row in rows])):
        if found != ids:
            raise UserError(f"{path}: its articles are not those of the {split} split; run `dvc repro`")
    return [prompt.tolist() for prompt in id_arrays(table["prompt_ids"])], rows


def main() -> None:
    p = params.load(PARAMS)
    exported = read_settings(EXPORTED)
    set_up(seed=0, formats=[exported.dtype])
    table = read_parquet(PREPARED / f"{p.evaluate.split}.parquet")
    ids = table["id"].to_pylist()
    beams = read_scores(MEASURED_SCORES / f"{proof.MEASURED}.parquet")
    prompts, measured = read_measured(ids, p.evaluate.split)
    texts = list(map(with_heading, table["heading"].to_pylist(), table["document"].to_pylist()))
    written, cut = write_all(exported, ids, texts)
    rows = {proof.EXPORTED: rows_of(ids, written, cut)}
    write_jsonl(PREDICTIONS, rows[proof.EXPORTED])
    if exported.target == GGUF:
        measured = measure_greedily(params.generating(p), exported, ids, prompts)
        scores = score(p, table, {**rows, proof.MEASURED: measured}) | {proof.BEAMS: beams}
    else:
        scores = score(p, table, rows) | {proof.MEASURED: beams}
    articles = [
        proof.Article(name, prompt, row["prediction"], row["stopped"], output)
        for name, prompt, row, output in zip(ids, prompts, measured, written, strict=True)
    ]
    result = proof.proof(exported, articles, scores, p.evaluate, p.export, proof.folder_bytes(EXPORTED))
    write_json(METRICS_FILE, result)
    if exported.kept < proof.KEPT:
        print(f"rescore: warning: {exported.dtype} kept {exported.kept:.1%} of the update")
    problem = proof.failure(exported, articles, result, engines.changed_settings(EXPORTED, exported))
    if problem:
        raise UserError(problem)
    test = result["equivalence"]
    print(
        f"rescore: {result['target']} ({result['engine']}) is equivalent to the measured model: ROUGE-1 "
        f"{test['value']:+.2f} [{test['low']:+.2f}, {test['high']:+.2f}], margin {test['margin']:g}; "
        f"{result['outputs_that_differ']} of {result['n']:,} outputs differ"
    )


if __name__ == "__main__":
    stage.run(main, __doc__)
