"""Phi-2's real size, or its real width with fewer layers: does it fit, how fast does it train and write?

Builds the 2.7 B architecture with random weights, writes it to a temporary folder in the hub's layout, and
runs each way and rank in a process of its own: the pipeline's loader, its trainer on random rows, and beam
search against `generate()`. One command for a GPU of 24 GB or more:

    python -m benchmarks.full_size --output benchmarks/results/full_size.json

On a CPU the default is 2 layers, and no int8, whose float16 products have no fast kernel there (6 minutes a
step). `--layers 32 --ways nf4 --ranks 16 --tokens 256 --batch 1 --steps 1 --articles 0` is QLoRA at full size
(6 GB of disk). Utilization: FLOPs that a step must do (4 for each frozen weight and token, the output layer
where there are labels, and for causal attention 12 x tokens x width / 2 a layer and token) over what this
machine does in large matrix products of the same format.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from benchmarks.common import AnonymousPeak, mapped_bytes
from stages.common import errors
from stages.common.decoding import generate_tokens, generation_config
from stages.common.files import output_file, write_json
from stages.common.machine import machine
from stages.common.memory import training_memory
from stages.common.modeling import add_adapter, load_base, load_config
from stages.common.runtime import set_up

WAYS = {
    "float32": ("float32", "none"),
    "bfloat16": ("bfloat16", "none"),
    "int8": ("float16", "int8"),
    "nf4": ("bfloat16", "nf4"),
}
TARGETS = ["q_proj", "k_proj", "v_proj"]
COMPLETION_TOKENS = 25
BEAMS, NEW_TOKENS = 4, 24


def phi2_config(layers: int = 32):
    """Phi-2's configuration: 2,560 wide, 32 heads, 51,200 tokens; 2,779,683,840 parameters in 32 layers."""
    from transformers import PhiConfig

    return PhiConfig(
        vocab_size=51_200,
        hidden_size=2_560,
        intermediate_size=10_240,
        num_hidden_layers=layers,
        num_attention_heads=32,
        partial_rotary_factor=0.4,
        max_position_embeddings=2_048,
        resid_pdrop=0.1,
        bos_token_id=50_256,
        eos_token_id=50_256,
        pad_token_id=50_256,
    )


def write_random_model(folder: Path, layers: int = 32) -> None:
    """Write Phi-2's architecture with random bfloat16 weights, shard by shard."""
    import torch
    from transformers import PhiForCausalLM

    torch.manual_seed(0)
    with torch.device("meta"):
        model = PhiForCausalLM(phi2_config(layers)).to(torch.bfloat16)
    # Weights straight into bfloat16: float32 first would take 11 GB.
    model.to_empty(device="cpu")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layernorm" in name and name.endswith("weight"):
                weight.fill_(1.0)
            elif name.endswith("bias"):
                weight.zero_()
            else:
                weight.normal_(0.0, 0.02)
    model.save_pretrained(folder, max_shard_size="1GB")


class Tokens:
    """The special ids of a tokenizer; no text is read or written here."""

    pad_token_id = eos_token_id = bos_token_id = 50_256

    def __len__(self) -> int:
        return 51_200


def wait() -> None:
    """Let the GPU finish, where there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def products_per_second(dtype) -> float:
    """FLOPs a second of this machine in large matrix products of a format."""
    import torch

    device, size = ("cuda", 8_192) if torch.cuda.is_available() else ("cpu", 2_048)
    left = torch.randn(size, size, device=device).to(dtype)
    left @ left
    wait()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < 2:
        left @ left
        wait()
        count += 1
    return 2 * size**3 * count / (time.perf_counter() - started)


def needed_flops(config, tokens: int, length: int, labels: int) -> float:
    """FLOPs of training on `tokens` tokens in rows of `length`, of which `labels` have a label."""
    width = config.hidden_size
    block = 4 * width**2 + 2 * width * config.intermediate_size
    attention = 12 * length * width / 2
    layers = config.num_hidden_layers * (4 * block + attention)
    return layers * tokens + 4 * config.vocab_size * width * labels


def run_one(folder: Path, way: str, rank: int, arguments) -> dict:
    """Train, then generate, one way; what it took."""
    import torch
    from transformers import Trainer  # noqa: F401 (what its import takes is not counted)

    from stages.train import build_trainer

    dtype, quantization = WAYS[way]
    settings = SimpleNamespace(
        name=str(folder), path=str(folder), revision=None, dtype=dtype, quantization=quantization
    )
    lora = SimpleNamespace(rank=rank, alpha=None, dropout=0.0, target_modules=TARGETS)
    train = SimpleNamespace(
        method="lora",
        epochs=1,
        steps=None,
        order="random",
        batch_size=arguments.batch,
        gradient_accumulation=1,
        learning_rate=2e-4,
        warmup_share=0.0,
        autocast="none",
        log_every=10_000,
        checkpoint_every=10_000,
    )
    p = SimpleNamespace(seed=0, model=settings, lora=lora, train=train)
    config = load_config(settings)
    rng = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 50_000, (arguments.batch * arguments.steps, arguments.tokens), generator=rng)
    rows = [(row[:-COMPLETION_TOKENS], row[-COMPLETION_TOKENS:]) for row in drawn.tolist()]
    counted = training_memory(
        config, settings, lora, arguments.batch, arguments.tokens, arguments.batch * COMPLETION_TOKENS
    )

    def trained(model, count: int) -> float:
        with tempfile.TemporaryDirectory() as name:
            trainer = build_trainer(model, Tokens(), rows[: count * arguments.batch], rows[:1], p, Path(name))
            started = time.perf_counter()
            trainer.train()
            wait()
            return time.perf_counter() - started

    with AnonymousPeak() as own:
        model = add_adapter(load_base(settings), lora, seed=0)
        trained(model, 1)  # kernels are chosen and buffers made at the first step
        seconds = trained(model, arguments.steps)
    trained_weights, total = model.get_nb_trainable_parameters()
    on_cpu = own.added + mapped_bytes(model)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else on_cpu
    tokens = arguments.steps * arguments.batch * arguments.tokens
    labels = arguments.steps * arguments.batch * COMPLETION_TOKENS
    rate = products_per_second(getattr(torch, dtype))
    found = {
        "trainable_parameters": trained_weights,
        "total_parameters": total,
        "tokens_per_second": tokens / seconds,
        "utilization": needed_flops(config, tokens, arguments.tokens, labels) / seconds / rate,
        "peak_gigabytes": peak / 1e9,
        "estimated_gigabytes": counted.total / 1e9,
    }
    if arguments.articles:
        found |= written(model.eval(), arguments)
    return found


def written(model, arguments) -> dict:
    """Articles a second with the shared prompt, and times `generate()` on the same batch."""
    import torch

    from stages.common.decoding import inner_model

    rng = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 50_000, (arguments.articles, arguments.tokens), generator=rng)
    ids = ids.to(next(model.parameters()).device)
    mask = torch.ones_like(ids)
    config = generation_config(
        Tokens(),
        SimpleNamespace(max_new_tokens=NEW_TOKENS, num_beams=BEAMS, length_penalty=1.0),
        51_200,
    )
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, help="32 with a GPU, else 2")
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="bfloat16 and nf4; with a GPU int8 too")
    parser.add_argument("--ranks", nargs="+", type=int, default=[8, 16, 64])
    parser.add_argument("--tokens", type=int, default=512, help="of a row")
    parser.add_argument("--batch", type=int, default=2, help="rows at once")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--articles", type=int, default=8, help="written at once; 0 for none")
    parser.add_argument("--rounds", type=int, default=2, help="of generation")
    parser.add_argument("--output", type=output_file)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of the random model: a child
    arguments = parser.parse_args()
    set_up(seed=0)
    if arguments.folder:
        print(json.dumps(run_one(arguments.folder, arguments.ways[0], arguments.ranks[0], arguments)))
        return
    import torch

    gpu = torch.cuda.is_available()
    layers = arguments.layers or (32 if gpu else 2)
    ways = arguments.ways or ["bfloat16", *(["int8"] if gpu else []), "nf4"]
    found: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_random_model(Path(folder), layers)
        for way in ways:
            for rank in arguments.ranks:
                command = [sys.executable, "-m", "benchmarks.full_size", "--folder", folder]
                command += ["--ways", way, "--ranks", str(rank)]
                for name in ("tokens", "batch", "steps", "articles", "rounds"):
                    command += [f"--{name}", str(getattr(arguments, name))]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                entry = found[f"{way}, rank {rank}"] = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"{way}, rank {rank}: "
                    + ", ".join(f"{key.replace('_', ' ')} {value:,.4g}" for key, value in entry.items()),
                    flush=True,
                )
    if arguments.output:
        shape = {"layers": layers, "tokens": arguments.tokens, "batch": arguments.batch}
        write_json(arguments.output, {**shape, "ways": found, "machine": machine()})


if __name__ == "__main__":
    errors.run(main)
