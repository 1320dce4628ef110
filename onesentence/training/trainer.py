"""The training loop: transformers' Trainer over a fixed order of batches.

Importing this module loads torch and transformers, so import it where a model is about to be loaded.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from onesentence.core import processes, stopping
from onesentence.core.checkpoints import seal
from onesentence.core.errors import UserError
from onesentence.core.files import write_text
from onesentence.model.encoding import IGNORED, training_batch
from onesentence.training import sharding
from onesentence.training.batches import Row, batches_of, measured_batches
from onesentence.training.dropout import Share, sharing
from onesentence.training.loss import completion_loss, in_format

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, TrainerControl, TrainerState

    from onesentence.core.params import Params

# Gradients flow back through float16 activations, where numbers below 6e-8 become 0. They are scaled by this
# on the way, and the float32 gradients of the adapter are divided by it again. A power of two is exact.
FLOAT16_SCALE = 1024.0
WHOLE_LABELS = "whole_labels"  # in a batch that processes share: the labels of all its rows
SCHEDULER = "scheduler.pt"  # the Trainer's name for the learning rate's state in a checkpoint
UNLOGGED = "unlogged.json"  # in a checkpoint: the sum of losses since the last log, and the step of that log


def measured_loss(
    model: PreTrainedModel | PeftModel, rows: Sequence[Row], pad_id: int, autocast: str
) -> float:
    """The mean loss (nats a label token) over all label tokens of the rows, without dropout.

    autocast: train.autocast. In another format than the training's, this would take longer and be the loss
    of another model. Several processes share the batches, and each returns the mean of all.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    total, count = 0.0, 0.0
    # FSDP keeps the memory that it gathers weights in, and training could not use that of inference mode.
    mode = torch.no_grad() if processes.sharded() else torch.inference_mode()
    with mode, in_format(model, autocast):
        batches = measured_batches(rows)
        own = processes.share(batches)
        for batch_rows in own:
            batch = training_batch(batch_rows, pad_id)
            batch = {key: value.to(device) for key, value in batch.items()}
            total += completion_loss(model, batch, reduction="sum").item()
            count += sum(len(completion) for _, completion in batch_rows)
        if processes.sharded() and len(own) * processes.count() < len(batches):
            # Each forward pass exchanges weights, so every process must compute as many.
            batch = training_batch(batches[0], pad_id)
            completion_loss(model, {key: value.to(device) for key, value in batch.items()})
    model.train(was_training)
    total, count = processes.summed(total, count)
    return total / count


def shared_batch(batch_rows: Sequence[Row], pad_id: int) -> dict[str, torch.Tensor]:
    """This process's rows of a batch, as `training_batch`, and the labels of all rows (WHOLE_LABELS).

    Rows are dealt out in turn, since a batch may be ordered by length. No row is repeated to fill up a
    process: one for which no row is left gets the first row without labels, which adds nothing to the loss.
    """
    whole = training_batch(batch_rows, pad_id)["labels"]
    own = processes.share(batch_rows)
    batch = training_batch(own or batch_rows[:1], pad_id)
    if not own:
        batch["labels"].fill_(IGNORED)
    return {**batch, WHOLE_LABELS: whole}


def require_finite(loss: float, name: str, step: int) -> None:
    """Raise a UserError for a loss that is NaN or infinite."""
    if not math.isfinite(loss):
        raise UserError(
            f"train: {name} {loss} at step {step}; lower train.learning_rate or use another model.dtype"
        )


class SummaryTrainer(Trainer):
    """A transformers.Trainer over a fixed order of batches, with the loss on the summaries only."""

    # compute_loss divides by the label tokens of all accumulated batches, so the Trainer need not.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        rows: Sequence[Row],
        batches: list[list[int]],
        measured: Sequence[Row],
        pad_id: int,
        autocast: str,
        **options: Any,
    ) -> None:
        """rows: (prompt, completion) ids to train on; measured: those whose loss `evaluate` measures.

        batches: indices into `rows` for the whole run; autocast: train.autocast; options: the Trainer's own.
        """
        # `evaluate` reads `measured` itself; the Trainer only checks that an eval_dataset exists.
        super().__init__(eval_dataset=measured, **options)
        self.rows, self.batches, self.measured = rows, batches, measured
        self.pad_id, self.autocast = pad_id, autocast
        if processes.sharded():
            # `shard` has done it. accelerate would wrap the model in DistributedDataParallel.
            self.accelerator.prepare_model = lambda model, **_: model

    def get_train_dataloader(self) -> Any:
        """One pass over the batches of all epochs, so that a resumed run can skip those it has seen."""
        loader: torch.utils.data.DataLoader[Row] = torch.utils.data.DataLoader(
            self.rows,  # type: ignore[arg-type]  # a list has what a Dataset needs
            batch_sampler=self.batches,
            collate_fn=lambda batch_rows: (
                shared_batch(batch_rows, self.pad_id)
                if processes.count() > 1
                else training_batch(batch_rows, self.pad_id)
            ),
        )
        # In several processes accelerate would deal out whole batches, and repeat some to fill up the last.
        return loader if processes.count() > 1 else self.accelerator.prepare(loader)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # label tokens of the step; the Trainer always counts them
    ) -> torch.Tensor:
        """The batch's share of the step's mean loss over label tokens; a UserError if it is not finite.

        Processes average their gradients. So each multiplies its share by their number.
        """
        share = None
        if (whole := inputs.pop(WHOLE_LABELS, None)) is not None:
            share = Share(processes.share(range(len(whole))) or [0], whole)
        with in_format(model, self.autocast), sharing(share):
            total = completion_loss(model, inputs, reduction="sum")
            loss: torch.Tensor = total * processes.count() / num_items_in_batch
        require_finite(loss.item(), "loss", self.state.global_step + 1)
        return loss

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        # save_total_limit=2 keeps the previous checkpoint until this one is sealed.
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        # The Trainer forgets the losses since its last log. JSON keeps every digit of them.
        (loss,) = processes.summed(self._tr_loss.item() / processes.count())
        if processes.first():
            unlogged = {"loss": loss, "logged_step": self._globalstep_last_logged}
            write_text(folder / UNLOGGED, json.dumps(unlogged))
            seal(folder)
        processes.wait_for_all()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the trained weights to a checkpoint; under FSDP the first process writes them whole."""
        folder = Path(output_dir or self.args.output_dir)
        if processes.sharded():
            sharding.save_weights(self.model, folder)
        elif isinstance(self.model, PreTrainedModel):
            # By the model's own names. By those of its files, experts would not be found at a resume.
            if processes.first():
                self.model.save_pretrained(folder, save_original_format=False)
        else:
            super().save_model(output_dir, _internal_call)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not processes.sharded():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            sharding.load_weights(self.model, Path(resume_from_checkpoint))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if processes.sharded():  # in place of the first process's part, which the Trainer has written
            sharding.save_optimizer(self.model, self.optimizer, Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not processes.sharded():
            super()._load_optimizer_and_scheduler(checkpoint)
        elif checkpoint is not None:
            sharding.load_optimizer(self.model, self.optimizer, Path(checkpoint))
            state = torch.load(Path(checkpoint) / SCHEDULER, weights_only=True)
            self.lr_scheduler.load_state_dict(state)

    def restore_unlogged(self, folder: Path) -> None:
        """Take the losses since the last log from the checkpoint `folder`, once training has begun."""
        unlogged = json.loads((folder / UNLOGGED).read_text(encoding="utf-8"))
        self._tr_loss += unlogged["loss"]
        self._globalstep_last_logged = unlogged["logged_step"]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Log and return the loss on `measured`, without dropout; a UserError if it is not finite.

        Another stage generates and scores.
        """
        loss = measured_loss(self.model, self.measured, self.pad_id, self.autocast)
        require_finite(loss, "validation loss", self.state.global_step)
        self.log({"eval_loss": loss})
        return {"eval_loss": loss}


class Resume(TrainerCallback):
    """Takes the losses since the last log from a checkpoint; otherwise the next logged loss would differ."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.trainer: SummaryTrainer | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        assert self.trainer is not None  # `train` sets it
        self.trainer.restore_unlogged(self.checkpoint)


class StopAtSignal(TrainerCallback):
    """Ends training after the step in which a signal came, with a checkpoint of that step."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if processes.stop_requested() and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True


class Progress(TrainerCallback):
    """One progress bar with the rate, the remaining time and the last losses."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="train",
            unit="step",
            disable=not processes.first(),
        )
        self.losses: dict[str, str] = {}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        names = {"loss": "loss", "eval_loss": "validation"}
        self.losses |= {names[k]: f"{v:.3f}" for k, v in (logs or {}).items() if k in names}
        self.bar.set_postfix(self.losses)

    def close(self) -> None:
        """End the bar's line, so that an error begins a line of its own."""
        if hasattr(self, "bar"):
            self.bar.close()


def training_arguments(p: Params, steps: int, folder: Path) -> TrainingArguments:
    """The Trainer's settings: AdamW without weight decay, linear warm-up and decay, gradient norm at most 1.

    p: the sections `train` and `seed`; steps: of the optimizer; folder: where checkpoints are written.
    """
    settings = p.train
    # params.yaml alone says how a run computes, not what `accelerate config` has written on a machine.
    for name in ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND"):
        os.environ[name] = "no"
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=round(settings.warmup_ratio * steps),
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
        report_to="none",  # trackers come as watchers
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        label_names=["labels"],
    )
    arguments._n_gpu = 1  # with more, the Trainer would split the batches over them (DataParallel)
    return arguments


def build_trainer(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    train_rows: Sequence[Row],
    validation_rows: Sequence[Row],
    p: Params,
    folder: Path,
    watchers: Sequence[TrainerCallback] = (),
) -> SummaryTrainer:
    """A SummaryTrainer with the settings of params.yaml and its checkpoints in `folder`.

    train_rows, validation_rows: (prompt ids, completion ids); p: the sections `train` and `seed`; watchers:
    what shows the losses beside the progress bar.
    """
    batches = batches_of(train_rows, p.train, p.seed)
    trainer = SummaryTrainer(
        rows=train_rows,
        batches=batches,
        measured=validation_rows,
        pad_id=tokenizer.pad_token_id,
        autocast=p.train.autocast,
        model=model,
        args=training_arguments(p, -(-len(batches) // p.train.gradient_accumulation), folder),
        callbacks=[Progress(), StopAtSignal(), *watchers],
    )
    trainer.remove_callback(PrinterCallback)  # it prints every log as a dict; Progress shows them
    return trainer


def train(trainer: SummaryTrainer, checkpoint: Path | None) -> None:
    """Train to the end, from a checkpoint where there is one. Raises Stopped after a signal's checkpoint."""
    if checkpoint:
        resume = Resume(checkpoint)
        resume.trainer = trainer
        trainer.add_callback(resume)
    try:
        with stopping.deferred():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, Progress):
                callback.close()
    number, state = processes.stop_requested(), trainer.state
    if number is not None and state.global_step < state.max_steps:
        raise stopping.Stopped(number, f"after step {state.global_step:,} of {state.max_steps:,}")


class ScaledGradient(torch.autograd.Function):
    """The identity; in the backward pass the gradient times FLOAT16_SCALE."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * FLOAT16_SCALE


def scale_float16_gradients(model: PreTrainedModel | PeftModel) -> None:
    """Scale the loss's gradient before it is cast to float16, and undo it at the adapter."""

    def scaled(module: Any, inputs: Any, output: torch.Tensor) -> Any:
        return ScaledGradient.apply(output.float())  # type: ignore[no-untyped-call]  # untyped in torch

    model.get_output_embeddings().register_forward_hook(scaled)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.register_hook(lambda gradient: gradient / FLOAT16_SCALE)
