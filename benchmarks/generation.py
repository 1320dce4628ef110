"""How fast are summaries written, against transformers' own `generate` and `pipeline`?

The evaluated split with the study's own model, adapter, beams and length. `generate` gets the same batches as
ours, batch by batch in turn, so that a busy moment of the machine meets both, and must give the same tokens.
`pipeline` gets the prompts in the split's order, 16 at once. Both get the model as anyone would load it.

Run     python -m benchmarks.generation [--articles 500] [--rounds 5] [--output FILE]
"""

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.common import ratios
from stages.common import errors, params
from stages.common.decoding import generation_config, spanning, summarize_in_batches
from stages.common.encoding import pad_left
from stages.common.errors import UserError
from stages.common.files import output_file, read_parquet, write_json
from stages.common.machine import machine
from stages.common.modeling import load_tokenizer, load_tuned
from stages.common.runtime import set_up

TUNED = Path("models/tuned")
PIPELINE_BATCH = 16


def until_eos(row: list[int], eos: int) -> list[int]:
    """A row of new tokens up to and with EOS."""
    return row[: row.index(eos) + 1] if eos in row else row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--articles", type=int, default=500, help="spread over all lengths")
    parser.add_argument("--rounds", type=int, default=5, help="alternating runs of every way")
    parser.add_argument("--output", type=output_file)
    arguments = parser.parse_args()
    p = params.load(("model", "generate", "evaluate.split"))
    p.generate.no_repeat_ngram = 0  # that of `generate` bans the prompt's n-grams too: other tokens
    set_up(seed=0)
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, pipeline

    tokenizer = load_tokenizer(p.model)
    model = load_tuned(p.model, TUNED)
    plain = AutoModelForCausalLM.from_pretrained(p.model.name, dtype=getattr(torch, p.model.dtype)).eval()
    plain = PeftModel.from_pretrained(plain, TUNED).eval().merge_and_unload()
    table = read_parquet(Path(f"data/tokenized/{p.evaluate.split}.parquet"))
    prompts = table["prompt_ids"].to_pylist()
    prompts = [prompts[i] for i in sorted(spanning([len(ids) for ids in prompts], arguments.articles))]
    texts = [tokenizer.decode(ids) for ids in prompts]
    config = generation_config(tokenizer, p.generate, model.config.vocab_size)
    piped = pipeline("text-generation", model=plain, tokenizer=tokenizer, batch_size=PIPELINE_BATCH)

    def library(ids, mask):
        plain.generation_config = config
        with torch.inference_mode():
            return plain.generate(input_ids=ids, attention_mask=mask, generation_config=config)[
                :, ids.shape[1] :
            ].tolist()

    names = [str(i) for i in range(len(prompts))]
    seconds = {name: np.zeros(arguments.rounds) for name in ("ours", "generate", "pipeline")}
    different: set[int] = set()
    for k in range(arguments.rounds):
        running = summarize_in_batches(model, tokenizer, prompts, p.generate, names)
        while True:
            started = time.perf_counter()
            batch, outputs = next(running, ([], []))
            seconds["ours"][k] += time.perf_counter() - started
            if not batch:
                break
            ids, mask = pad_left([prompts[i] for i in batch], tokenizer.pad_token_id)
            started = time.perf_counter()
            rows = library(ids, mask)
            seconds["generate"][k] += time.perf_counter() - started
            theirs = [until_eos(row, tokenizer.eos_token_id) for row in rows]
            different |= {
                i for i, output, row in zip(batch, outputs, theirs, strict=True) if output.tokens != row
            }
        started = time.perf_counter()
        piped(texts, generation_config=config, return_full_text=False)
        seconds["pipeline"][k] = time.perf_counter() - started
    rates = {name: len(prompts) / values for name, values in seconds.items()}
    result = {
        "articles": len(prompts),
        "num_beams": p.generate.num_beams,
        "max_new_tokens": p.generate.max_new_tokens,
        "articles_per_second": {name: float(np.median(values)) for name, values in rates.items()},
        "times_generate": ratios(rates["ours"], rates["generate"]),
        "times_pipeline": ratios(rates["ours"], rates["pipeline"]),
        "articles_with_other_tokens_than_generate": len(different),
        "machine": machine(),
    }
    print(
        f"generation: {result['articles_per_second']['ours']:.1f} articles/s, "
        f"{result['times_generate']['median']:.2f} x generate, "
        f"{result['times_pipeline']['median']:.2f} x pipeline; {len(different)} articles with other tokens"
    )
    if arguments.output:
        write_json(arguments.output, result)
    if different:
        raise UserError(f"{len(different)} of {len(prompts)} articles got other tokens than from `generate`")


if __name__ == "__main__":
    errors.run(main)
