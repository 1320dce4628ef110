"""The real size of Phi-2 or Llama 3.2 3B, or its width with fewer layers: does it fit, how fast is it?

Builds the architecture with random weights, writes it to a temporary folder in the hub's layout, and runs
each way of holding the weights in a process of its own, rank after rank: the pipeline's loader, its trainer
on random rows, and beam search against `generate()`. One command for a GPU of 24 GB or more:

    python -m benchmarks.full_size [--model llama-3.2-3b] --output benchmarks/results/full_size.json

On a CPU the default is 2 layers, and no int8, whose float16 products have no fast kernel there (6 minutes a
step). `--layers 32 --ways nf4 --ranks 16 --tokens 256 --batch 1 --steps 1 --articles 0` is QLoRA at full size
(6 GB of disk). Utilization: FLOPs that a step must do (`needed_flops`) over the most that this machine
reaches in matrix products of the same format. A step is timed from the end of the one before.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.common import AnonymousPeak, mapped_bytes
from onesentence.core import errors, params
from onesentence.core.errors import UserError
from onesentence.core.files import output_file, write_json
from onesentence.core.machine import machine
from onesentence.core.runtime import set_up
from onesentence.generation.decoding import generate_tokens, generation_config
from onesentence.model.adapters import add_adapter
from onesentence.model.loading import device_name, load_base, load_config
from onesentence.training.memory import training_memory

WAYS = {
    "float32": ("float32", "none"),
    "bfloat16": ("bfloat16", "none"),
    "int8": ("float16", "int8"),
    "nf4": ("bfloat16", "nf4"),
}
TARGETS = ["q_proj", "k_proj", "v_proj"]
COMPLETION_TOKENS = 25
BEAMS, NEW_TOKENS = 4, 24
READY = "ready"  # a child's first line: it has loaded its model and waits for its turn


def phi2_config(layers: int | None = None):
    """Phi-2's configuration: 2,560 wide, 32 heads, 51,200 tokens; 2,779,683,840 parameters in 32 layers."""
    from transformers import PhiConfig

    return PhiConfig(
        vocab_size=51_200,
        hidden_size=2_560,
        intermediate_size=10_240,
        num_hidden_layers=layers or 32,
        num_attention_heads=32,
        partial_rotary_factor=0.4,
        max_position_embeddings=2_048,
        resid_pdrop=0.1,
        bos_token_id=50_256,
        eos_token_id=50_256,
        pad_token_id=50_256,
    )


def llama_config(layers: int | None = None):
    """The shape of Llama 3.2 3B: 3,072 wide, 24 heads, 8 of keys and values, 128,256 tokens, tied embeddings;
    3,212,749,824 parameters in 28 layers."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=128_256,
        hidden_size=3_072,
        intermediate_size=8_192,
        num_hidden_layers=layers or 28,
        num_attention_heads=24,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=131_072,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        tie_word_embeddings=True,
        bos_token_id=128_000,
        eos_token_id=128_001,
        pad_token_id=128_001,
    )


SHAPES = {"phi-2": phi2_config, "llama-3.2-3b": llama_config}


def write_random_model(folder: Path, layers: int | None = None, shape: str = "phi-2") -> None:
    """Write an architecture with random bfloat16 weights, shard by shard."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(SHAPES[shape](layers)).to(torch.bfloat16)
    # Weights straight into bfloat16: float32 first would take 11 GB. A GPU draws them in a second.
    model.to_empty(device=device_name())
    model.tie_weights()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                weight.fill_(1.0)
            elif name.endswith("bias"):
                weight.zero_()
            else:
                weight.normal_(0.0, 0.02)
    model.save_pretrained(folder, max_shard_size="1GB")
    del model
    torch.cuda.empty_cache()  # the processes that load it need the memory; nothing to do without a GPU


class Tokens:
    """The special ids of a tokenizer; no text is read or written here."""

    def __init__(self, config) -> None:
        self.pad_token_id = self.eos_token_id = config.eos_token_id
        self.bos_token_id = config.bos_token_id
        self.size = config.vocab_size

    def __len__(self) -> int:
        return self.size


def wait() -> None:
    """Let the GPU finish, where there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def products_per_second(dtype, config, tokens: int) -> float:
    """FLOPs a second that this machine reaches in matrix products of a format, at its best.

    Square ones, and the two of the MLP at a step's own number of tokens: on a CPU these are the faster ones,
    and a step compared with square ones alone seemed to do more than the machine can (111 %). Of each the
    fastest of 2 seconds, since other work that takes a core for a moment would slow their mean.
    """
    import torch

    device, size = ("cuda", 8_192) if torch.cuda.is_available() else ("cpu", 2_048)
    width, inner = config.hidden_size, config.intermediate_size
    best = 0.0
    for rows, inputs, outputs in ((size, size, size), (tokens, width, inner), (tokens, inner, width)):
        left = torch.randn(rows, inputs, device=device).to(dtype)
        weight = torch.randn(outputs, inputs, device=device).to(dtype)  # as a linear layer holds it
        torch.nn.functional.linear(left, weight)
        wait()
        end, fastest = time.perf_counter() + 2, float("inf")
        while (started := time.perf_counter()) < end:
            torch.nn.functional.linear(left, weight)
            wait()
            fastest = min(fastest, time.perf_counter() - started)
        best = max(best, 2 * rows * inputs * outputs / fastest)
    return best


def needed_flops(config, tokens: int, length: int, labels: int) -> float:
    """FLOPs of training on `tokens` tokens in rows of `length`, of which `labels` have a label.

    Each frozen weight takes 2 a token forward and 2 for the gradient of its input. The last MLP and the
    output layer are needed where there are labels. The first layer's input has no gradient: query, key and
    value go forward alone there, and so does the MLP where it reads that input too (Phi).
    """
    width, layers = config.hidden_size, config.num_hidden_layers
    head = getattr(config, "head_dim", None) or width // config.num_attention_heads
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    gated = config.model_type == "llama"  # three matrices in its MLP, which reads what attention wrote
    projections, output = width * (queries + 2 * keys), queries * width
    mlp = (3 if gated else 2) * width * config.intermediate_size
    attention = 12 * length * queries / 2
    everywhere = layers * (4 * (projections + output) + attention) + (layers - 1) * 4 * mlp
    no_gradient = 2 * projections + (0 if gated or layers == 1 else 2 * mlp)
    where_labels = 4 * (mlp + config.vocab_size * width)
    return (everywhere - no_gradient) * tokens + where_labels * labels


def step_clock():
    """A callback of the Trainer that notes when each step has ended, the GPU's work included."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        ends: list[float]

        def on_train_begin(self, args, state, control, **kwargs):
            self.ends = []

        def on_step_end(self, args, state, control, **kwargs):
            wait()
            self.ends.append(time.perf_counter())

    return Clock()


def run_way(folder: Path, way: str, arguments, begin) -> dict[int, dict]:
    """Train and generate, one way of holding the weights; what it took, by rank.

    begin: called before anything is timed; other processes may be at work until it returns. Articles are
    written at the first rank alone: a rank has no part in their speed.
    """
    import torch
    from transformers import Trainer  # noqa: F401 (what its import takes is not counted)

    dtype, quantization = WAYS[way]
    settings = params.Model(
        name=str(folder), watch=str(folder), revision=None, dtype=dtype, quantization=quantization
    )
    config = load_config(settings)
    counted = {
        rank: training_memory(
            config,
            settings,
            adapter_settings(rank),
            arguments.batch,
            arguments.tokens,
            arguments.batch * COMPLETION_TOKENS,
        )
        for rank in arguments.ranks
    }
    found = {}
    with AnonymousPeak() as own:
        base = load_base(settings)
        begin()
        rate = products_per_second(getattr(torch, dtype), config, arguments.batch * arguments.tokens)
        for rank in arguments.ranks:
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            model = add_adapter(base, adapter_settings(rank), seed=0)
            seconds = step_seconds(model, Tokens(config), settings, adapter_settings(rank), arguments)
            on_cpu = own.added + mapped_bytes(model)
            peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else on_cpu
            trained, total = model.get_nb_trainable_parameters()
            tokens, labels = (arguments.batch * each for each in (arguments.tokens, COMPLETION_TOKENS))
            found[rank] = {
                "trainable_parameters": trained,
                "total_parameters": total,
                "tokens_per_second": tokens / seconds,
                "utilization": needed_flops(config, tokens, arguments.tokens, labels) / seconds / rate,
                "peak_gigabytes": peak / 1e9,
                "estimated_gigabytes": counted[rank].total / 1e9,
            }
            if arguments.articles and rank == arguments.ranks[0]:
                found[rank] |= written(model.eval(), config, arguments)
            base = model.unload()
    return found


def adapter_settings(rank: int) -> params.Lora:
    """params.yaml's `lora` section with a rank."""
    return params.Lora(rank=rank, alpha=None, dropout=0.0, target_modules=TARGETS)


def step_seconds(model, tokenizer, settings, lora, arguments) -> float:
    """Median seconds of a training step on random rows; the first warms up and does not count."""
    import torch

    from onesentence.training.trainer import build_trainer

    train = params.Train(
        method="lora",
        epochs=1,
        steps=None,
        order="random",
        batch_size=arguments.batch,
        gradient_accumulation=1,
        learning_rate=2e-4,
        warmup_ratio=0.0,
        autocast="none",
        log_every=10_000,
        checkpoint_every=10_000,
        eval_examples=1,
    )
    p = params.part_of(params.Params, {"seed": 0, "model": settings, "lora": lora, "train": train})
    rng = torch.Generator().manual_seed(0)
    count = arguments.batch * (arguments.steps + 1)
    drawn = torch.randint(0, 50_000, (count, arguments.tokens), generator=rng).tolist()
    rows = [(row[:-COMPLETION_TOKENS], row[-COMPLETION_TOKENS:]) for row in drawn]
    clock = step_clock()
    with tempfile.TemporaryDirectory() as name:
        trainer = build_trainer(model, tokenizer, rows, rows[:1], p, Path(name))
        trainer.add_callback(clock)
        trainer.train()
    return float(np.median(np.diff(clock.ends)))


def written(model, config, arguments) -> dict:
    """Articles a second with the shared prompt, and times `generate()` on the same batch."""
    import torch

    from onesentence.generation.decoding import inner_model

    rng = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 50_000, (arguments.articles, arguments.tokens), generator=rng)
    ids = ids.to(next(model.parameters()).device)
    mask = torch.ones_like(ids)
    settings = SimpleNamespace(max_new_tokens=NEW_TOKENS, num_beams=BEAMS, length_penalty=1.0)
    tokenizer, vocabulary = Tokens(config), config.vocab_size
    config = generation_config(tokenizer, settings, vocabulary)
    plain = inner_model(model)
    seconds: dict[str, list[float]] = {"ours": [], "generate": []}
    for _ in range(arguments.rounds):
        started = time.perf_counter()
        ours = generate_tokens(model, ids, mask, config)
        wait()
        seconds["ours"].append(time.perf_counter() - started)
        started = time.perf_counter()
        with torch.inference_mode():
            theirs = plain.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        wait()
        seconds["generate"].append(time.perf_counter() - started)
    theirs = theirs[:, ids.shape[1] :]
    same = sum(torch.equal(a, b[: len(a)]) for a, b in zip(ours, theirs, strict=True) if len(a) <= len(b))
    return {
        "articles_per_second": arguments.articles / min(seconds["ours"]),
        "times_generate": min(seconds["generate"]) / min(seconds["ours"]),
        "articles_with_other_tokens": arguments.articles - same,
    }


def children(folder: str, jobs: list[tuple[str, list[int]]], arguments) -> Iterator[dict]:
    """What each (way, ranks) took, its process run to its end before the next one begins to time.

    On a GPU all of them load side by side first, on a CPU one is started after the other.
    """
    import torch

    def start(way: str, ranks: list[int]):
        command = [sys.executable, "-m", "benchmarks.full_size", "--folder", folder]
        command += ["--ways", way, "--ranks", *map(str, ranks)]
        for name in ("tokens", "batch", "steps", "articles", "rounds"):
            command += [f"--{name}", str(getattr(arguments, name))]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    started = {i: start(*job) for i, job in enumerate(jobs)} if torch.cuda.is_available() else {}
    try:
        for process in started.values():
            until_ready(process)
        for i, job in enumerate(jobs):
            if i not in started:
                started[i] = start(*job)
                until_ready(started[i])
            output, _ = started[i].communicate("go\n")
            if started[i].returncode:
                raise UserError(f"full_size: {job[0]} failed; see the error above")
            yield json.loads(output.splitlines()[-1])
    finally:
        for process in started.values():
            process.kill()  # one that has ended stays as it is


def until_ready(process) -> None:
    """Read a child's lines until it has loaded, or has ended."""
    while (line := process.stdout.readline()) and line.strip() != READY:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SHAPES, default="phi-2")
    parser.add_argument("--layers", type=int, help="all with a GPU, else 2")
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="bfloat16 and nf4; with a GPU int8 too")
    parser.add_argument("--ranks", nargs="+", type=int, default=[8, 16, 64])
    parser.add_argument("--tokens", type=int, default=512, help="of a row")
    parser.add_argument("--batch", type=int, default=2, help="rows at once")
    parser.add_argument("--steps", type=int, default=5, help="that are timed")
    parser.add_argument("--articles", type=int, default=8, help="written at once; 0 for none")
    parser.add_argument("--rounds", type=int, default=2, help="of generation")
    parser.add_argument("--output", type=output_file)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of the random model: a child
    arguments = parser.parse_args()
    set_up(seed=0, formats=[WAYS[way][0] for way in arguments.ways or WAYS])
    if arguments.folder:

        def begin() -> None:
            print(READY, flush=True)
            if not sys.stdin.readline():
                sys.exit("full_size: the process that started this one is gone")

        print(json.dumps(run_way(arguments.folder, arguments.ways[0], arguments, begin)))
        return
    import torch

    gpu = torch.cuda.is_available()
    layers = arguments.layers or (None if gpu else 2)
    ways = arguments.ways or ["bfloat16", *(["int8"] if gpu else []), "nf4"]
    # A CPU's peak is that of a process: one rank each.
    jobs = [
        (way, ranks)
        for way in ways
        for ranks in ([arguments.ranks] if gpu else [[r] for r in arguments.ranks])
    ]
    found: dict[str, dict] = {}
    shape = {"model": arguments.model, "layers": SHAPES[arguments.model](layers).num_hidden_layers}
    sizes = {name: getattr(arguments, name) for name in ("tokens", "batch", "steps", "articles")}
    with tempfile.TemporaryDirectory() as folder:
        write_random_model(Path(folder), layers, arguments.model)
        for (way, _), result in zip(jobs, children(folder, jobs, arguments), strict=True):
            for rank, entry in result.items():
                found[f"{way}, rank {rank}"] = entry
                print(
                    f"{way}, rank {rank}: "
                    + ", ".join(f"{key.replace('_', ' ')} {value:,.4g}" for key, value in entry.items()),
                    flush=True,
                )
            if arguments.output:  # after each way: what has been measured stays if a later one fails
                write_json(arguments.output, {**shape, **sizes, "ways": found, "machine": machine()})


if __name__ == "__main__":
    errors.run(main)
