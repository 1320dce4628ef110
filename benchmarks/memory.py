"""How close is the memory estimate of `train` to what training takes?

Each setting trains the embedded base on its longest rows in a process of its own. The estimate is the one by
which the stage decides whether a run fits; the measured peak is the growth of the resident size since
before the model was loaded. Other families are tried as a third of SmolLM2-135M's layers with random weights,
in float32 and under autocast. Phi-2's real size is measured by benchmarks.full_size.

Run     python -m benchmarks.memory [--output FILE]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import peak_bytes, reset_peak
from onesentence.core import errors, params
from onesentence.core.files import output_file, write_json
from onesentence.core.machine import machine
from onesentence.core.runtime import set_up
from onesentence.model.adapters import trainable
from onesentence.model.loading import load_base, load_config, load_tokenizer

ATTENTION_AND_MLP = ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"]
# What differs from params.yaml.
SETTINGS: dict[str, dict[str, dict]] = {
    "as set": {},
    "batches of 2": {"train": {"batch_size": 2}},
    "batches of 32": {"train": {"batch_size": 32}},
    "rank 64, every linear layer": {"lora": {"rank": 64, "target_modules": ATTENTION_AND_MLP}},
    "bfloat16": {"model": {"dtype": "bfloat16"}, "train": {"batch_size": 16}},
    "nf4": {"model": {"quantization": "nf4"}, "train": {"batch_size": 16}},
}
# A third of the layers of SmolLM2-135M, in each family's own form.
SHAPE = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "num_hidden_layers": 10,
    "num_attention_heads": 9,
    "max_position_embeddings": 2_048,
}
FAMILIES: dict[str, tuple[str, dict, list[str]]] = {
    "Llama": (
        "LlamaConfig",
        {"num_key_value_heads": 3, "intermediate_size": 1_536, "tie_word_embeddings": True},
        ["q_proj", "k_proj", "v_proj"],
    ),
    "Qwen2": (
        "Qwen2Config",
        {"num_key_value_heads": 3, "intermediate_size": 1_536, "tie_word_embeddings": True},
        ["q_proj", "k_proj", "v_proj"],
    ),
    "GPT-NeoX": ("GPTNeoXConfig", {"intermediate_size": 2_304}, ["query_key_value"]),
}
for family in FAMILIES:
    SETTINGS[f"{family}'s shape"] = {}
    SETTINGS[f"{family}'s shape, bfloat16 autocast"] = {"train": {"autocast": "bfloat16"}}
STEPS = 4


def of_family(p: params.Params, name: str, folder: Path) -> params.Params:
    """`p` with a random model of a family as its base, with the embedded base's tokenizer."""
    import torch
    import transformers

    kind, own, targets = FAMILIES[name]
    tokenizer = load_tokenizer(p.model)
    config = getattr(transformers, kind)(**SHAPE, **own, eos_token_id=tokenizer.eos_token_id)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    place = {"model.name": str(folder), "model.watch": str(folder)}
    return params.changed(p, {**place, "lora.target_modules": targets})


def run_one(name: str, temporary: Path) -> None:
    """Train under one setting here; print the estimated and the measured bytes as JSON."""
    asked = {f"{section}.{key}": v for section, keys in SETTINGS[name].items() for key, v in keys.items()}
    asked |= {"train.epochs": 1, "train.gradient_accumulation": 1}
    asked |= {"train.log_every": 10_000, "train.checkpoint_every": 10_000}
    p = params.changed(params.load(("seed", "model", "lora", "train")), asked)
    set_up(p.seed, [p.model.dtype, p.train.autocast])
    if (family := name.partition("'s shape")[0]) in FAMILIES:
        p = of_family(p, family, temporary / "base")
    import torch
    from transformers import Trainer  # noqa: F401 (what its import takes is not counted)

    from onesentence.training.batches import EVAL_BATCH, read_rows
    from onesentence.training.fast import use_fast_parts
    from onesentence.training.memory import needed_bytes
    from onesentence.training.trainer import build_trainer, measured_loss

    longest = sorted(
        read_rows(Path("data/tokenized/train.parquet")), key=lambda row: -len(row[0]) - len(row[1])
    )
    rows = longest[: STEPS * p.train.batch_size]
    tokenizer, config = load_tokenizer(p.model), load_config(p.model)
    estimate = needed_bytes(p, config, rows, p.train.batch_size, p.model.quantization)
    torch.randn(64, 64) @ torch.randn(64, 64)  # kernels and their buffers are there before the count
    before = reset_peak()
    model = trainable(load_base(p.model), p.lora, p.seed, p.train.method)
    use_fast_parts(model, p.model.dtype, p.train.autocast)
    build_trainer(model, tokenizer, rows, longest[:EVAL_BATCH], p, temporary / "run").train()
    measured_loss(model, longest[: 2 * EVAL_BATCH], tokenizer.pad_token_id, p.train.autocast)
    print(json.dumps({"estimate_bytes": estimate, "measured_bytes": peak_bytes() - before}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=output_file)
    parser.add_argument("--setting", choices=SETTINGS, help="run this one alone, here, and print JSON")
    arguments = parser.parse_args()
    if arguments.setting:
        with tempfile.TemporaryDirectory() as folder:
            run_one(arguments.setting, Path(folder))
        return
    found = {}
    for name in SETTINGS:
        command = [sys.executable, "-m", "benchmarks.memory", "--setting", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        entry = json.loads(done.stdout.splitlines()[-1])
        found[name] = entry | {"estimate_of_measured": entry["estimate_bytes"] / entry["measured_bytes"]}
        print(
            f"{name}: estimated {entry['estimate_bytes'] / 1e6:,.0f} MB, measured "
            f"{entry['measured_bytes'] / 1e6:,.0f} MB: {found[name]['estimate_of_measured']:.2f}",
            flush=True,
        )
    if arguments.output:
        write_json(arguments.output, {"settings": found, "machine": machine()})


if __name__ == "__main__":
    errors.run(main)
