"""A faster dropout for training on a CPU, where torch's costs more than the matrix products beside it.

torch draws one random number for every element. Here one draw of 64 bits serves four elements, with 16 bits
each. Measured on two cores: a training step takes 6 % less time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _Drop(torch.autograd.Function):
    """`x` times `scale` where `mask` is true, else 0; scaled in place, since `where` makes a new tensor."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return torch.where(mask, x, 0.0).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return torch.where(mask, gradient, 0.0).mul_(ctx.scale), None, None


class PackedDropout(torch.nn.Module):
    """In training, zero each element with probability p and scale the others by 1 / (1 - p).

    p is rounded to a multiple of 1 / 65,536. torch's default generator draws, so that a seed and a saved
    state determine the mask.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.dropped = round(p * 2**16)  # of the 65,536 values of 16 bits

    def extra_repr(self) -> str:
        return f"p={self.p}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.dropped == 0:
            return x
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device).random_(-(2**63), None)
        # int16 is at least -2**15, so the `dropped` lowest of its 65,536 values are zeroed.
        mask = draws.view(torch.int16)[: x.numel()].view(x.shape) >= self.dropped - 2**15
        scale = 1 / (1 - self.dropped / 2**16)
        result: torch.Tensor = _Drop.apply(  # type: ignore[no-untyped-call]  # untyped in torch
            x, mask, scale
        )
        return result


def use_packed_dropout(model: PreTrainedModel) -> None:
    """Replace the dropout of every adapter by PackedDropout. For a CPU only: on a GPU torch's own is fast."""
    for module in model.modules():
        for name, dropout in getattr(module, "lora_dropout", {}).items():
            if isinstance(dropout, torch.nn.Dropout):
                module.lora_dropout[name] = PackedDropout(dropout.p).train(dropout.training)
