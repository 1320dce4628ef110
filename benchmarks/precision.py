"""Where do the shared-prompt beams write other tokens than `generate()` in 16 bits and in quantized models?

In float32 they write the same. In fewer bits the two add up in another order, and beams whose scores are
equal to rounding change places. For each format: how many articles differ, how far the two outputs are apart
in mean log-probability a token (of the unquantized model in float32, one forward pass for both), and how
often ours is the better one.

Run     python -m benchmarks.precision [--articles 100] [--documents FILE] [--formats NAME ...]
                [--output FILE]

--documents takes the articles from a .jsonl file with `document` instead of from the evaluated split.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from onesentence.core import errors, params
from onesentence.core.files import output_file, read_parquet, write_json
from onesentence.core.machine import machine
from onesentence.core.runtime import set_up
from onesentence.generation.decoding import (
    evenly_spaced_by_length,
    generation_config,
    inner_model,
    summarize_in_batches,
)
from onesentence.model.adapters import load_tuned
from onesentence.model.encoding import encode_prompt, pad_left
from onesentence.model.loading import load_tokenizer

TUNED = Path("models/tuned")
FORMATS = {
    "float32": ("float32", "none"),
    "bfloat16": ("bfloat16", "none"),
    "int8": ("float32", "int8"),
    "nf4": ("float32", "nf4"),
    "nf4, bfloat16": ("bfloat16", "nf4"),
}


def score(model, prompt: list[int], tokens: list[int]) -> float:
    """Mean log-probability (nats) of `tokens` after `prompt`."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
    chosen = torch.log_softmax(logits.double(), dim=-1).gather(1, torch.tensor(tokens)[:, None])
    return chosen.mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--articles", type=int, default=100, help="spread over all lengths")
    parser.add_argument("--documents", type=Path)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--output", type=output_file)
    arguments = parser.parse_args()
    p = params.load(("model", "prompt", "generate", "evaluate.split"))
    # That of `generate` bans the prompt's n-grams too: other tokens.
    p = params.changed(p, {"generate.no_repeat_ngram_size": 0})
    set_up(seed=0, formats=[FORMATS[name][0] for name in arguments.formats])
    import torch

    tokenizer = load_tokenizer(p.model)
    if arguments.documents:
        lines = arguments.documents.read_text(encoding="utf-8").splitlines()
        texts = [json.loads(line)["document"] for line in lines]
        filled = [
            encode_prompt(tokenizer, p.prompt.template, text, p.prompt.max_input_tokens) for text in texts
        ]
        prompts = [each.ids for each in filled]
    else:
        split = Path(f"data/tokenized/{p.evaluate.split}.parquet")
        prompts = read_parquet(split)["prompt_ids"].to_pylist()
    prompts = [
        prompts[i] for i in sorted(evenly_spaced_by_length([len(ids) for ids in prompts], arguments.articles))
    ]
    names = [str(i) for i in range(len(prompts))]
    judge = load_tuned(p.model, TUNED)
    found = {}
    for name in arguments.formats:
        dtype, quantization = FORMATS[name]
        settings = replace(p.model, dtype=dtype, quantization=quantization)
        model = load_tuned(settings, TUNED)
        plain = inner_model(model)
        config = generation_config(tokenizer, p.generate, model.config.vocab_size)
        gaps = []
        for batch, outputs in summarize_in_batches(model, tokenizer, prompts, p.generate, names):
            ids, mask = pad_left([prompts[i] for i in batch], tokenizer.pad_token_id)
            with torch.inference_mode():
                rows = plain.generate(input_ids=ids, attention_mask=mask, generation_config=config)
            for i, output, row in zip(batch, outputs, rows[:, ids.shape[1] :].tolist(), strict=True):
                end = row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
                if output.tokens != row[:end]:
                    gaps.append(score(judge, prompts[i], output.tokens) - score(judge, prompts[i], row[:end]))
        found[name] = {
            "articles_with_other_tokens": len(gaps),
            "median_distance_nats_a_token": float(np.median(np.abs(gaps))) if gaps else None,
            "mean_difference_nats_a_token": float(np.mean(gaps)) if gaps else None,
            "ours_is_better": sum(gap > 0 for gap in gaps),
        }
        print(f"{name}: {found[name]}", flush=True)
    if arguments.output:
        write_json(arguments.output, {"articles": len(prompts), "formats": found, "machine": machine()})


if __name__ == "__main__":
    errors.run(main)
