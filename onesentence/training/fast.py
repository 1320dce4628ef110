"""Which of a model's parts are replaced by faster ones while it is trained on a CPU."""

import torch

from onesentence.core.runtime import has_bfloat16_instructions
from onesentence.training.activation import use_fast_gelu
from onesentence.training.attention import use_block_attention
from onesentence.training.dropout import use_packed_dropout
from onesentence.training.mlp import use_fast_mlp
from onesentence.training.norms import use_fast_norms
from onesentence.training.rotary import use_fast_rotary


def use_fast_parts(model, dtype: str, autocast: str) -> None:
    """Put faster modules in the place of some of a model's, before it is trained; on a GPU none.

    dtype, autocast: `model.dtype` and `train.autocast`. A run in float32 keeps its attention and its norms,
    which its kernels compute well, and with them its bytes.
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


def hold_frozen_in_bfloat16(model) -> None:
    """Round the frozen weights of linear layers once, as autocast does anew in every pass.

    The products stay the same to the bit. Weights that something else reads too (tied embeddings), and
    quantized ones, stay as they are.
    """
    layers = [module for module in model.modules() if type(module) is torch.nn.Linear]
    linear = {id(module) for module in layers}
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


def keep_inputs_narrow(model) -> None:
    """Have adapters take their input as it comes, where peft would cast it to float32 and autocast back."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False
