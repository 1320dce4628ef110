"""The tuned model as one model: the adapter merged in float32 into the unquantized base, then rounded."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onesentence.core.errors import UserError
from onesentence.core.files import read_json
from onesentence.core.params import Model
from onesentence.model.adapters import MERGE_TOLERANCE, TUNING, probe_logits, quiet_peft, shared_targets
from onesentence.model.loading import load_base, load_config

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


def is_adapter(tuned: Path) -> bool:
    """Whether the folder holds an adapter; otherwise it holds every weight."""
    if not (tuned / TUNING).is_file():
        raise UserError(f"{tuned}: {TUNING} not found; run `dvc repro` to train a model")
    return bool(read_json(tuned / TUNING)["method"] != "full")


def merged_model(settings: Model, tuned: Path) -> tuple[PreTrainedModel, float]:
    """(the tuned model in model.dtype, the share of the update that this format kept).

    settings: params.yaml's `model` section. The adapter is merged in float32 into the unquantized base,
    whatever the format of training was: merging into rounded weights degrades outputs (peft#2321).
    """
    import torch

    exact = replace(settings, dtype="float32", quantization="none")
    dtype = getattr(torch, settings.dtype)
    if not is_adapter(tuned):
        model = load_base(replace(exact, name=str(tuned), watch=str(tuned), revision=None))
        _restore_activation(model, settings)
        return model.to(dtype), 1.0
    from peft import PeftModel

    with quiet_peft():
        adapted = PeftModel.from_pretrained(load_base(exact), tuned).eval()
        untie(adapted)
        wanted = probe_logits(adapted)
        before = _adapted_weights(adapted)
        model = adapted.merge_and_unload()
    if (probe_logits(model) - wanted).abs().max() > MERGE_TOLERANCE * wanted.std():
        raise UserError(
            "export.target: merged would change the logits of this model; use adapter, which keeps the "
            "adapter beside its base"
        )
    weights = dict(model.named_parameters())
    kept = share_kept([(old, weights[name]) for name, old in before.items()], dtype)
    _restore_activation(model, settings)
    return model.to(dtype), kept


def _restore_activation(model: PreTrainedModel, settings: Model) -> None:
    """Set the activation's own name again: the loader replaces it by that of the same function's kernel."""
    if hasattr(model.config, "hidden_act"):
        model.config.hidden_act = load_config(settings).hidden_act


def untie(adapted: PeftModel) -> None:
    """Give each adapted layer that shares its weight (tied embeddings) a weight of its own.

    Otherwise the merge would change both layers.
    """
    import torch

    shared = shared_targets(adapted)
    if not shared:
        return
    modules = {name.removeprefix("base_model.model."): module for name, module in adapted.named_modules()}
    for name in shared:
        layer = modules[name].get_base_layer()
        layer.weight = torch.nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
    model = adapted.get_base_model()
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}


def _adapted_weights(adapted: PeftModel) -> dict[str, torch.Tensor]:
    """Copies of the adapted layers' weights, by their names in the merged model."""
    return {
        name.removeprefix("base_model.model.") + ".weight": module.get_base_layer().weight.detach().clone()
        for name, module in adapted.named_modules()
        if hasattr(module, "lora_A")
    }


def share_kept(weights: list[tuple[torch.Tensor, torch.Tensor]], dtype: torch.dtype) -> float:
    """The share of an update that `dtype` keeps, from 0 to 1: 1 - |rounding error| / |update|.

    weights: (before, after the merge in float32) of each adapted layer. bfloat16 has 8 bits: an update below
    1/512 of its weight is rounded away. The norm of the rounded update alone would not show that: where a
    few weights jump by a whole step, it can be larger than the update.
    """
    error, update = 0.0, 0.0
    for old, new in weights:
        error += float((new.to(dtype).float() - new).pow(2).sum())
        update += float((new - old).pow(2).sum())
    if update == 0.0:
        return 1.0
    return max(0.0, 1.0 - math.sqrt(error / update))
