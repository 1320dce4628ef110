"""A faster dropout for training on a CPU, where torch's costs more than the matrix products beside it.

torch draws one random number for every element. Here one draw of 64 bits serves four elements, with 16 bits
each. Measured on two cores: a training step takes 6 % less time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from onesentence.model.encoding import IGNORED

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


@dataclass(frozen=True)
class Share:
    """Which part of a batch this process computes, if several processes share its rows.

    rows: indices of its rows in the batch; labels: [rows, length] of the whole batch, padded.
    """

    rows: Sequence[int]
    labels: torch.Tensor

    def shape_of_whole(self, x: torch.Tensor) -> tuple[int, ...]:
        """The shape of the whole batch's tensor of which `x` is this process's part."""
        first = (1, int(self._predicting().sum())) if self._only_labels(x) else self.labels.shape
        return (*first, *x.shape[2:])

    def part(self, whole: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """This process's part of a tensor of the whole batch, with the shape of `x`."""
        if not self._only_labels(x):
            return whole[list(self.rows), : x.shape[1]]
        places = self._predicting()
        numbers = (places.flatten().cumsum(0) - 1).view(
            places.shape
        )  # of each place among those that predict
        rows = list(self.rows)
        return whole[:, numbers[rows][places[rows]][: x.shape[1]]]

    def _predicting(self) -> torch.Tensor:
        """Whether each position predicts a label; see `training.loss`."""
        return self.labels[:, 1:] != IGNORED

    def _only_labels(self, x: torch.Tensor) -> bool:
        """Whether `x` is [1, places, ...] of `training.loss.predicting_at`; a row has more tokens."""
        rows = list(self.rows)
        length = int((self._predicting()[rows]).sum())
        return x.shape[0] == 1 and x.shape[1] in (length, 0)


_share: Share | None = None


@contextmanager
def sharing(share: Share | None) -> Iterator[None]:
    """Inside, masks are drawn for the whole batch, and each process uses its part.

    So several processes drop the elements that one process would drop. Each draws as many numbers as one.
    """
    global _share
    before, _share = _share, share
    try:
        yield
    finally:
        _share = before


def drawn(x: torch.Tensor) -> torch.Tensor:
    """Random 16-bit integers of the shape of `x`."""
    shape = x.shape if _share is None else _share.shape_of_whole(x)
    count = math.prod(shape)
    draws = torch.empty((count + 3) // 4, dtype=torch.int64, device=x.device).random_(-(2**63), None)
    numbers = draws.view(torch.int16)[:count].view(shape)
    return numbers if _share is None else _share.part(numbers, x)


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
        # int16 is at least -2**15, so the `dropped` lowest of its 65,536 values are zeroed.
        mask = drawn(x) >= self.dropped - 2**15
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
