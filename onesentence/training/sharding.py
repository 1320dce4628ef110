"""FSDP: each process holds a part of every weight, and gathers the weights of a layer while it computes it.

For a base that does not fit on one device, or whose optimizer states do not (Zhao et al. 2023). This uses
torch's `fully_shard` itself: accelerate's plugin for FSDP does nothing on CPUs, so it could not be tested on
one. Gradients are averaged over the processes, as by DistributedDataParallel.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from onesentence.core import processes
from onesentence.core.errors import UserError
from onesentence.model.adapters import whole_weights

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

WEIGHTS = "weights.safetensors"  # in a checkpoint: what is trained, whole
OPTIMIZER = "optimizer.pt"  # whole states of the optimizer, by the name of a weight


def shard(model: PreTrainedModel | PeftModel, quantization: str, dtype: str) -> None:
    """Divide the weights of a model among the processes of the run, a layer at a time.

    quantization: model.quantization. bitsandbytes' layers keep their weights in forms that cannot be divided.
    dtype: model.dtype. In float16 gradients are scaled by hooks on weights, which are replaced here.
    """
    from torch.distributed.fsdp import fully_shard

    if quantization != "none":
        raise UserError(
            f"model.quantization: {quantization} weights cannot be divided among processes; use none, or "
            "leave out --use_fsdp: a quantized base fits on one device more often"
        )
    if dtype == "float16":
        raise UserError(
            "model.dtype: float16 models are not divided among processes; use bfloat16 or float32, or leave "
            "out --use_fsdp"
        )
    # The logits are a view, which `completion_loss` only reads. An operation in place on it would be wrong.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for stack in model.get_decoder().children():
        if isinstance(stack, torch.nn.ModuleList):
            for layer in stack:
                fully_shard(layer)
    fully_shard(model)


def save_weights(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """Write the trained weights of all processes to a checkpoint; every process must call it."""
    from safetensors.torch import save_file

    weights = whole_weights(model)
    assert weights is not None  # the model is sharded
    if processes.first():
        folder.mkdir(exist_ok=True)
        save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / WEIGHTS)


def load_weights(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """Take the trained weights from a checkpoint."""
    from safetensors.torch import load_file

    options = StateDictOptions(full_state_dict=True, strict=False)  # frozen weights are not in it
    set_model_state_dict(model, dict(load_file(folder / WEIGHTS)), options=options)


def save_optimizer(model: PreTrainedModel | PeftModel, optimizer: Any, folder: Path) -> None:
    """Write the optimizer's states of all processes to a checkpoint; every process must call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_optimizer_state_dict(model, optimizer, options=options)
    if processes.first():
        torch.save(state, folder / OPTIMIZER)


def load_optimizer(model: PreTrainedModel | PeftModel, optimizer: Any, folder: Path) -> None:
    """Take the optimizer's states from a checkpoint."""
    state = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
    set_optimizer_state_dict(model, optimizer, state, options=StateDictOptions(full_state_dict=True))
