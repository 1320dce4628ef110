"""Stage `generate`: write one system's summaries of the evaluated split.

Reads   data/tokenized/SPLIT.parquet, the base model, and for `tuned` models/tuned/.
Writes  data/predictions/SYSTEM.jsonl (id, prediction, status, input_tokens, output_tokens,
        document_tokens_cut, stopped), one line for each row, in the same order.
Run     python -m stages.generate base | tuned

It also runs under `accelerate launch` (`onesentence.core.processes`).
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from onesentence.core import params, processes, stage
from onesentence.core.files import read_parquet, write_jsonl
from onesentence.core.fingerprint import fingerprint, model_files
from onesentence.core.journal import Journal
from onesentence.core.runtime import set_up
from onesentence.generation.decoding import (
    Output,
    evenly_spaced_by_length,
    planned_batches,
    summarize_in_batches,
)
from onesentence.generation.smoke_test import require_complete, run_smoke_test
from onesentence.model.adapters import load_tuned
from onesentence.model.loading import load_base, load_tokenizer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PARAMS = ("model", "generate", "smoke", "evaluate.split")
TOKENIZED = Path("data/tokenized")
TUNED = Path("models/tuned")
PREDICTIONS = Path("data/predictions")
SYSTEMS = ("base", "tuned")


def shares_of(prompts: list[list[int]], settings: params.Generate) -> list[list[int]]:
    """The indices of the prompts of each process: whole batches, the same as those of one process."""
    batches = planned_batches(prompts, settings)
    return [
        [i for batch in batches[number :: processes.count()] for i in batch]
        for number in range(processes.count())
    ]


def journal_of(folder: Path, number: int) -> Path:
    """The file in which process `number` keeps the batches that it has finished."""
    several = f"-{number}-of-{processes.count()}" if processes.count() > 1 else ""
    return folder / f"outputs{several}.journal"


def outputs_of(folder: Path, shares: list[list[int]]) -> list[Output]:
    """The Output of each prompt, in order, of the journals of all processes."""
    by_index = {
        share[i]: Output(**output)
        for number, share in enumerate(shares)
        for entry in Journal(journal_of(folder, number)).entries
        for i, output in zip(entry["batch"], entry["outputs"], strict=True)
    }
    return [by_index[i] for i in range(len(by_index))]


def generate_all(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: list[str],
    prompts: list[list[int]],
    settings: params.Generate,
    name: str,
    journal: Journal,
) -> None:
    """Write an Output of each prompt to the journal; a UserError if one ended early.

    journal: holds the batches that an earlier, stopped run wrote; each new batch is added to it.
    """
    finished = sum(len(entry["batch"]) for entry in journal.entries)
    if finished:
        print(f"generate@{name}: continuing after {finished:,} of {len(prompts):,} articles", flush=True)
    batches = summarize_in_batches(
        model, tokenizer, prompts, settings, ids, [entry["batch"] for entry in journal.entries]
    )
    several = f" (process 1 of {processes.count()})" if processes.count() > 1 else ""
    with tqdm(
        total=len(prompts),
        initial=finished,
        desc=f"generate {name}{several}",
        unit="article",
        disable=not processes.first(),
    ) as bar:
        for batch, batch_outputs in batches:
            for i, output in zip(batch, batch_outputs, strict=True):
                require_complete(output, settings.max_new_tokens, ids[i], f"the {name} model")
            journal.append({"batch": batch, "outputs": [asdict(output) for output in batch_outputs]})
            bar.update(len(batch))


def run_key(p: params.Params, system: str) -> str:
    """The fingerprint of what one system writes, to which the batches of a stopped run belong."""
    files = [TOKENIZED / f"{p.evaluate.split}.parquet", *model_files(p.model.name)]
    values = {"system": system, "model": vars(p.model), "generate": vars(p.generate)}
    tuned = [TUNED] if system == "tuned" else []
    return fingerprint("stages.generate", [*files, *tuned], values, [p.model.dtype])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.generate", description=__doc__.split("\n")[0])
    parser.add_argument("system", choices=SYSTEMS)
    system = parser.parse_args().system
    p = params.load(PARAMS)
    set_up(seed=0, formats=[p.model.dtype])
    processes.join(sharding=False)

    table = read_parquet(TOKENIZED / f"{p.evaluate.split}.parquet")
    ids, prompts = table["id"].to_pylist(), table["prompt_ids"].to_pylist()
    tokenizer = load_tokenizer(p.model)
    base = params.generating(p)
    model = load_base(base) if system == "base" else load_tuned(base, TUNED)
    # First a few articles: a broken model fails in seconds, not after the whole split.
    chosen = evenly_spaced_by_length([len(prompt) for prompt in prompts], p.smoke.examples)
    run_smoke_test(
        model,
        tokenizer,
        [ids[i] for i in chosen],
        [prompts[i] for i in chosen],
        p.generate,
        p.smoke.min_success_rate if system == "tuned" else None,
        f"generate@{system}",
    )
    with processes.claimed_together(f"generate@{system}", run_key(p, system)) as folder:
        shares = shares_of(prompts, p.generate)
        own = shares[processes.index()]
        generate_all(
            model,
            tokenizer,
            [ids[i] for i in own],
            [prompts[i] for i in own],
            p.generate,
            system,
            Journal(journal_of(folder, processes.index())),
        )
        processes.wait_for_all()
        if not processes.first():
            return
        outputs = outputs_of(folder, shares)
        write_predictions(system, ids, prompts, table["document_tokens_cut"].to_pylist(), outputs)
    stopped = sum(output.stopped for output in outputs)
    ok = sum(output.succeeded for output in outputs)
    print(f"generate {system}: {len(outputs):,} articles, {ok:,} ok, {stopped:,} ended by EOS")


def write_predictions(
    system: str, ids: list[str], prompts: list[list[int]], cut: list[int], outputs: list[Output]
) -> None:
    """Write data/predictions/SYSTEM.jsonl. cut: tokens that were cut from the end of each document."""
    rows = zip(ids, prompts, cut, outputs, strict=True)
    write_jsonl(
        PREDICTIONS / f"{system}.jsonl",
        [
            {
                "id": name,
                "prediction": output.text,
                "status": output.status,
                "input_tokens": len(prompt),
                "output_tokens": len(output.tokens),
                "document_tokens_cut": tokens_cut,
                "stopped": output.stopped,
            }
            for name, prompt, tokens_cut, output in rows
        ],
    )


if __name__ == "__main__":
    stage.run(main, launchable=True)
