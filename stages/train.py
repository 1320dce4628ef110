"""Stage `train`: fine-tune an adapter on the base model (LoRA, rsLoRA, DoRA), or every weight of it.

Reads   data/tokenized/{train,validation}.parquet, the base model, metrics/smoke.json (the smoke test).
Writes  models/tuned/ (its tuning.json says how it was trained), metrics/train.json, plots/loss.csv (it grows
        while the model trains); seconds and memory to data/cost/train.json, which nothing compares.
Run     python -m stages.train

If it is killed and started again with the same data and settings, it continues from its last whole checkpoint
and writes the same bytes. It also runs under `accelerate launch` (`onesentence.core.processes`).
"""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onesentence.core import params, processes, stage
from onesentence.core.checkpoints import last_checkpoint
from onesentence.core.files import atomic_write, read_json, write_json
from onesentence.core.fingerprint import fingerprint, model_files
from onesentence.core.runtime import set_up
from onesentence.model.adapters import parameter_counts, save_tuned, trainable, whole_weights
from onesentence.model.loading import load_base, load_config, load_tokenizer, require_bfloat16
from onesentence.training.batches import Row, batches_of, read_rows
from onesentence.training.memory import check_memory

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, TrainerState

PARAMS = ("seed", "model", "lora", "train")
TOKENIZED = Path("data/tokenized")
SPLITS = ("train", "validation")
SMOKE = Path("metrics/smoke.json")
TUNED = Path("models/tuned")
METRICS_FILE = Path("metrics/train.json")
CURVE = Path("plots/loss.csv")
COST = Path("data/cost/train.json")
BILLION = 1_000_000_000


def settings_of(p: params.Params) -> dict[str, Any]:
    """The values that training depends on, by dotted key of params.yaml."""
    values: dict[str, Any] = {"seed": p.seed}
    for name in ("model", "lora", "train"):
        values |= {f"{name}.{key}": value for key, value in vars(getattr(p, name)).items()}
    return {name: value for name, value in values.items() if name not in params.NO_EFFECT}


def run_key(p: params.Params) -> str:
    """The fingerprint of this run's data, settings, base and code, to which its checkpoints belong."""
    files = [TOKENIZED / f"{split}.parquet" for split in SPLITS]
    formats = [p.model.dtype, p.train.autocast]
    values = {**settings_of(p), "processes": processes.kind()}
    return fingerprint("stages.train", [*files, *model_files(p.model.name)], values, formats)


def warn(p: params.Params, trained: int, total: int) -> None:
    """Print a warning for settings that are allowed but rarely intended.

    trained, total: numbers of parameters.
    """
    if p.train.method == "full":
        return
    if not 8 <= p.lora.rank <= 64:
        print(f"train: warning: lora.rank: {p.lora.rank} is outside the usual 8 to 64")
    share = 100 * trained / total
    if total > BILLION and not 0.1 <= share <= 1:
        print(
            f"train: warning: {share:.2f} % of the parameters are trained, outside the usual 0.1 to 1 % "
            "for a base of more than a billion"
        )


def metrics_of(
    p: params.Params,
    state: TrainerState,
    rows: list[Row],
    losses: dict[str, Any],
    counts: tuple[int, int],
    base_bytes: int,
) -> dict[str, Any]:
    """The content of metrics/train.json: what was trained, on how much, and the losses.

    state: the Trainer's; rows: (prompt, completion) ids that were trained on; losses: entries of the result;
    counts: (trained, all) parameters; base_bytes: of the base in memory.
    """
    trained, total = counts
    order = batches_of(rows, p.train, p.seed)
    stored = {"float32": 4, "bfloat16": 2, "float16": 2}[p.model.dtype]
    return {
        "method": p.train.method,
        "trainable_parameters": trained,
        "total_parameters": total,
        "trainable_percent": 100 * trained / total,
        "tuned_bytes": sum(file.stat().st_size for file in TUNED.glob("*.safetensors")),
        # A copy of every weight of the base, to compare with the size of an adapter.
        "full_checkpoint_bytes": (total - (trained if p.train.method != "full" else 0)) * stored,
        "base_footprint_bytes": base_bytes,
        "steps": state.global_step,
        "tokens_trained": sum(sum(map(len, rows[i])) for batch in order for i in batch),
        **losses,
    }


def write_cost(started: float, resumed: bool) -> None:
    """Write this run's seconds, peak memory and device; they differ between runs, so nothing compares them.

    started: time.monotonic() at the start; resumed: whether the run continued from a checkpoint.
    """
    import torch

    on_gpu = torch.cuda.is_available()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    COST.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        COST,
        {
            "seconds": time.monotonic() - started,
            "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else peak,
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
            "resumed": resumed,
            "processes": processes.count(),  # seconds are of all together, memory is of the first
        },
    )


def model_to_train(p: params.Params) -> tuple[PreTrainedModel | PeftModel, int]:
    """The model, ready for training, and the bytes of the base in memory (before processes divide it)."""
    from onesentence.training.fast import use_fast_parts
    from onesentence.training.sharding import shard
    from onesentence.training.trainer import scale_float16_gradients

    base = load_base(p.model)
    base_bytes = base.get_memory_footprint()
    model = trainable(base, p.lora, p.seed, p.train.method)
    use_fast_parts(model, p.model.dtype, p.train.autocast)
    if p.model.dtype == "float16":
        scale_float16_gradients(model)
    if processes.sharded():
        shard(model, p.model.quantization, p.model.dtype)
    return model, base_bytes


def main() -> None:
    p = params.load(PARAMS)
    started = time.monotonic()
    read_json(SMOKE)  # a UserError if the smoke test has not passed
    set_up(p.seed, [p.model.dtype, p.train.autocast])
    processes.join(sharding=True)
    if p.train.autocast == "bfloat16":
        require_bfloat16("train.autocast", "none")
    # Only after set_up, which must choose the kernels before these modules load torch.
    from onesentence.training.live import LiveCurve, trackers, write_curve
    from onesentence.training.trainer import build_trainer, measured_loss, train

    # Before the model is loaded: a tracker may be missing, or refuse to start.
    watchers = [LiveCurve(CURVE), *trackers(p.train.report_to, settings_of(p))] if processes.first() else []
    tokenizer = load_tokenizer(p.model)
    config = load_config(p.model)
    trained, total = parameter_counts(config, p.lora, p.train.method)
    warn(p, trained, total)
    train_rows, validation_rows = (read_rows(TOKENIZED / f"{split}.parquet") for split in SPLITS)
    validation_rows = validation_rows[: p.train.eval_examples]
    check_memory(p, config, train_rows)
    model, base_bytes = model_to_train(p)
    with processes.claimed_together("train", run_key(p)) as folder:
        trainer = build_trainer(model, tokenizer, train_rows, validation_rows, p, folder, watchers)
        checkpoint = last_checkpoint(folder, "train")
        train(trainer, checkpoint)

        state, measured = trainer.state, train_rows[: p.train.eval_examples]
        losses = {
            # The Trainer always ends with an evaluation.
            "validation_loss": [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry][
                -1
            ],
            "train_loss": measured_loss(model, measured, tokenizer.pad_token_id, p.train.autocast),
            "loss_examples": {"validation": len(validation_rows), "train": len(measured)},
        }
        weights = whole_weights(model)
        if not processes.first():
            return
        with atomic_write(TUNED) as temporary:
            save_tuned(model, temporary, p.model.name, p.train.method, weights)
        write_curve(CURVE, state.log_history)
        metrics = metrics_of(p, state, train_rows, losses, (trained, total), base_bytes)
        write_json(METRICS_FILE, metrics)
        write_cost(started, checkpoint is not None)
    print(
        f"train: {trained:,} of {total:,} parameters ({100 * trained / total:.2f} %), "
        f"{state.global_step:,} steps, {metrics['tokens_trained']:,} tokens; loss "
        f"{losses['train_loss']:.3f} on training rows, {losses['validation_loss']:.3f} on validation "
        "(nats/token, no dropout)"
    )


if __name__ == "__main__":
    stage.run(main, __doc__, launchable=True)
