"""Stage `generate`: write one system's summaries of the evaluated split.

Reads   data/tokenized/SPLIT.parquet, the base model, and for `tuned` models/tuned/.
Writes  data/predictions/SYSTEM.jsonl (id, prediction, status, input_tokens, output_tokens,
        document_tokens_cut, stopped), one line for each row, in the same order.
Run     python -m stages.generate base | tuned
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from onesentence.core import errors, params
from onesentence.core.files import read_parquet, write_jsonl
from onesentence.core.runtime import set_up
from onesentence.generation.decoding import Output, evenly_spaced_by_length, summarize_in_batches
from onesentence.generation.smoke_test import run_smoke_test
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


def generate_all(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: list[str],
    prompts: list[list[int]],
    settings: params.Generate,
    name: str,
) -> list[Output]:
    """The Output of each prompt, in order; a RuntimeError if one ended early."""
    by_index: dict[int, Output] = {}
    with tqdm(total=len(prompts), desc=f"generate {name}", unit="article") as bar:
        for batch, batch_outputs in summarize_in_batches(model, tokenizer, prompts, settings, ids):
            for i, output in zip(batch, batch_outputs, strict=True):
                if not output.complete:  # the pipeline is broken, whatever the model: see `smoke_test`
                    raise RuntimeError(
                        f"generate {name}: {ids[i]} stopped after {len(output.tokens)} of "
                        f"{settings.max_new_tokens} new tokens without EOS"
                    )
                by_index[i] = output
            bar.update(len(batch))
    return [by_index[i] for i in range(len(prompts))]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.generate", description=__doc__.split("\n")[0])
    parser.add_argument("system", choices=SYSTEMS)
    system = parser.parse_args().system
    p = params.load(PARAMS)
    set_up(seed=0, formats=[p.model.dtype])

    table = read_parquet(TOKENIZED / f"{p.evaluate.split}.parquet")
    ids, prompts = table["id"].to_pylist(), table["prompt_ids"].to_pylist()
    tokenizer = load_tokenizer(p.model)
    model = load_base(p.model) if system == "base" else load_tuned(p.model, TUNED)
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
    outputs = generate_all(model, tokenizer, ids, prompts, p.generate, system)
    rows = zip(ids, prompts, table["document_tokens_cut"].to_pylist(), outputs, strict=True)
    write_jsonl(
        PREDICTIONS / f"{system}.jsonl",
        [
            {
                "id": name,
                "prediction": output.text,
                "status": output.status,
                "input_tokens": len(prompt),
                "output_tokens": len(output.tokens),
                "document_tokens_cut": cut,
                "stopped": output.stopped,
            }
            for name, prompt, cut, output in rows
        ],
    )
    stopped = sum(output.stopped for output in outputs)
    ok = sum(output.succeeded for output in outputs)
    print(f"generate {system}: {len(outputs):,} articles, {ok:,} ok, {stopped:,} ended by EOS")


if __name__ == "__main__":
    errors.run(main)
