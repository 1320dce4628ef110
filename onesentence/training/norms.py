"""RMSNorm in few passes, on a CPU, with its result in the format of the products that read it.

Written out in torch's functions a norm passes some 6 times over its input, and autograd some 12 times over
what these left. Here it is 4 and 6. Under autocast the result is bfloat16 at once: every layer that reads it
would cast it anyway, three projections and their adapters' one by one.
"""

from copy import deepcopy

import torch


class _RmsNorm(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + eps) over the last dimension, computed in float32."""

    @staticmethod
    def forward(ctx, x, weight, eps: float, dtype):
        wide = x.float()
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx, gradient):
        x, weight, inverse = ctx.saved_tensors
        wide, gradient = x.float(), gradient.float()
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (wide * inverse).mul_(gradient).flatten(0, -2).sum(0).to(weight.dtype)
        found = gradient * weight
        # d(x s)/dx with s = (mean(x^2) + eps)^-1/2: s g - x s^3 mean(g x)
        share = (found * wide).mean(-1, keepdim=True).mul_(inverse.pow(3))
        found = found.mul_(inverse).addcmul_(wide, share, value=-1)
        return found.to(x.dtype), of_weight, None, None


class RmsNorm(torch.nn.Module):
    """An RMSNorm with another's weight. x: [..., width]."""

    def __init__(self, weight, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.eps = eps

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"

    def forward(self, x):
        device, dtype = x.device.type, x.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        return _RmsNorm.apply(x, self.weight, self.eps, dtype)


def use_fast_norms(model) -> None:
    """Put RmsNorm in the place of every norm of a whole row that computes the same.

    Tried on random numbers, since some of that name do otherwise: Gemma's adds 1 to its weight. A norm of
    each head's queries or keys stays: what reads it is not a product under autocast.
    """
    width = model.config.get_text_config().hidden_size
    for module in list(model.modules()):
        for name, child in module.named_children():
            weight = getattr(child, "weight", None)
            known = hasattr(child, "variance_epsilon") and weight is not None and weight.shape == (width,)
            if known and not isinstance(child, RmsNorm) and _computes_the_same(child):
                setattr(module, name, RmsNorm(weight, child.variance_epsilon).train(child.training))


def _computes_the_same(norm) -> bool:
    """Whether RmsNorm gives what `norm` gives, for another weight and row. `norm` may be without data."""
    # A generator of its own: the global one decides the run's dropout.
    generator = torch.Generator().manual_seed(0)
    tried = deepcopy(norm).to_empty(device="cpu").float()
    with torch.no_grad():
        tried.weight.uniform_(0.5, 1.5, generator=generator)
        row = torch.randn(2, len(tried.weight), generator=generator)
        return torch.allclose(
            tried(row), RmsNorm(tried.weight, norm.variance_epsilon)(row), rtol=1e-4, atol=1e-5
        )
