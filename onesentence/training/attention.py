"""Causal attention in bfloat16 for training on a CPU, as matrix products of blocks of queries.

On a CPU torch's fused kernel computes bfloat16 no faster than float32, but matrix products use the bfloat16
instructions. Measured at SmolLM2's shape (8 rows of 414 tokens, 9 heads of queries and 3 of keys, 64 wide,
two cores of an EPYC): forward and backward take 76 to 92 ms instead of 115 to 137. Scores are rounded to
bfloat16, as in transformers' eager attention; their softmax and the sums of gradients are float32. The
backward pass computes the weights again, so a layer keeps only its queries, keys and values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "bfloat16_blocks"  # as transformers knows it
BLOCK = 128  # queries; a block reads only the keys up to its last query, so later keys cost nothing
# Options of a call that do not change what is computed here, or that are read below.
HARMLESS = {
    "dropout",
    "scaling",
    "is_causal",
    "position_ids",
    "use_cache",
    "cache_position",
    "output_attentions",
    "sliding_window",  # the mask contains it; without a mask no row is longer than the window
}


def _weights(queries: torch.Tensor, keys: torch.Tensor, first: int, groups: int) -> torch.Tensor:
    """Attention weights [batch, groups * block, keys] of a block of queries; later keys get 0.

    queries: [batch, groups * block, head_dim], scaled, ordered by their group; keys: [batch, first + block,
    head_dim], up to the block's last query. batch: rows x heads of keys; groups: heads of queries for each.
    """
    scores = torch.bmm(queries, keys.transpose(1, 2))
    size = keys.shape[1] - first
    later = torch.ones(size, size, dtype=torch.bool, device=keys.device).triu_(1)
    own = scores.unflatten(1, (groups, size))[..., first:]
    own.masked_fill_(later, float("-inf"))
    return torch.softmax(scores, -1)


class _BlockAttention(torch.autograd.Function):
    """Attention of bfloat16 queries [batch, heads, tokens, head_dim] over key, value [batch, key heads, ...].

    The result has the shape of the queries.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scaling = scaling
        batch, heads, tokens, width = query.shape
        groups = heads // key.shape[1]
        queries = (query * scaling).reshape(-1, groups, tokens, width)
        keys, values = key.reshape(-1, tokens, width), value.reshape(-1, tokens, value.shape[-1])
        output = query.new_empty(len(keys), groups, tokens, value.shape[-1])
        for first in range(0, tokens, BLOCK):
            last = min(first + BLOCK, tokens)
            block = queries[:, :, first:last].flatten(1, 2)
            weights = _weights(block, keys[:, :last], first, groups)
            product = torch.bmm(weights, values[:, :last])
            output[:, :, first:last] = product.unflatten(1, (groups, last - first))
        return output.view(batch, heads, tokens, -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        query, key, value = ctx.saved_tensors
        _, heads, tokens, width = query.shape
        groups = heads // key.shape[1]
        queries = (query * ctx.scaling).reshape(-1, groups, tokens, width)
        keys, values = key.reshape(-1, tokens, width), value.reshape(-1, tokens, value.shape[-1])
        gradients = gradient.reshape(-1, groups, tokens, value.shape[-1])
        of_queries = torch.empty_like(queries)
        # Each later block adds to the gradients of keys and values, so they are summed in float32.
        of_keys = torch.zeros(keys.shape, dtype=torch.float32, device=keys.device)
        of_values = torch.zeros(values.shape, dtype=torch.float32, device=keys.device)
        for first in range(0, tokens, BLOCK):
            last = min(first + BLOCK, tokens)
            block = queries[:, :, first:last].flatten(1, 2)
            of_output = gradients[:, :, first:last].flatten(1, 2)
            weights = _weights(block, keys[:, :last], first, groups)
            of_values[:, :last] += torch.bmm(weights.transpose(1, 2), of_output)
            of_weights = torch.bmm(of_output, values[:, :last].transpose(1, 2))
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            product = torch.bmm(of_scores, keys[:, :last])
            of_queries[:, :, first:last] = product.unflatten(1, (groups, last - first))
            of_keys[:, :last] += torch.bmm(of_scores.transpose(1, 2), block)
        return (
            of_queries.mul_(ctx.scaling).view(query.shape),
            of_keys.to(key.dtype).view(key.shape),
            of_values.to(value.dtype).view(value.shape),
            None,
        )


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention as transformers calls it; a call that blocks do not support goes to `sdpa`.

    query: [batch, heads, tokens, head_dim]; the result is [batch, tokens, heads, head_dim]. Blocks support
    plain causal attention in bfloat16: no mask, no dropout, no other change of the scores.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    device = query.device.type
    reduced = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
    plain = (
        attention_mask is None
        and options.get("is_causal", getattr(module, "is_causal", True)) in (True, None)
        and not options.get("dropout")
        and all(value is None for name, value in options.items() if name not in HARMLESS)
        and query.shape[2] == key.shape[2] > 1
        and (reduced or {query.dtype, key.dtype, value.dtype} == {torch.bfloat16})
    )
    if not plain:
        output, weights = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return output, weights
    scaling = options.get("scaling")
    with torch.autocast(device, enabled=False):
        output = _BlockAttention.apply(  # type: ignore[no-untyped-call]  # untyped in torch
            *(tensor.to(torch.bfloat16) for tensor in (query, key, value)),
            query.shape[-1] ** -0.5 if scaling is None else scaling,
        )
    return output.transpose(1, 2).contiguous(), None


def use_block_attention(model: PreTrainedModel) -> None:
    """Make a model that uses `sdpa` compute its attention in blocks of bfloat16 products."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    for part in model.modules():
        config: Any = getattr(part, "config", None)
        if getattr(config, "_attn_implementation", None) == "sdpa":
            config._attn_implementation = NAME
