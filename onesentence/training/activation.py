"""A faster GELU (tanh form) for training on a CPU: the forward pass computes the derivative too.

0.5 x (1 + tanh(u)) is x sigmoid(2u), and torch's sigmoid takes a quarter of the time of its tanh. The forward
pass keeps the derivative in place of x, which takes as many bytes, so the backward pass is one product.
Measured on one thread for [1,840 x 1,024] numbers: both passes take 5 ms instead of 11.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SLOPE = 2 * math.sqrt(2 / math.pi)  # 2u = SLOPE (x + CUBIC x^3)
CUBIC = 0.044715


class _Gelu(torch.autograd.Function):
    """x sigmoid(2u) and its derivative. x: any shape."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        square = x * x
        gate = (square * (SLOPE * CUBIC)).add_(SLOPE).mul_(x).sigmoid_()
        value = x * gate
        if ctx.needs_input_grad[0]:
            # d(x g) = g + x g (1 - g) d(2u), where d(2u) = SLOPE (1 + 3 CUBIC x^2)
            rest = square.mul_(3 * SLOPE * CUBIC).add_(SLOPE).mul_(value)
            ctx.save_for_backward(rest.addcmul_(rest, gate, value=-1).add_(gate))
        return value

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        derivative: torch.Tensor
        (derivative,) = ctx.saved_tensors
        return gradient * derivative


class Gelu(torch.nn.Module):
    """torch's gelu(approximate="tanh"), equal up to the rounding of float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32:  # in bfloat16 each step above would be rounded
            return torch.nn.functional.gelu(x, approximate="tanh")
        result: torch.Tensor = _Gelu.apply(x)  # type: ignore[no-untyped-call]  # untyped in torch
        return result


def use_fast_gelu(model: PreTrainedModel) -> None:
    """Replace every GELU of the tanh form by Gelu. For a CPU only: on a GPU torch's own is one kernel."""
    from transformers.activations import GELUTanh

    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, GELUTanh):
                setattr(module, name, Gelu())
