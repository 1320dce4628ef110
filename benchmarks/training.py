"""How fast is fine-tuning, against TRL's SFTTrainer and against the matrix products alone?

Every way trains the same adapter (rank, targets, dropout, learning rate, batch, steps, precision) on the same
pairs, each run in a process of its own; ways take turns, and each round has a seed of its own. Seconds are
those of `train()`: making the trainer is not counted. CPU seconds compare on a machine that does other work
too. Real tokens are those of the pairs, padding not counted. Peak memory is what training adds to the
resident size after imports and model load.

`trl, grouped` is SFTTrainer at its fastest: rows of similar length in a batch, no gradient checkpointing,
loss on the completion alone, logits at its labels alone. `trl` is SFTTrainer with its own defaults (random
batches, checkpointing). `products` multiplies random matrices of the shapes that a step needs, forward and
backward, and does nothing else. Under autocast all of them train in bfloat16.

With --preset the settings and rows are those of presets/NAME/. With --wide the base has Phi-2's width,
vocabulary and heads, 2 layers, and random weights.

Run     pip install -r benchmarks/requirements.txt
        python -m benchmarks.training [--pairs 320] [--rounds 5] [--wide | --preset NAME] [--output FILE]
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.common import enter_preset, peak_bytes, ratios, reset_peak
from benchmarks.full_size import write_random_model
from onesentence.core import errors, params
from onesentence.core.files import output_file, write_json
from onesentence.core.machine import machine
from onesentence.core.runtime import set_up
from onesentence.model.adapters import add_adapter
from onesentence.model.encoding import training_batch
from onesentence.model.loading import load_base, load_tokenizer
from onesentence.training.loss import in_format

WAYS = ("ours", "trl, grouped", "trl", "products")


def load(p, way: str):
    """(tokenizer, adapter on the base, training rows, validation rows). TRL's base is loaded plainly."""
    import torch
    from transformers import AutoModelForCausalLM

    from onesentence.training.batches import read_rows

    tokenizer = load_tokenizer(p.model)
    if way.startswith("trl"):
        base = AutoModelForCausalLM.from_pretrained(
            p.model.name, dtype=getattr(torch, p.model.dtype), use_safetensors=True, trust_remote_code=False
        )
        base.requires_grad_(False)
    else:
        base = load_base(p.model)
    rows = [read_rows(Path(f"data/tokenized/{split}.parquet")) for split in ("train", "validation")]
    return tokenizer, add_adapter(base, p.lora, p.seed), *rows


def our_trainer(p, model, tokenizer, rows, validation, folder: Path):
    """The stage `train`'s own trainer."""
    from onesentence.training.fast import use_fast_parts
    from onesentence.training.trainer import build_trainer

    use_fast_parts(model, p.model.dtype, p.train.autocast)
    return build_trainer(model, tokenizer, rows, validation, p, folder)


def trl_trainer(p, model, tokenizer, rows, folder: Path, fastest: bool):
    """SFTTrainer on prompt and completion ids, at its fastest or with its own defaults."""
    from datasets import Dataset, disable_progress_bars
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    steps = -(-len(rows) // (p.train.batch_size * p.train.gradient_accumulation)) * p.train.epochs
    data = Dataset.from_list(
        [
            {
                "input_ids": [*map(int, prompt), *map(int, completion)],
                "completion_mask": [0] * len(prompt) + [1] * len(completion),
            }
            for prompt, completion in rows
        ]
    )
    config = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=p.train.epochs,
        per_device_train_batch_size=p.train.batch_size,
        gradient_accumulation_steps=p.train.gradient_accumulation,
        learning_rate=p.train.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=round(p.train.warmup_ratio * steps),
        completion_only_loss=True,
        max_length=None,
        gradient_checkpointing=not fastest,
        train_sampling_strategy="group_by_length" if fastest else "random",
        bf16=p.train.autocast == "bfloat16",
        use_cpu=True,
        dataloader_pin_memory=False,
        logging_steps=10_000,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=p.seed,
    )
    return SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)


class Matrices:
    """Random matrices of any shape, each a view of one block that is drawn once.

    Numbers drawn anew for each batch would be timed as work that a step cannot avoid.
    """

    def __init__(self, largest: int, dtype) -> None:
        import torch

        self.block = torch.randn(largest).to(dtype)

    def __call__(self, *shape: int):
        return self.block[: math.prod(shape)].view(shape)


def matrices(p, model, rows) -> Matrices:
    """Matrices large enough for `multiply`."""
    config = model.get_base_model().config
    longest = max(len(prompt) + len(completion) for prompt, completion in rows)
    kept = 1 + max(len(completion) for _, completion in rows)
    widest = max(config.hidden_size, config.intermediate_size, config.num_attention_heads * longest)
    each = max(longest * widest, kept * config.vocab_size)
    largest = max(p.train.batch_size * each, config.intermediate_size * p.lora.rank)
    return Matrices(largest, next(model.parameters()).dtype)


def multiply(p, model, rows, random: Matrices) -> None:
    """The matrix products of the run and nothing else."""
    import torch

    from onesentence.training.batches import batch_order
    from onesentence.training.loss import last_mlp

    base = model.get_base_model()
    layers, width, heads = (
        base.config.num_hidden_layers,
        base.config.hidden_size,
        base.config.num_attention_heads,
    )
    targets, frozen = frozen_layers(base)
    last = {id(module) for module in (last_mlp(base) or torch.nn.Module()).modules()}
    lengths = [len(prompt) + len(completion) for prompt, completion in rows]
    for batch in batch_order(lengths, p.train.batch_size, p.train.epochs, p.seed):
        longest = max(lengths[i] for i in batch)
        kept = 1 + max(len(rows[i][1]) for i in batch)
        tokens = len(batch) * longest
        for module in frozen:
            # The last MLP computes where a label is predicted alone (losses.predicting_at).
            rows_in = len(batch) * kept if id(module) in last else tokens
            random(rows_in, module.in_features) @ module.weight.T
            random(rows_in, module.out_features) @ module.weight
        for module in targets:
            inputs, outputs = random(tokens, module.in_features), random(tokens, module.out_features)
            a, b = random(module.in_features, p.lora.rank), random(p.lora.rank, module.out_features)
            low = inputs @ a
            low @ b
            back = outputs @ b.T
            low.T @ outputs
            inputs.T @ back
            back @ a.T
        head = random(len(batch) * heads, longest, width // heads)
        square = random(len(batch) * heads, longest, longest)
        for _ in range(layers):
            for _ in range(3):  # one forward, two backward, of scores and of values
                head @ head.transpose(1, 2)
                square @ head
        random(len(batch) * kept, width) @ base.lm_head.weight.T
        random(len(batch) * kept, base.config.vocab_size) @ base.lm_head.weight


def frozen_layers(base) -> tuple[list, list]:
    """(layers that an adapter changes, all linear layers of the base but the output layer)."""
    import torch

    targets = [m for name, m in base.named_modules() if name.endswith("base_layer")]
    frozen = [
        module
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name and "lm_head" not in name
    ]
    return targets, frozen


def run_one(way: str, arguments) -> None:
    """Train once in this process and print what it took as JSON."""
    p = settings(arguments)
    set_up(p.seed, [p.model.dtype, p.train.autocast])
    import torch

    from onesentence.training.trainer import measured_loss

    tokenizer, model, rows, validation = load(p, way)
    rows, validation = rows[: arguments.pairs], validation[: min(100, arguments.pairs)]
    # Kernels are chosen and buffers made at the first call: not what is measured.
    batch = training_batch(rows[:2], tokenizer.pad_token_id)
    with in_format(model, p.train.autocast):
        loss = model(**batch).loss
    loss.backward()
    model.zero_grad()
    with tempfile.TemporaryDirectory() as name, torch.enable_grad():
        if way == "ours":
            work = our_trainer(p, model, tokenizer, rows, validation[:1], Path(name)).train
        elif way == "products":
            if p.train.autocast == "bfloat16":
                model.bfloat16()
            work = partial(torch.inference_mode()(multiply), p, model, rows, matrices(p, model, rows))
        else:
            work = trl_trainer(p, model, tokenizer, rows, Path(name), fastest=way == "trl, grouped").train
        before = reset_peak()
        started, cpu = time.perf_counter(), time.process_time()
        work()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = peak_bytes() - before
    tokens = p.train.epochs * sum(len(prompt) + len(completion) for prompt, completion in rows)
    loss = measured_loss(model, validation, tokenizer.pad_token_id, p.train.autocast)
    found = {"seconds": seconds, "cpu_seconds": cpu, "tokens": tokens, "peak_bytes": peak}
    print(json.dumps(found | {"validation_loss": loss}))


def settings(arguments) -> params.Params:
    """params.yaml with one epoch and no interruptions."""
    own = {"seed": arguments.seed, "train.epochs": arguments.epochs}
    own |= {"train.log_every": 10_000, "train.checkpoint_every": 10_000}
    if arguments.base:
        own |= {"model.name": arguments.base, "model.watch": arguments.base}
    return params.changed(params.load(("seed", "model", "lora", "train")), own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="alternating runs of every way")
    parser.add_argument("--wide", action="store_true", help="Phi-2's width with 2 layers, random weights")
    parser.add_argument("--preset", help="settings and rows of presets/NAME/, which was run")
    parser.add_argument("--output", type=output_file)
    parser.add_argument("--base", help=argparse.SUPPRESS)  # of a child: the folder of the wide model
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)  # of a child: its round
    parser.add_argument("--way", choices=WAYS, help="run this one alone, here, and print JSON")
    arguments = parser.parse_args()
    root = Path.cwd()
    output = arguments.output and arguments.output.absolute()
    enter_preset(arguments.preset)
    if arguments.way:
        run_one(arguments.way, arguments)
        return
    set_up(seed=0)  # so that the kernels recorded are those of the children
    found: dict[str, list[dict]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        if arguments.wide:
            write_random_model(Path(folder), layers=2)
            load_tokenizer(settings(arguments).model).save_pretrained(folder)
        for seed in range(arguments.rounds):
            for way in WAYS:
                command = [sys.executable, "-m", "benchmarks.training", "--way", way]
                command += ["--pairs", str(arguments.pairs), "--epochs", str(arguments.epochs)]
                command += ["--seed", str(seed)]
                command += ["--base", folder] if arguments.wide else []
                command += ["--preset", arguments.preset] if arguments.preset else []
                done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
                found[way].append(json.loads(done.stdout.splitlines()[-1]))
    rate = {way: np.array([run["tokens"] / run["seconds"] for run in runs]) for way, runs in found.items()}
    cpu = {way: np.array([run["cpu_seconds"] for run in runs]) for way, runs in found.items()}
    peak = {way: np.array([run["peak_bytes"] for run in runs], dtype=float) for way, runs in found.items()}
    loss = {way: np.array([run["validation_loss"] for run in found[way]]) for way in WAYS[:3]}
    result = {
        "base": "Phi-2's width, 2 layers" if arguments.wide else settings(arguments).model.watch,
        "pairs": arguments.pairs,
        "tokens": found["ours"][0]["tokens"],
        "tokens_per_second": {way: float(np.median(values)) for way, values in rate.items()},
        "speed": {way: ratios(rate["ours"], rate[way]) for way in WAYS[1:3]},
        "cpu_speed": {way: ratios(cpu[way], cpu["ours"]) for way in WAYS[1:3]},
        "time_of_the_products": ratios(rate["products"], rate["ours"]),
        "peak_megabytes": {way: float(np.median(values) / 1e6) for way, values in peak.items()},
        "memory": {way: ratios(peak["ours"], peak[way]) for way in WAYS[1:3]},
        "validation_loss": {way: float(values.mean()) for way, values in loss.items()},
        "validation_loss_of_trl": ratios(loss["ours"], loss["trl, grouped"]),
        "machine": machine(),
    }
    print(json.dumps({k: v for k, v in result.items() if k != "machine"}, indent=2))
    if output:
        write_json(output, result)


if __name__ == "__main__":
    errors.run(main)
