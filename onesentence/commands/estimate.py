"""Estimate memory and time: memory from the model's configuration alone, time from a short probe.

Reads   params.yaml, the model's configuration, and for the probe its weights and data/tokenized (if that is
up to date).
Run     onesentence estimate                (make estimate)
        onesentence estimate --no-probe     memory alone
        onesentence estimate --processes 4 [--fsdp]    memory of each process (PROCESSES=4 FSDP=1)
        onesentence estimate --mde 0.6      (make estimate MDE=0.6)

The last form prints how many articles and clusters a test needs to detect such a difference in ROUGE-1, from
metrics/evaluation.json, and computes nothing else.
"""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from onesentence.commands import documented
from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.files import read_as_written_now, read_json
from onesentence.evaluation.metrics import HEADLINE, METRICS
from onesentence.evaluation.power import holm_factor, needed
from onesentence.report.sentences import clusters_phrase
from onesentence.report.terminal import print_table

if TYPE_CHECKING:
    from transformers import PretrainedConfig

EVALUATION = Path("metrics/evaluation.json")
TOKENIZED = Path("data/tokenized")
PROBE_STEPS = 4
PROBE_ARTICLES = 32
COMPLETION_TOKENS = 32  # assumed for a completion where data/tokenized is not up to date
LEAST_MDE = 0.001  # points: metrics are rounded to less, and no test set is large enough for it
GIGA = 1e9


def require_dataset(p: params.Params) -> None:
    """Raise a UserError unless the dataset can be reached."""
    from onesentence.data import docstrings, sources

    if p.data.source == "docstrings":
        docstrings.check_versions(sources.REQUIREMENTS)
    elif p.data.source == "local":
        if not Path(p.data.watch).exists():
            raise UserError(f"data.watch: {p.data.watch} not found; set it with `make data FROM=PATH`")
    elif not Path(p.data.source).exists():
        import httpx2
        from huggingface_hub import HfApi

        try:
            HfApi().dataset_info(p.data.source, revision=p.data.revision, timeout=10)
        except (OSError, ValueError, httpx2.HTTPError) as error:
            raise UserError(
                f"data.source: {p.data.source!r} not reachable ({type(error).__name__}); connect to the "
                "network, which a hub dataset needs"
            ) from error


def is_tokenized() -> bool:
    """Whether data/tokenized belongs to the present settings and code, by `dvc status`."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            return not repo.status(targets=["prepare", "tokenize"])
    except DvcException as error:
        raise UserError(f"estimate: {TOKENIZED}: `dvc status` failed: {error}") from error


def longest_rows(p: params.Params) -> tuple[int, int]:
    """(tokens of the longest training row, of the longest completion), from data/tokenized or from the
    limits.
    """
    if is_tokenized():
        from onesentence.training.batches import read_rows

        rows = read_rows(Path("data/tokenized/train.parquet"))
        return max(len(a) + len(b) for a, b in rows), max(len(b) for _, b in rows)
    return p.prompt.max_input_tokens + COMPLETION_TOKENS, COMPLETION_TOKENS


def memory_table(
    p: params.Params, config: "PretrainedConfig", lengths: tuple[int, int], several: tuple[int, bool]
) -> list[list[str]]:
    """Rows of the table: GB by part with the present settings, with QLoRA (nf4), and with full fine-tuning.

    lengths: tokens of the longest row and of the longest completion; several: the number of processes, and
    whether they divide the model (FSDP), which quantized weights cannot be.
    """
    from onesentence.training.memory import divided, training_memory

    length, completion = lengths
    count, fsdp = several
    rows = -(-p.train.batch_size // count)

    adapter = "lora" if p.train.method == "full" else p.train.method
    ways = {
        "as set": (p.model.dtype, p.model.quantization, p.train.method),
        "QLoRA (nf4)": (p.model.dtype, "nf4", adapter),
        "full": ("float32", "none", "full"),
    }
    estimates = {}
    for name, (dtype, quantization, method) in ways.items():
        model = replace(p.model, dtype=dtype, quantization=quantization)
        estimates[name] = training_memory(
            config,
            model,
            p.lora,
            rows,
            length,
            rows * completion,
            method,
            p.train.autocast,
        )
        if fsdp and quantization == "none":
            estimates[name] = divided(estimates[name], config, dtype, count)
    parts = ("libraries", "weights", "trained", "gradients", "optimizer", "activations", "transient", "total")
    titles = {"trained": "tuned", "transient": "logits, widest gradient"}
    return [
        [
            titles.get(part, part),
            *(f"{getattr(estimate, part) / GIGA:.3f}" for estimate in estimates.values()),
        ]
        for part in parts
    ]


def probe(p: params.Params) -> list[str]:
    """Sentences on the time of training and generation, measured on a few batches."""
    import torch

    from onesentence.core.files import read_parquet
    from onesentence.generation.decoding import evenly_spaced_by_length, summarize
    from onesentence.model.adapters import trainable
    from onesentence.model.encoding import training_batch
    from onesentence.model.loading import load_base, load_tokenizer
    from onesentence.training.batches import batches_of, read_rows
    from onesentence.training.fast import use_fast_parts
    from onesentence.training.loss import completion_loss, in_format

    if not is_tokenized():
        return [f"time: {TOKENIZED} is not up to date; run `dvc repro tokenize` to get an estimate"]
    split = TOKENIZED / f"{p.evaluate.split}.parquet"
    tokenizer, rows = load_tokenizer(p.model), read_rows(Path("data/tokenized/train.parquet"))
    model = trainable(load_base(p.model), p.lora, p.seed, p.train.method).train()
    use_fast_parts(model, p.model.dtype, p.train.autocast)
    lengths = [len(a) + len(b) for a, b in rows]
    order = batches_of(rows, p.train, p.seed)
    device = next(model.parameters()).device
    seen, started = 0, 0.0
    first = min(1, len(order) - 1)  # step 0 warms up and is not counted, unless there is no other
    for k, chosen in enumerate(order[: PROBE_STEPS + 1]):
        if k == first:
            started = time.perf_counter()
        batch = training_batch([rows[i] for i in chosen], tokenizer.pad_token_id)
        with in_format(model, p.train.autocast):
            loss = completion_loss(model, {key: value.to(device) for key, value in batch.items()})
        loss.backward()
        seen += sum(lengths[i] for i in chosen) if k >= first else 0
    rate = seen / max(time.perf_counter() - started, 1e-9)
    model.eval()
    prompts = read_parquet(split)["prompt_ids"].to_pylist()
    few = [prompts[i] for i in evenly_spaced_by_length([len(ids) for ids in prompts], PROBE_ARTICLES)]
    with torch.inference_mode():
        started = time.perf_counter()
        summarize(model, tokenizer, few, p.generate)
    articles = len(few) / (time.perf_counter() - started)
    tokens = sum(lengths[i] for batch in order for i in batch)
    return [
        f"train: {tokens:,} tokens at {rate:,.0f} a second: about {tokens / rate / 60:.1f} min",
        f"generate: {len(prompts):,} articles at {articles:.1f} a second: about "
        f"{len(prompts) / articles / 60:.1f} min each for the base and the tuned model",
    ]


def print_needed(wanted: float) -> None:
    """How many articles and clusters each comparison needs for a wanted minimum detectable effect."""
    if not LEAST_MDE <= wanted < 100:
        raise UserError(
            f"--mde: expected points of {METRICS[HEADLINE].title} from {LEAST_MDE:g} to below 100, found "
            f"{wanted:g}"
        )
    evaluation = read_json(EVALUATION)
    with read_as_written_now(EVALUATION):
        needs, now = needed(evaluation, wanted), clusters_phrase(evaluation)
        unit, title = evaluation["resampling"]["unit"], METRICS[HEADLINE].title
        entries = [entry for pair in evaluation["comparisons"].values() for entry in pair.values()]
        tests = sum(entry["p_holm"] is not None for entry in entries)
    rows = [
        [
            need.pair.replace("-", " - "),
            f"{need.mde:.2f}",
            f"{need.articles:,}",
            f"{need.clusters:,}",
            "n/a" if need.one_each is None else f"{need.one_each:,}",
        ]
        for need in needs
    ]
    print_table(
        f"To detect {wanted:g} points of {title} at 80% power; now {now}",
        ["difference", "MDE now", "articles", f"clusters (unit: {unit})", "articles, one a cluster"],
        rows,
    )
    print(
        "Articles and clusters: with as many articles per cluster as now. Two variants of one model agree on "
        "which articles are hard, so their MDE is smaller; `make study` reports it."
    )
    if tests > 1:
        times = holm_factor(tests, evaluation["confidence"])
        print(
            f"These numbers are for a single test. The evaluation makes {tests} tests: after Holm's "
            f"correction, the strictest step needs about {times:.1f} times as many articles."
        )


def print_memory(p: params.Params, length: int, count: int, table: list[list[str]]) -> None:
    """Print the table of `memory_table`. length: tokens of the longest row; count: of processes."""
    each = f" of each of {count} processes" if count > 1 else ""
    rows = -(-p.train.batch_size // count)
    print_table(
        f"Training memory{each} in GB, {rows} rows of {length} tokens, {p.model.dtype}",
        ["part", "as set", "QLoRA (nf4)", "full fine-tuning"],
        table,
    )


def print_generation(p: params.Params, config: "PretrainedConfig") -> None:
    """Print the memory of generation by part, or why there is no estimate."""
    from onesentence.training.memory import NoEstimate, generation_memory

    try:
        parts = generation_memory(config, params.generating(p), p.generate, p.prompt.max_input_tokens)
    except NoEstimate as error:
        print(error)
        return
    listed = ", ".join(f"{part} {size / GIGA:.3f}" for part, size in parts.items())
    print(f"Generation memory in GB: {listed}; total {sum(parts.values()) / GIGA:.3f}")


@documented(__doc__)
@click.option("--no-probe", is_flag=True, help="Estimate memory alone; compute nothing.")
@click.option("--mde", type=float, help="Print how many articles a test needs to detect this many points.")
@click.option("--processes", "count", type=int, default=1, help="Estimate for each of several processes.")
@click.option("--fsdp", is_flag=True, help="The processes divide the model among them.")
def command(no_probe: bool, mde: float | None, count: int, fsdp: bool) -> None:
    if mde is not None:
        if no_probe or count != 1 or fsdp:
            raise UserError("--mde: counts articles, not memory; remove --no-probe, --processes and --fsdp")
        print_needed(mde)
        return
    if count < 1 + fsdp:
        wanted = "2 with --fsdp" if fsdp else "1"
        raise UserError(f"--processes: expected at least {wanted}, found {count}")
    p = params.load(("seed", "data", "prompt", "model", "lora", "train", "generate", "evaluate.split"))
    from onesentence.core.runtime import set_up
    from onesentence.model.loading import device_name, load_config
    from onesentence.training.memory import (
        NoEstimate,
        free_bytes,
        needed_bytes,
        require_fit,
    )

    set_up(
        p.seed, [p.model.dtype, p.train.autocast]
    )  # first, because it chooses the kernels of all computation
    try:
        require_dataset(p)
        print("dataset: reachable")
    except UserError as error:
        print(f"dataset: not reachable: {error}")
    config = load_config(p.model)
    print(f"model: configuration of {p.model.name} read")
    length, completion = longest_rows(p)
    try:
        table = memory_table(p, config, (length, completion), (count, fsdp))
    except NoEstimate as error:
        print(error)
        if not no_probe:
            print("\n".join(probe(p)))
        return
    print_memory(p, length, count, table)
    print_generation(p, config)
    free = free_bytes()
    row = np.zeros(length - completion, np.int32), np.zeros(completion, np.int32)
    longest = [row] * p.train.batch_size  # the batch whose labels are most
    print(f"Free on this machine: {free / GIGA:.1f} GB")
    # Processes on a CPU share its memory; each GPU has its own.
    here = free if device_name() == "cuda" else free // count
    try:
        needed = require_fit(partial(needed_bytes, p, config, longest, several=(count, fsdp)), p, here)
    except UserError as error:
        print(error)
        return  # a probe would run out of memory
    print(f"train: fits: needs about {needed / GIGA:.1f} GB" + (" in each process" if count > 1 else ""))
    if not no_probe:
        if count > 1:
            print(f"time of one process; {count} take at least 1/{count} of it (docs/scaling.md, measured):")
        print("\n".join(probe(p)))
