"""Replace parts of a model by faster ones for training on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from onesentence.core.runtime import has_bfloat16_instructions
from onesentence.training.activation import use_fast_gelu
from onesentence.training.attention import use_block_attention
from onesentence.training.dropout import use_packed_dropout
from onesentence.training.mlp import use_fast_mlp
from onesentence.training.norms import use_fast_norms
from onesentence.training.rotary import use_fast_rotary

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def use_fast_parts(model: PreTrainedModel, dtype: str, autocast: str) -> None:
    """Replace some modules of a model by faster ones before it is trained; on a GPU none.

    dtype, autocast: `model.dtype` and `train.autocast`. A run in float32 keeps its attention and norms:
    torch's kernels are fast there, and the bytes of its results stay the same.
    """
    if torch.cuda.is_available():
        return
    use_packed_dropout(model)
    use_fast_gelu(model)
    if "bfloat16" in (dtype, autocast) and has_bfloat16_instructions():
        use_block_attention(model)
        use_fast_norms(model)
        use_fast_rotary(model)
        use_fast_mlp(model)
        if autocast == "bfloat16":
            hold_frozen_in_bfloat16(model)
            keep_inputs_narrow(model)


def hold_frozen_in_bfloat16(model: PreTrainedModel) -> None:
    """Round the frozen weights of linear layers to bfloat16 once; autocast would do so in every pass.

    The products stay the same to the bit. Quantized weights stay as they are, and so do weights that another
    kind of layer reads too (tied embeddings).
    """
    # Exactly Linear: bitsandbytes' layers are subclasses of it.
    layers = [module for module in model.modules() if type(module) is torch.nn.Linear]
    linear = {id(module) for module in layers}
    # Weights of other modules: an embedding reads its rows in float32, also if they are a layer's weight too.
    shared = {
        id(weight)
        for module in model.modules()
        if id(module) not in linear
        for weight in module.parameters(recurse=False)
    }
    for layer in layers:
        for weight in layer.parameters(recurse=False):
            if weight.dtype == torch.float32 and not weight.requires_grad and id(weight) not in shared:
                weight.data = weight.data.bfloat16()


def keep_inputs_narrow(model: PreTrainedModel) -> None:
    """Let adapters use their input as it is: peft would cast it to float32, and autocast back again."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False
