"""How fast are summaries written, against CTranslate2, and `generate` and `pipeline` of transformers?

CTranslate2 has the fastest beam search on a CPU. It gets the same weights, in float32 and in int8, and one
prompt at a time, where it is fastest. The models are phi-tiny as tuned, and two layers of Phi-2's width with
random weights; with one thread and with two. CPU seconds are compared too: other work on the machine moves
them less.

transformers gets the evaluated split with the study's own model, adapter, beams and length: `generate` the
same batches as ours, batch by batch in turn, so that a busy moment of the machine meets both; `pipeline` the
prompts in the split's order, 16 at once. Both get the model as anyone would load it, and `generate` must give
the same tokens.

No n-gram is banned here. The ban of `generate` counts the prompt's n-grams too, and CTranslate2's gives other
tokens than either (measured: for 27 of 64 articles); ours counts the output's alone.

With --preset the model and the prompts are those of presets/NAME/; --dtype has our side compute in another
format than its params.yaml says.

Run     python -m benchmarks.generation [--against ctranslate2] [--articles 500] [--rounds 5] [--output FILE]
                [--preset NAME] [--dtype bfloat16]
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.common import enter_preset, ratios
from benchmarks.ctranslate import Peer, write_model
from benchmarks.full_size import BEAMS, NEW_TOKENS, Tokens, write_random_model
from onesentence.core import errors, params
from onesentence.core.errors import UserError
from onesentence.core.files import output_file, read_parquet, write_json
from onesentence.core.machine import machine
from onesentence.core.runtime import set_up
from onesentence.generation.decoding import (
    evenly_spaced_by_length,
    generate_tokens,
    generation_config,
    summarize,
    summarize_in_batches,
)
from onesentence.model.adapters import load_tuned
from onesentence.model.encoding import pad_left
from onesentence.model.loading import load_base, load_tokenizer

TUNED = Path("models/tuned")
PIPELINE_BATCH = 16
COMPUTE_TYPES = ("float32", "int8")
THREADS = (1, 2)
WIDE_LAYERS, WIDE_ARTICLES, WIDE_TOKENS = 2, 8, 512


def until_eos(row: list[int], eos: int) -> list[int]:
    """A row of new tokens up to and with EOS."""
    return row[: row.index(eos) + 1] if eos in row else row


def compare(ours, model, prompts: list[list[int]], config, rounds: int) -> list[dict]:
    """Ours and CTranslate2 in turn on the same prompts: a result for each thread count and number format.

    ours: a function of the prompts that returns new tokens up to and with EOS.
    """
    import torch

    found = []
    with tempfile.TemporaryDirectory() as folder:
        write_model(model, Path(folder))
        for threads in THREADS:
            torch.set_num_threads(threads)
            peers = {kind: Peer(Path(folder), kind, threads) for kind in COMPUTE_TYPES}
            for ready in (ours, *(lambda some, p=p: p(some, config) for p in peers.values())):
                ready(prompts[:1])
            taken = {name: np.zeros((rounds, 2)) for name in ("ours", *COMPUTE_TYPES)}  # CPU seconds, seconds
            for k in range(rounds):
                cpu, started = time.process_time(), time.perf_counter()
                rows = ours(prompts)
                taken["ours"][k] = time.process_time() - cpu, time.perf_counter() - started
                others = {}
                for kind, peer in peers.items():
                    others[kind], *taken[kind][k] = peer(prompts, config)
            for kind, peer in peers.items():
                peer.close()
                found.append(
                    {
                        "threads": threads,
                        "ctranslate2": kind,
                        "articles": len(prompts),
                        "articles_per_cpu_second": {
                            "ours": float(np.median(len(prompts) / taken["ours"][:, 0])),
                            "ctranslate2": float(np.median(len(prompts) / taken[kind][:, 0])),
                        },
                        "times_in_cpu_seconds": ratios(taken[kind][:, 0], taken["ours"][:, 0]),
                        "times_in_seconds": ratios(taken[kind][:, 1], taken["ours"][:, 1]),
                        "articles_with_other_tokens": sum(
                            row != other for row, other in zip(rows, others[kind], strict=True)
                        ),
                    }
                )
    return found


def against_ctranslate2(p, articles: int, rounds: int, alone: bool) -> dict:
    """The results of the tuned model and, unless it is to be tried `alone`, of the wide one."""
    import torch

    tokenizer, model = load_tokenizer(p.model), load_tuned(p.model, TUNED)
    prompts = read_prompts(p.evaluate.split, articles)

    def tiny(some):
        return [output.tokens for output in summarize(model, tokenizer, some, p.generate)]

    config = generation_config(tokenizer, p.generate, model.config.vocab_size)
    name = f"{Path(p.model.watch).name} in {p.model.dtype}"
    # The peer's weights are the merged ones; below float32 our adapter stays beside its base.
    exact = p.model.dtype == "float32"
    merged = model if exact else load_tuned(replace(p.model, dtype="float32"), TUNED)
    found = {name: compare(tiny, merged, prompts, config, rounds)}
    if alone:
        return found
    with tempfile.TemporaryDirectory() as folder:
        write_random_model(Path(folder), WIDE_LAYERS)
        settings = SimpleNamespace(
            name=folder, watch=folder, revision=None, dtype="float32", quantization="none"
        )
        model = load_base(settings)
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(0, 50_000, (WIDE_ARTICLES, WIDE_TOKENS), generator=generator)
    settings = SimpleNamespace(max_new_tokens=NEW_TOKENS, num_beams=BEAMS, length_penalty=1.0)
    config = generation_config(Tokens(model.config), settings, model.config.vocab_size)

    def wide(some):
        ids = torch.tensor(some)
        new = generate_tokens(model, ids, torch.ones_like(ids), config).tolist()
        return [until_eos(row, config.eos_token_id) for row in new]

    name = f"Phi-2's width, {WIDE_LAYERS} layers, in float32"
    return found | {name: compare(wide, model, drawn.tolist(), config, rounds)}


def read_prompts(split: str, articles: int) -> list[list[int]]:
    """Prompts of a split, spread over all lengths, in the split's order."""
    prompts = read_parquet(Path(f"data/tokenized/{split}.parquet"))["prompt_ids"].to_pylist()
    return [prompts[i] for i in sorted(evenly_spaced_by_length([len(ids) for ids in prompts], articles))]


def against_transformers(p, articles: int, rounds: int) -> dict:
    """Articles a second of ours, `generate` and `pipeline`, and how many articles get other tokens."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, pipeline

    tokenizer = load_tokenizer(p.model)
    model = load_tuned(p.model, TUNED)
    plain = AutoModelForCausalLM.from_pretrained(
        p.model.name, dtype=getattr(torch, p.model.dtype), use_safetensors=True, trust_remote_code=False
    ).eval()
    plain = PeftModel.from_pretrained(plain, TUNED).eval().merge_and_unload()
    prompts = read_prompts(p.evaluate.split, articles)
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
    seconds = {name: np.zeros(rounds) for name in ("ours", "generate", "pipeline")}
    different: set[int] = set()
    for k in range(rounds):
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
    return {
        "articles": len(prompts),
        "num_beams": p.generate.num_beams,
        "max_new_tokens": p.generate.max_new_tokens,
        "articles_per_second": {name: float(np.median(values)) for name, values in rates.items()},
        "times_generate": ratios(rates["ours"], rates["generate"]),
        "times_pipeline": ratios(rates["ours"], rates["pipeline"]),
        "articles_with_other_tokens_than_generate": len(different),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--against", choices=("transformers", "ctranslate2"), default="transformers")
    parser.add_argument("--articles", type=int, default=500, help="spread over all lengths")
    parser.add_argument("--rounds", type=int, default=5, help="alternating runs of every way")
    parser.add_argument("--preset", help="model and prompts of presets/NAME/, which was run")
    parser.add_argument("--dtype", help="of our weights, instead of model.dtype")
    parser.add_argument("--output", type=output_file)
    arguments = parser.parse_args()
    output = arguments.output and arguments.output.absolute()
    enter_preset(arguments.preset)
    p = params.load(("model", "generate", "evaluate.split"))
    own = {"generate.no_repeat_ngram_size": 0, "model.dtype": arguments.dtype or p.model.dtype}
    p = params.changed(p, own)
    set_up(0, [p.model.dtype])
    if arguments.against == "ctranslate2":
        result = {
            "models": against_ctranslate2(p, arguments.articles, arguments.rounds, bool(arguments.preset))
        }
        for name, entries in result["models"].items():
            for entry in entries:
                peer = f"CTranslate2's {entry['ctranslate2']}"
                print(
                    f"generation ({name}, threads: {entry['threads']}): "
                    f"{entry['times_in_cpu_seconds']['median']:.2f} x {peer} in CPU "
                    f"seconds, {entry['times_in_seconds']['median']:.2f} x in seconds; "
                    f"{entry['articles_with_other_tokens']} of {entry['articles']} articles with other tokens"
                )
    else:
        result = against_transformers(p, arguments.articles, arguments.rounds)
        print(
            f"generation: {result['articles_per_second']['ours']:.1f} articles/s, "
            f"{result['times_generate']['median']:.2f} x generate, "
            f"{result['times_pipeline']['median']:.2f} x pipeline; "
            f"{result['articles_with_other_tokens_than_generate']} articles with other tokens"
        )
    if output:
        write_json(output, {**result, "machine": machine()})
    if different := result.get("articles_with_other_tokens_than_generate"):
        raise UserError(f"{different} of {result['articles']} articles got other tokens than from `generate`")


if __name__ == "__main__":
    errors.run(main)
