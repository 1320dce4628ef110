"""Phi-2's real size without its weights: does the QLoRA path fit, and what does a step cost?

Builds the 2.7 B architecture with random weights, writes it to a temporary folder in the hub's layout,
loads it with the pipeline's own loader in NF4, does one LoRA step on 256 tokens, and generates.
About 10 minutes and 6 GB of disk on two cores.

Run     python -m benchmarks.full_size [--dtype bfloat16] [--quantization nf4] [--tokens 256]
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from stages.common import errors
from stages.common.decoding import generate_tokens, generation_config
from stages.common.encoding import training_batch
from stages.common.errors import UserError
from stages.common.losses import completion_loss
from stages.common.modeling import add_adapter, load_base
from stages.common.runtime import set_up

MEMORY_LIMIT = 14_000_000_000  # bytes; what a 15 GB card has left for a process
TARGETS = ["q_proj", "k_proj", "v_proj"]
COMPLETION_TOKENS = 25


def phi2_config():
    """Phi-2's configuration: 32 layers, 2,560 wide, 32 heads, 51,200 tokens; 2,779,683,840 parameters."""
    from transformers import PhiConfig

    return PhiConfig(
        vocab_size=51_200,
        hidden_size=2_560,
        intermediate_size=10_240,
        num_hidden_layers=32,
        num_attention_heads=32,
        partial_rotary_factor=0.4,
        max_position_embeddings=2_048,
        resid_pdrop=0.1,
        bos_token_id=50_256,
        eos_token_id=50_256,
        pad_token_id=50_256,
    )


def write_random_model(folder: Path) -> None:
    """Write Phi-2's architecture with random bfloat16 weights, shard by shard."""
    import torch
    from transformers import PhiForCausalLM

    torch.manual_seed(0)
    with torch.device("meta"):
        model = PhiForCausalLM(phi2_config()).to(torch.bfloat16)
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


def timed(label: str, function):
    """Call `function`, print its seconds and the process's peak memory so far, return its value."""
    started = time.monotonic()
    value = function()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{label}: {time.monotonic() - started:.1f} s, peak memory {peak / 1e9:.2f} GB", flush=True)
    return value


def measure(folder: Path, arguments) -> None:
    """Load, train one step, generate; print what each costs."""
    import torch

    settings = SimpleNamespace(
        name=str(folder),
        path=str(folder),
        revision=None,
        dtype=arguments.dtype,
        quantization=arguments.quantization,
    )
    base = timed(f"load ({arguments.quantization}, {arguments.dtype})", lambda: load_base(settings))
    print(f"footprint: {base.get_memory_footprint() / 1e9:.2f} GB")
    lora = SimpleNamespace(rank=16, alpha=None, dropout=0.0, target_modules=TARGETS)
    model = add_adapter(base, lora, seed=0)
    trainable, total = model.get_nb_trainable_parameters()
    print(f"parameters: {trainable:,} trainable of {total:,} ({100 * trainable / total:.2f} %)")

    rng = torch.Generator().manual_seed(0)
    row = torch.randint(0, 50_000, (arguments.tokens,), generator=rng).tolist()
    batch = training_batch([(row[:-COMPLETION_TOKENS], row[-COMPLETION_TOKENS:])], Tokens.pad_token_id)
    batch = {key: value.to(base.device) for key, value in batch.items()}
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=2e-4)

    def step() -> float:
        loss = completion_loss(model.train(), batch)
        loss.backward()
        optimizer.step()
        return loss.item()

    loss = timed(f"one LoRA step on {arguments.tokens} tokens", step)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    config = generation_config(Tokens(), 4, 4, 51_200)
    new = timed("generate 4 tokens with 4 beams", lambda: generate_tokens(model.eval(), ids, mask, config))
    peak = (
        torch.cuda.max_memory_allocated()
        if torch.cuda.is_available()
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    print(f"loss {loss:.3f}, {new.shape[1]} new tokens; peak {peak / 1e9:.2f} GB")
    if peak > MEMORY_LIMIT:
        raise UserError(f"peak memory {peak / 1e9:.2f} GB is over {MEMORY_LIMIT / 1e9:.0f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--quantization", choices=("none", "int8", "nf4"), default="nf4")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--write-only", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    set_up(seed=0)
    if arguments.write_only:
        write_random_model(arguments.write_only)
        return
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own, whose memory is not counted below.
        import subprocess
        import sys

        command = [sys.executable, "-m", "benchmarks.full_size", "--write-only", folder]
        subprocess.run(command, check=True)
        measure(Path(folder), arguments)


if __name__ == "__main__":
    errors.run(main)
