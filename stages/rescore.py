"""Stage `rescore`: run the exported model as other programs do, and prove that it scores as the measured one.

Reads   models/exported/ (and an adapter's base), data/prepared/SPLIT.parquet, data/tokenized/SPLIT.parquet
        (the prompts that were measured), data/predictions/tuned.jsonl, data/scores/tuned/.
Writes  data/predictions/exported.jsonl, data/scores/exported/, metrics/export.json.
Run     python -m stages.rescore (a pipeline of its own, models/dvc.yaml: `make export`)

Articles are the evaluated split's. The test is of equivalence: the interval of exported - measured must lie
within `export.margin`. Otherwise the stage fails, and says what differs and why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from onesentence.core import errors, params
from onesentence.core.errors import UserError
from onesentence.core.files import atomic_write, id_arrays, read_jsonl, read_parquet, write_json, write_jsonl
from onesentence.core.runtime import set_up
from onesentence.core.text import with_heading
from onesentence.evaluation import extraction, scoring
from onesentence.evaluation.metrics import Scores, read_scores, unit_of, write_scores
from onesentence.export import engines, proof
from onesentence.export.folder import Exported, read_settings
from onesentence.export.prompt_template import cut_article

PARAMS = (
    "data.source",
    "data.group_column",
    "evaluate",
    "export",
)
EXPORTED = Path("models/exported")
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


def score(p: params.Params, table: pa.Table, rows: list[dict[str, Any]]) -> Scores:
    """The scores of the exported model, computed and stored as stage `score` does."""
    bodies = table["document"].to_pylist()
    whole = map(with_heading, table["heading"].to_pylist(), bodies)
    scores = scoring.score_systems(
        table["id"].to_pylist(),
        table["summary"].to_pylist(),
        {proof.EXPORTED: [row["prediction"] for row in rows]},
        {proof.EXPORTED: [row["status"] == "ok" for row in rows]},
        [extraction.Article(body, article) for body, article in zip(bodies, whole, strict=True)],
        p.evaluate,
        bertscore=True,
        behaviour={
            proof.EXPORTED: {
                "stopped": np.array([100.0 * row["stopped"] for row in rows]),
                "echo": np.array([100.0 * (row["status"] == "echo") for row in rows]),
            }
        },
        groups=table["group"].to_pylist(),
        unit=unit_of(p.data),
    )[proof.EXPORTED]
    with atomic_write(SCORES) as folder:
        folder.mkdir()
        path = folder / f"{proof.EXPORTED}.parquet"
        write_scores(path, scores, {"text": pa.array([row["prediction"] for row in rows], pa.string())})
    return read_scores(SCORES / f"{proof.EXPORTED}.parquet")


def compared(ids: list[str], written: list[engines.Written], split: str) -> list[proof.Article]:
    """Each article with what the measured model read and wrote; a UserError if the files list others."""
    table = read_parquet(TOKENIZED / f"{split}.parquet", ["id", "prompt_ids"])
    rows = read_jsonl(MEASURED)
    for path, found in ((TOKENIZED, table["id"].to_pylist()), (MEASURED, [row["id"] for row in rows])):
        if found != ids:
            raise UserError(f"{path}: its articles are not those of the {split} split; run `dvc repro`")
    return [
        proof.Article(name, prompt.tolist(), row["prediction"], row["stopped"], output)
        for name, prompt, row, output in zip(ids, id_arrays(table["prompt_ids"]), rows, written, strict=True)
    ]


def main() -> None:
    p = params.load(PARAMS)
    exported = read_settings(EXPORTED)
    set_up(seed=0, formats=[exported.dtype])
    table = read_parquet(PREPARED / f"{p.evaluate.split}.parquet")
    ids = table["id"].to_pylist()
    measured = read_scores(MEASURED_SCORES / f"{proof.MEASURED}.parquet")
    texts = list(map(with_heading, table["heading"].to_pylist(), table["document"].to_pylist()))
    written, cut = write_all(exported, ids, texts)
    rows = rows_of(ids, written, cut)
    write_jsonl(PREDICTIONS, rows)
    scores = {proof.EXPORTED: score(p, table, rows), proof.MEASURED: measured}
    articles = compared(ids, written, p.evaluate.split)
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
    errors.run(main, __doc__)
