"""Stage `train`: fine-tune the base, an adapter on it (LoRA, rsLoRA, DoRA) or every weight.

Reads   data/tokenized/{train,validation}.parquet, the base model, metrics/smoke.json (the gate).
Writes  models/tuned/ (its tuning.json says how it was trained), metrics/train.json, plots/loss.csv; seconds
        and memory to data/cost/train.json, which nothing compares.
Run     python -m stages.train

Killed and started again with the same data and settings, it goes on from its last whole checkpoint and
ends in the same bytes.
"""

import hashlib
import json
import os
import resource
import shutil
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from onesentence.core import code_identity, errors, params
from onesentence.core.errors import UserError
from onesentence.core.files import file_sha256, id_arrays, read_json, read_parquet, replacing, write_json
from onesentence.core.plots import write_csv
from onesentence.core.runtime import set_up
from onesentence.model.encoding import training_batch
from onesentence.model.modeling import (
    load_base,
    load_config,
    load_tokenizer,
    parameter_counts,
    require_bfloat16,
    save_tuned,
    trainable,
)
from onesentence.training.checkpoints import last_checkpoint, seal
from onesentence.training.losses import completion_loss, in_format
from onesentence.training.memory import NoEstimate, free_bytes, passing_bytes, require_fit, training_memory

PARAMS = ("seed", "model", "lora", "train")
TOKENIZED = Path("data/tokenized")
SMOKE = Path("metrics/smoke.json")
TUNED = Path("models/tuned")
METRICS = Path("metrics/train.json")
CURVE = Path("plots/loss.csv")
COST = Path("data/cost/train.json")
# A study's variants run in temporary folders; their checkpoints outlive them in the folder that it names.
CHECKPOINTS = Path(os.environ.get("STUDY_CHECKPOINTS", "models/checkpoints"))
EVAL_BATCH = 8  # rows; more fall out of the CPU's cache (measured: 8 rows 1.4 times the tokens/s of 32)
# Gradients flow back through float16 activations and would vanish below 6e-8; scaled by this they do
# not, and the adapter's float32 gradients are divided by it again. A power of two is exact.
FLOAT16_SCALE = 1024.0
BILLION = 1_000_000_000


def read_rows(split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(prompt ids, completion ids), int32, of a tokenized split, in its order."""
    table = read_parquet(TOKENIZED / f"{split}.parquet", ["prompt_ids", "completion_ids"])
    return list(zip(id_arrays(table["prompt_ids"]), id_arrays(table["completion_ids"]), strict=True))


def batch_order(
    lengths: list[int], batch_size: int, epochs: int, seed: int, novelty: list[float] | None = None
) -> list[list[int]]:
    """Row indices of every batch of the run. Each epoch visits every row once.

    Rows of similar length share a batch: a random order is cut into pools of 16 batches, each pool is
    sorted by length and cut into batches, and the batches of the epoch are shuffled. The last batch of
    an epoch may be smaller.

    With novelty (of each row), an epoch is a curriculum: pools come from the least to the most novel, and
    batches are shuffled within their pool (a scoring function and a pacing of one pass: Hacohen and
    Weinshall 2019).
    """
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(epochs):
        order = rng.permutation(len(lengths)).tolist()
        if novelty is not None:
            order.sort(key=lambda i: novelty[i])
        epoch = []
        for start in range(0, len(order), 16 * batch_size):
            pool = sorted(order[start : start + 16 * batch_size], key=lambda i: (lengths[i], i))
            cut = [pool[k : k + batch_size] for k in range(0, len(pool), batch_size)]
            epoch += cut if novelty is None else [cut[i] for i in rng.permutation(len(cut))]
        batches += epoch if novelty is not None else [epoch[i] for i in rng.permutation(len(epoch))]
    return batches


def token_novelty(prompt: np.ndarray, completion: np.ndarray) -> float:
    """Share (0 to 1) of the summary's distinct token 2-grams that its prompt lacks; 1 where it has none."""
    own = set(pairwise(completion.tolist()))
    return len(own - set(pairwise(prompt.tolist()))) / len(own) if own else 1.0


def batches_of(rows: list, settings, seed: int) -> list[list[int]]:
    """Row indices of every batch of a run over (prompt, completion) rows, as many as params.yaml's `train`
    section says: whole epochs, or a number of optimizer steps over as many epochs as it takes."""
    lengths = [len(prompt) + len(completion) for prompt, completion in rows]
    novelty = [token_novelty(*row) for row in rows] if settings.order == "extractive_first" else None
    size = settings.batch_size
    if settings.steps is None:
        return batch_order(lengths, size, settings.epochs, seed, novelty)
    count = settings.steps * settings.gradient_accumulation
    epochs = -(-count // -(-len(rows) // size))
    return batch_order(lengths, size, epochs, seed, novelty)[:count]


def measured_batches(rows: list) -> list[list]:
    """The batches in which losses are measured: rows of similar length together."""
    ordered = sorted(rows, key=lambda row: len(row[0]) + len(row[1]))
    return [ordered[start : start + EVAL_BATCH] for start in range(0, len(ordered), EVAL_BATCH)]


def measured_loss(model, rows: list, pad_id: int, autocast: str) -> float:
    """Mean loss a label token (nats) over rows, without dropout, weighted by tokens.

    autocast: train.autocast; in another format than the training's it would take longer than need be, and be
    the loss of another model.
    """
    import torch

    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    total, count = 0.0, 0
    with torch.inference_mode(), in_format(model, autocast):
        for chosen in measured_batches(rows):
            batch = training_batch(chosen, pad_id)
            batch = {key: value.to(device) for key, value in batch.items()}
            total += completion_loss(model, batch, reduction="sum").item()
            count += sum(len(completion) for _, completion in chosen)
    model.train(was_training)
    return total / count


def run_key(p) -> str:
    """What a checkpoint belongs to: the data, the settings and the code of this run."""
    code = code_identity.identity(code_identity.WorkingTree(Path(__file__).parents[1]), ["stages.train"])
    digest = hashlib.sha256(code_identity.digest(code).encode())
    base = Path(p.model.name)
    for file in (
        TOKENIZED / "train.parquet",
        TOKENIZED / "validation.parquet",
        *sorted(base.glob("*.safetensors")),
        *sorted(base.glob("config.json")),
    ):
        digest.update(file_sha256(file).encode())
    for section in (p.model, p.lora, p.train):
        digest.update(json.dumps(vars(section), sort_keys=True).encode())
    digest.update(str(p.seed).encode())
    return digest.hexdigest()[:16]


def build_trainer(model, tokenizer, train_rows, validation_rows, p, folder: Path):
    """A transformers.Trainer over a fixed order of batches, with the loss on the summaries alone."""
    import torch
    from tqdm import tqdm
    from transformers import Trainer, TrainerCallback, TrainingArguments

    pad_id = tokenizer.pad_token_id
    settings = p.train
    batches = batches_of(train_rows, settings, p.seed)
    steps = -(-len(batches) // settings.gradient_accumulation)

    class SummaryTrainer(Trainer):
        # compute_loss divides by the label tokens of all accumulated batches.
        loss_is_scaled_for_ga = True

        def get_train_dataloader(self):
            # One pass over the batches of all epochs, so that a resumed run skips what it has seen.
            loader = torch.utils.data.DataLoader(
                train_rows,
                batch_sampler=batches,
                collate_fn=lambda chosen: training_batch(chosen, pad_id),
            )
            return self.accelerator.prepare(loader)

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            with in_format(model, settings.autocast):
                loss = completion_loss(model, inputs, reduction="sum") / num_items_in_batch
            if not bool(torch.isfinite(loss)):
                raise UserError(
                    f"train: loss {loss.item()} at step {self.state.global_step + 1}; "
                    "lower train.learning_rate or use another model.dtype"
                )
            return loss

        def _save_checkpoint(self, model, trial):
            # The one before is kept until this one is sealed: save_total_limit=2.
            super()._save_checkpoint(model, trial)
            seal(folder / f"checkpoint-{self.state.global_step}")

        def evaluate(self, *args, **kwargs):
            loss = measured_loss(self.model, validation_rows, pad_id, settings.autocast)
            self.log({"eval_loss": loss})
            return {"eval_loss": loss}

    class Progress(TrainerCallback):
        """One bar with the rate, the estimate and the last losses."""

        def on_train_begin(self, args, state, control, **kwargs):
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit="step")
            self.shown = {}

        def on_step_end(self, args, state, control, **kwargs):
            self.bar.update(state.global_step - self.bar.n)

        def on_log(self, args, state, control, logs=None, **kwargs):
            names = {"loss": "loss", "eval_loss": "validation"}
            self.shown |= {names[k]: f"{v:.3f}" for k, v in (logs or {}).items() if k in names}
            self.bar.set_postfix(self.shown)

        def on_train_end(self, args, state, control, **kwargs):
            self.bar.close()

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=round(settings.warmup_share * steps),
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch",
        logging_steps=settings.log_every,
        eval_strategy="steps",
        eval_steps=settings.checkpoint_every,
        save_strategy="steps",
        save_steps=settings.checkpoint_every,
        save_total_limit=2,
        seed=p.seed,
        disable_tqdm=True,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        label_names=["labels"],
    )
    # `evaluate` reads validation_rows itself; the Trainer only checks that it has some.
    arguments._n_gpu = 1  # more would be wrapped in DataParallel, which splits the batches
    trainer = SummaryTrainer(
        model=model, args=arguments, eval_dataset=validation_rows, callbacks=[Progress()]
    )
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


def scale_float16_gradients(model) -> None:
    """Scale the loss's gradient before it is cast to float16, and undo it at the adapter."""
    import torch

    class Scaled(torch.autograd.Function):
        """Identity forward; gradient times FLOAT16_SCALE backward."""

        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient):
            return gradient * FLOAT16_SCALE

    head = model.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, output: Scaled.apply(output.float()))
    for weight in model.parameters():
        if weight.requires_grad:
            weight.register_hook(lambda gradient: gradient / FLOAT16_SCALE)


def needed_bytes(p, config, rows: list, batch_size: int, quantization: str) -> int:
    """Bytes that training takes beyond this process's own, with the longest rows in one batch.

    Raises NoEstimate for a model whose activations cannot be known beforehand.
    """
    length = max(len(prompt) + len(completion) for prompt, completion in rows)
    settings = SimpleNamespace(**{**vars(p.train), "batch_size": batch_size})
    batches = [[rows[i] for i in batch] for batch in batches_of(rows, settings, p.seed)]
    model = SimpleNamespace(**{**vars(p.model), "quantization": quantization})
    training = training_memory(
        config, model, p.lora, batch_size, length, most_labels(batches), p.train.method, p.train.autocast
    )
    measuring = passing_bytes(config, model.dtype, EVAL_BATCH, length, most_labels(measured_batches(rows)))
    return training.resident + max(training.activations + training.transient, measuring)


def most_labels(batches: list[list]) -> int:
    """Labels in the batch that has most of them: logits are computed nowhere else."""
    return max(sum(len(completion) for _, completion in batch) for batch in batches)


def warn(p, trained: int, total: int) -> None:
    """Settings that are allowed and rarely meant."""
    if p.train.method == "full":
        return
    if not 8 <= p.lora.rank <= 64:
        print(f"train: warning: lora.rank: {p.lora.rank} is outside the usual 8 to 64")
    share = 100 * trained / total
    if total > BILLION and not 0.1 <= share <= 1:
        print(
            f"train: warning: {share:.2f} % of the parameters are trained, outside the usual 0.1 to 1 % "
            "of a base of over a billion"
        )


def check_memory(p, config, rows: list) -> None:
    """Refuse a run that will not fit; where nobody can know beforehand, say so and go on."""
    try:
        needed = require_fit(partial(needed_bytes, p, config, rows), p, free_bytes())
    except NoEstimate as error:
        print(f"train: {error}; training starts without one")
        return
    print(
        f"train: needs about {needed / 1e9:.2f} GB for the model and a step, "
        f"{free_bytes() / 1e9:.1f} GB are free"
    )


def curve_rows(history: list[dict]) -> list[list]:
    """(step, training loss, validation loss) rows of the trainer's log."""
    steps: dict[int, dict] = {}
    for entry in history:
        for key in ("loss", "eval_loss"):
            if key in entry:
                steps.setdefault(entry["step"], {})[key] = entry[key]
    return [[step, found.get("loss"), found.get("eval_loss")] for step, found in sorted(steps.items())]


def main() -> None:
    p = params.load(PARAMS)
    started = time.monotonic()
    read_json(SMOKE)
    set_up(p.seed, [p.model.dtype, p.train.autocast])
    if p.train.autocast == "bfloat16":
        require_bfloat16("train.autocast", "none")
    import torch

    from onesentence.training.fast import use_fast_parts

    tokenizer = load_tokenizer(p.model)
    config = load_config(p.model)
    trained, total = parameter_counts(config, p.lora, p.train.method)
    warn(p, trained, total)
    train_rows, validation_rows = read_rows("train"), read_rows("validation")[: p.train.loss_examples]
    check_memory(p, config, train_rows)
    base = load_base(p.model)
    footprint = base.get_memory_footprint()
    model = trainable(base, p.lora, p.seed, p.train.method)
    use_fast_parts(model, p.model.dtype, p.train.autocast)
    if p.model.dtype == "float16":
        scale_float16_gradients(model)

    folder = CHECKPOINTS / f"train-{run_key(p)}"
    trainer = build_trainer(model, tokenizer, train_rows, validation_rows, p, folder)
    checkpoint = last_checkpoint(folder, "train")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    # The Trainer always ends with an evaluation.
    validation_loss = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry][-1]
    train_loss = measured_loss(
        model, train_rows[: p.train.loss_examples], tokenizer.pad_token_id, p.train.autocast
    )
    with replacing(TUNED) as temporary:
        save_tuned(model, temporary, p.model.name, p.train.method)
    order = batches_of(train_rows, p.train, p.seed)
    tokens = sum(sum(map(len, train_rows[i])) for batch in order for i in batch)
    stored = {"float32": 4, "bfloat16": 2, "float16": 2}[p.model.dtype]
    write_csv(CURVE, ["step", "loss", "validation_loss"], curve_rows(trainer.state.log_history))
    write_json(
        METRICS,
        {
            "method": p.train.method,
            "trainable_parameters": trained,
            "total_parameters": total,
            "trainable_percent": 100 * trained / total,
            "tuned_bytes": sum(file.stat().st_size for file in TUNED.glob("*.safetensors")),
            "full_checkpoint_bytes": (total - (trained if p.train.method != "full" else 0)) * stored,
            "base_footprint_bytes": footprint,
            "steps": trainer.state.global_step,
            "tokens_trained": tokens,
            "validation_loss": validation_loss,
            "train_loss": train_loss,
            "loss_examples": {
                "validation": len(validation_rows),
                "train": min(len(train_rows), p.train.loss_examples),
            },
        },
    )
    peak = (
        torch.cuda.max_memory_allocated()
        if torch.cuda.is_available()
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    COST.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        COST,
        {
            "seconds": time.monotonic() - started,
            "peak_memory_bytes": peak,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "resumed": checkpoint is not None,
        },
    )
    shutil.rmtree(folder, ignore_errors=True)
    print(
        f"train: {trained:,} of {total:,} parameters ({100 * trained / total:.2f} %), "
        f"{trainer.state.global_step:,} steps, {tokens:,} tokens; loss {train_loss:.3f} on training rows, "
        f"{validation_loss:.3f} on validation (nats/token, no dropout)"
    )


if __name__ == "__main__":
    errors.run(main, __doc__)
