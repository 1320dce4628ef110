"""A faster RMSNorm for training on a CPU, whose result has the format of the products that read it.

Written with torch's functions, a norm makes about 6 passes over its input, and its gradient about 12. Here
they make 4 and 6. Under autocast the result is bfloat16 at once. Otherwise each layer that reads it would
cast it again: three projections and their adapters.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _RmsNorm(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + eps) over the last dimension, computed in float32."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype
    ) -> torch.Tensor:
        wide = x.float()
        inverse: torch.Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None, None]:
        x, weight, inverse = ctx.saved_tensors
        wide, gradient = x.float(), gradient.float()
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (wide * inverse).mul_(gradient).flatten(0, -2).sum(0).to(weight.dtype)
        of_x = gradient * weight
        # d(x s)/dx with s = (mean(x^2) + eps)^-1/2: s g - x s^3 mean(g x)
        share = (of_x * wide).mean(-1, keepdim=True).mul_(inverse.pow(3))
        of_x = of_x.mul_(inverse).addcmul_(wide, share, value=-1)
        return of_x.to(x.dtype), of_weight, None, None


class RmsNorm(torch.nn.Module):
    """An RMSNorm with a given weight. x: [..., width]."""

    def __init__(self, weight: torch.nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.eps = eps

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        device, dtype = x.device.type, x.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        result: torch.Tensor = _RmsNorm.apply(  # type: ignore[no-untyped-call]  # untyped in torch
            x, self.weight, self.eps, dtype
        )
        return result


def use_fast_norms(model: PreTrainedModel) -> None:
    """Replace every norm over the hidden size that computes the same by RmsNorm.

    Each is compared on random numbers, since some norms of this name differ: Gemma's adds 1 to its weight.
    A norm over the queries or keys of a head stays: no product under autocast reads its result.
    """
    width = model.config.get_text_config().hidden_size
    for module in list(model.modules()):
        for name, child in module.named_children():
            weight: Any = getattr(child, "weight", None)
            known = hasattr(child, "variance_epsilon") and weight is not None and weight.shape == (width,)
            if known and not isinstance(child, RmsNorm) and _computes_the_same(child):
                setattr(module, name, RmsNorm(weight, child.variance_epsilon).train(child.training))


def _computes_the_same(norm: Any) -> bool:
    """Whether RmsNorm equals `norm` for a random weight and rows. `norm` may be on the meta device."""
    # With its own generator: the global one determines the dropout of the run.
    generator = torch.Generator().manual_seed(0)
    tried = deepcopy(norm).to_empty(device="cpu").float()
    with torch.no_grad():
        tried.weight.uniform_(0.5, 1.5, generator=generator)
        row = torch.randn(2, len(tried.weight), generator=generator)
        return torch.allclose(
            tried(row), RmsNorm(tried.weight, norm.variance_epsilon)(row), rtol=1e-4, atol=1e-5
        )
