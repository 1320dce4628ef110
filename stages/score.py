"""Stage `score`: every metric of every article, for the baselines or for the tuned model.

Reads   data/prepared/SPLIT.parquet, data/predictions/base.jsonl or tuned.jsonl.
Writes  data/scores/GROUP/SYSTEM.parquet (a row per id, with its cluster): baselines are lead, oracle, base
        and reference (the references as texts: how abstractive they are); tuned is the fine-tuned model.
Run     python -m stages.score baselines | tuned

`lead` is the first sentence of the document, `oracle` its sentence with the best ROUGE-1 + ROUGE-2 against
the reference. A failed output scores 0 in every quality metric. The two groups are separate because a
training variant cannot change the baselines and need not score them again.
"""

import argparse
from pathlib import Path
from typing import Any

import pyarrow as pa

from onesentence.core import params, stage
from onesentence.core.checkpoints import claimed
from onesentence.core.errors import UserError
from onesentence.core.files import atomic_write, read_jsonl, read_parquet
from onesentence.core.fingerprint import fingerprint, model_files
from onesentence.core.journal import Journal
from onesentence.core.language import require_language
from onesentence.core.text import first_sentence, with_heading
from onesentence.evaluation import scoring
from onesentence.evaluation.entailment import judge_of
from onesentence.evaluation.extraction import Article
from onesentence.evaluation.metrics import SCORES, Scores, unit_of, write_scores
from onesentence.evaluation.overlap.workers import oracle_sentences

PARAMS = (
    "data.source",
    "data.group_column",
    "evaluate.split",
    "evaluate.language",
    "evaluate.meteor_synonyms",
    "evaluate.bertscore_model",
    "evaluate.bertscore_layer",
    "evaluate.bertscore_sha256",
    "evaluate.nli_model",
    "evaluate.nli_revision",
    "evaluate.nli_sha256",
)
PREPARED = Path("data/prepared")
PREDICTIONS = Path("data/predictions")
GROUPS = {"baselines": "base", "tuned": "tuned"}  # and the model whose outputs each includes


def predictions_by_id(path: Path, ids: list[str]) -> list[dict[str, Any]]:
    """Return the rows of a predictions file in the order of `ids`. Raises UserError if its ids differ."""
    rows = read_jsonl(path)
    for number, row in enumerate(rows, start=1):
        name = row.get("id")
        if not isinstance(name, str):
            raise UserError(
                f"{path}, line {number}: expected an id, found {row.get('id')!r:.80}; run `dvc repro`"
            )
    by_id = {row["id"]: row for row in rows}
    if len(by_id) != len(rows):
        raise UserError(f"{path}: {len(rows) - len(by_id)} ids occur twice; run `dvc repro`")
    missing, unknown = set(ids) - set(by_id), set(by_id) - set(ids)
    if missing or unknown:
        raise UserError(
            f"{path}: {len(missing)} articles have no prediction, and {len(unknown)} predictions have no "
            f"article (such as {sorted(missing | unknown)[0]!r}); run `dvc repro`"
        )
    return [by_id[name] for name in ids]


def run_key(p: params.Params, group: str) -> str:
    """The fingerprint of what one group's scores depend on, to which those of a stopped run belong."""
    files = [PREPARED / f"{p.evaluate.split}.parquet", PREDICTIONS / f"{GROUPS[group]}.jsonl"]
    values = {"group": group, "evaluate": vars(p.evaluate), "data": vars(p.data)}
    models = [
        path
        for name in (p.evaluate.bertscore_model, p.evaluate.nli_model)
        for path in model_files(name or "")
    ]
    return fingerprint("stages.score", [*files, *models], values)


def write_group(
    group: str,
    scores: dict[str, Scores],
    texts: dict[str, list[str]],
    more: dict[str, pa.Array],
    rows: list[dict[str, Any]],
) -> None:
    """Write data/scores/GROUP. texts: by system; more: columns of all; rows: predictions of the model."""
    with atomic_write(SCORES / group) as folder:
        for name, system in scores.items():
            columns = {**more, "text": pa.array(texts[name], pa.string())}
            if name == GROUPS[group]:
                columns["status"] = pa.array([row["status"] for row in rows], pa.string())
                cut = [row["document_tokens_cut"] for row in rows]
                columns["document_tokens_cut"] = pa.array(cut, pa.int32())
            write_scores(folder / f"{name}.parquet", system, columns)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.score", description=__doc__.split("\n")[0])
    parser.add_argument("group", choices=GROUPS)
    group = parser.parse_args().group
    p = params.load(PARAMS)
    table = read_parquet(PREPARED / f"{p.evaluate.split}.parquet")
    ids, references = table["id"].to_pylist(), table["summary"].to_pylist()
    groups, unit = table["group"].to_pylist(), unit_of(p.data)
    language = p.evaluate.language
    require_language(references, language)  # before minutes of work
    judge = judge_of(p.evaluate)
    bodies = table["document"].to_pylist()
    # Names and numbers may come from the heading, but only the body can be copied.
    articles = map(with_heading, table["heading"].to_pylist(), bodies)
    documents = [Article(body, article) for body, article in zip(bodies, articles, strict=True)]

    outputs = {}
    if group == "baselines":
        outputs["lead"] = [first_sentence(body, language) for body in bodies]
        outputs["oracle"] = oracle_sentences(bodies, references, language)
    succeeded = {name: [True] * len(ids) for name in outputs}
    generated = GROUPS[group]
    rows = predictions_by_id(PREDICTIONS / f"{generated}.jsonl", ids)
    outputs[generated] = [row["prediction"] for row in rows]
    succeeded[generated] = [row["status"] == "ok" for row in rows]
    with claimed(f"score@{group}", run_key(p, group)) as checkpoint:
        journal = Journal(checkpoint / "scores.journal")
        scores = scoring.score_systems(
            ids,
            references,
            outputs,
            succeeded,
            documents,
            p.evaluate,
            bertscore=True,
            behaviour={generated: scoring.behaviour_of(rows)},
            groups=groups,
            unit=unit,
            judge=judge,
            journal=journal,
        )
        if group == "baselines":
            scores["reference"] = scoring.score_references(
                ids, references, documents, groups, unit, judge, journal
            )
        more = {"document_words": pa.array([len(document.words) for document in documents], pa.int32())}
        write_group(group, scores, {name: outputs.get(name, references) for name in scores}, more, rows)
    rouge1 = ", ".join(
        f"{name} {system.columns['rouge1'].mean():.2f}" for name, system in scores.items() if name in outputs
    )
    print(f"score {group}: ROUGE-1 (F1 x 100) on {len(ids):,} {p.evaluate.split} articles: {rouge1}")


if __name__ == "__main__":
    stage.run(main)
