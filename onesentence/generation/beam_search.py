"""Beam search that reads each prompt once: transformers' search, over a cache that all beams share.

`generate()` copies the prompt for every beam before its first pass, and copies and reorders the whole cache
at every step. Here the keys and values of an article's prompt are held once. The queries of all its beams
read them in one matrix product: the decomposition of Hydragen (Juravsky et al. 2024, arXiv 2402.05099).

The tokens of the beams follow the prompt in the same tensor and are never moved. A mask says which of them
belong to the past of each beam (tree attention). Only the mask is reordered, and one softmax covers both
parts.

Three results of `generate()` that nothing reads are not computed: the upper triangle of the prompts'
attention, the last layer's output for a prompt (its keys and values suffice), and the first step of all beams
but one. Finished articles leave the batch. The search itself (scores, stopping, choice of beams) is
transformers' own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, DynamicCache, LogitsProcessorList
from transformers.cache_utils import Cache, DynamicLayer
from transformers.generation.logits_process import LogitsProcessor
from transformers.masking_utils import AttentionMaskInterface

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

SHARED_ATTENTION = "shared_prompt"
# Arguments that change the scores: soft caps (Gemma 2), sinks (gpt-oss), windows, biases (T5), head masks.
OTHER_SCORES = ("softcap", "s_aux", "sliding_window", "position_bias", "head_mask")
# Keys of a configuration that say the same.
OTHER_CONFIGS = ("attn_logit_softcapping", "alibi", "kv_lora_rank")
# Share of a batch's articles below which the finished ones leave. Leaving copies the cache: too much for one.
LEAVE_BELOW = 0.9
# Prompt tokens in one pass on a CPU, few enough that a layer's results stay in the processor's cache.
READ_TOKENS = 1_024


class PromptsRead(Exception):
    """Ends the reading of prompts in the last layer, as soon as it has their keys and values."""


@dataclass
class Progress:
    """What the layers know about their batch.

    Layers hold this and not their cache: such a cycle would keep the memory until the garbage collector runs.

    articles: number of articles in the batch; longest: slots for a prompt; reading: the articles whose
    prompts are being read, None afterwards; visible: what attention adds to the scores of this step,
    [articles, 1, beams, filled slots].
    """

    articles: int
    longest: int
    reading: slice | None = None
    visible: torch.Tensor | None = None


class SharedPromptLayer(DynamicLayer):
    """One layer's keys and values: those of the prompts, then those of all beams' tokens, step by step.

    keys, values: [articles, kv heads, slots, head_dim]. The first step fills one slot, since all beams are
    still equal. Each later step fills one slot for each beam.
    """

    is_initialized: bool

    def __init__(self, progress: Progress, slots: int, last: bool) -> None:
        super().__init__()
        self.progress, self.slots, self.last = progress, slots, last
        self.prompt = self.filled = self.steps = 0

    def read_prompts(
        self, key_states: torch.Tensor, value_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store and return the prompts that are being read: their attention needs no other tokens."""
        if not self.is_initialized:
            self.keys, self.values = (
                new.new_empty(self.progress.articles, new.shape[1], self.slots, new.shape[3])
                for new in (key_states, value_states)
            )
            self.dtype, self.device, self.is_initialized = self.keys.dtype, self.keys.device, True
        articles, longest = self.progress.reading, self.progress.longest
        for stored, new in ((self.keys, key_states), (self.values, value_states)):
            stored[articles, :, : new.shape[2]] = new
            # The mask hides the rest, but uninitialized memory may hold NaN, which no mask hides.
            stored[articles, :, new.shape[2] : longest] = 0
        if self.last:
            raise PromptsRead
        return key_states, value_states

    def begin(self) -> None:
        """Begin the search: `update` now appends the tokens of the beams."""
        self.prompt = self.filled = self.progress.longest

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values [rows, kv heads, tokens, head_dim] and return all; once a step and layer.

        While prompts are being read the rows are prompts, afterwards beams with one token each.
        """
        if self.progress.reading is not None:
            return self.read_prompts(key_states, value_states)
        articles = len(self.keys)
        start, self.filled = self.filled, self.filled + len(key_states) // articles
        self.steps += 1
        for stored, new in ((self.keys, key_states), (self.values, value_states)):
            rows, heads, length, width = new.shape
            if length != 1:
                raise ValueError(f"expected one new token a beam and step, found {length}")
            new = new.reshape(articles, rows // articles, heads, width).transpose(1, 2)
            stored[:, :, start : self.filled] = new
        keys = self.keys[:, :, : self.filled]
        # The attention function gets these tensors, but no cache: the keys carry the mask.
        keys.mask = self.progress.visible  # type: ignore[attr-defined]
        return keys, self.values[:, :, : self.filled]

    def get_seq_length(self) -> int:
        return self.prompt + self.steps

    def keep(self, articles: torch.Tensor) -> None:
        """Drop all articles except these."""
        self.keys, self.values = self.keys[articles], self.values[articles]


def shared_prompt_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one new token for each beam, over its article's prompt and the beam's earlier tokens.

    query: [rows, heads, 1, head_dim], rows of one article together; key, value: [articles, kv heads, slots,
    head_dim], from SharedPromptLayer.update. Returns [rows, 1, heads, head_dim]. Raises a ValueError if the
    model has changed the keys, asks for other scores, or brings a mask of its own.
    """
    if attention_mask is not None:
        raise ValueError("the shared prompt does not support a mask of the model's own")
    if not hasattr(key, "mask") or any(kwargs.get(name) is not None for name in OTHER_SCORES):
        raise ValueError("the shared prompt does not support this change of keys or scores")
    rows, heads, _, width = query.shape
    articles, kv_heads, _, _ = key.shape
    beams, group = rows // articles, heads // kv_heads
    # [rows, kv heads * group, 1, n] -> [articles, kv heads, beams * group, n]: one product reads a key once.
    query = query.reshape(articles, beams, kv_heads, group, width).transpose(1, 2)
    query = query.reshape(articles, kv_heads, beams * group, width)
    mask, stored = key.mask, query.dtype
    if group > 1:
        mask = mask.repeat_interleave(group, dim=2)
    if stored == torch.float16:  # Phi's scores overflow in it (transformers#28163)
        query, key, value = query.float(), key.float(), value.float()
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=scaling)
    output = output.to(stored).view(articles, kv_heads, beams, group, -1).transpose(1, 2)
    return output.reshape(rows, 1, heads, -1), None


AttentionInterface.register(SHARED_ATTENTION, shared_prompt_attention)
AttentionMaskInterface.register(SHARED_ATTENTION, lambda **kwargs: None)  # the keys carry their mask


class SharedPromptCache(Cache):
    """The cache of one batch.

    mask: what attention adds to the scores, [articles, beams, slots], 0 where a beam sees a slot; articles:
    indices of the articles that have not left the batch; finished: [articles of the whole batch], whether the
    search has finished with each.
    """

    mask: torch.Tensor

    def __init__(self, model: PreTrainedModel, articles: int, longest: int, beams: int, room: int) -> None:
        """longest: slots for a prompt; room: the largest number of new tokens of a beam."""
        slots = longest + 1 + (room - 1) * beams
        count = len(DynamicCache(config=model.config).layers)
        self.progress = Progress(articles, longest)
        super().__init__(
            layers=[SharedPromptLayer(self.progress, slots, last=k + 1 == count) for k in range(count)]
        )
        self.beams, self.total = beams, articles
        self.articles = torch.arange(articles, device=model.device)
        self.finished = torch.zeros(articles, dtype=torch.bool, device=model.device)

    def read_prompts(self, model: PreTrainedModel, ids: torch.Tensor, lengths: torch.Tensor) -> None:
        """Fill the cache with prompts [articles, longest], padded on the right; lengths: [articles].

        Such prompts need no mask, since no token reads what is on its right.
        """
        at_once = self.total if ids.is_cuda else max(1, READ_TOKENS // self.progress.longest)
        for start in range(0, self.total, at_once):
            self.progress.reading = slice(start, start + at_once)
            with suppress(PromptsRead):
                model(
                    input_ids=ids[self.progress.reading, : max(1, int(lengths[self.progress.reading].max()))],
                    past_key_values=self,
                    use_cache=True,
                    logits_to_keep=1,
                )
        self.progress.reading = None
        for layer in self.layers:
            layer.begin()
        keys = self.layers[0].keys
        dtype = torch.float32 if keys.dtype == torch.float16 else keys.dtype  # that of the attention
        size = (self.total, self.beams, keys.shape[2])
        self.mask = torch.full(size, torch.finfo(dtype).min, dtype=dtype, device=keys.device)
        read = torch.arange(keys.shape[2], device=keys.device) < lengths[:, None]
        self.mask.masked_fill_(read[:, None, :], 0)

    def begin_step(self) -> torch.Tensor:
        """Let each beam see the slot that it will fill; returns the rows of the batch to compute."""
        steps, start = self.layers[0].steps, self.layers[0].filled
        if steps == 0:  # all beams of an article read the last token of its prompt: compute the first beam
            self.mask[:, :, start] = 0
            self.progress.visible = self.mask[:, None, :1, : start + 1]
            return self.articles * self.beams
        beams = torch.arange(self.beams, device=self.mask.device)
        self.mask[:, beams, start + beams] = 0
        self.progress.visible = self.mask[:, None, :, : start + self.beams]
        return (self.articles[:, None] * self.beams + beams).flatten()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Let beam k of an article continue what beam_idx[k], a row of the whole batch, has written."""
        origin = beam_idx.view(self.total, self.beams)[self.articles] % self.beams
        self.mask = self.mask.take_along_dim(origin[:, :, None].long(), dim=1)

    def let_finished_leave(self) -> None:
        """Drop finished articles if they are more than 1 - LEAVE_BELOW of the batch."""
        unfinished = (~self.finished[self.articles]).nonzero()[:, 0]
        if 0 < len(unfinished) < LEAVE_BELOW * len(self.articles):
            for layer in self.layers:
                layer.keep(unfinished)
            self.mask, self.articles = self.mask[unfinished], self.articles[unfinished]


class Suppress(LogitsProcessor):
    """Forbid some tokens, as transformers' own processor does, without its three copies of all scores."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = torch.tensor(tokens)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill_(1, self.tokens.to(scores.device), -torch.inf)


@contextmanager
def sharing(model: PreTrainedModel, cache: SharedPromptCache, config: GenerationConfig) -> Iterator[None]:
    """Inside, `model.generate` uses the shared prompts, and skips articles that have finished.

    config: of the generation; it replaces the model's own, which would fill in what it leaves unset. Leaving
    the context restores the model.
    """
    forward, update = model.forward, model._update_finished_beams
    attention, own_config = model.config._attn_implementation, model.generation_config

    def update_finished_beams(self: PreTrainedModel, **kwargs: Any) -> Any:
        results = update(**kwargs)
        # The search accepts no new candidate of such an article any more.
        cache.finished |= ~kwargs["is_early_stop_heuristic_unsatisfied"][:, 0]
        if config.early_stopping is True:
            cache.finished |= results[-1].all(dim=1)
        return results

    def forward_unfinished(
        self: PreTrainedModel,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        cache.let_finished_leave()
        first, rows = cache.layers[0].steps == 0, cache.begin_step()
        output = forward(input_ids=input_ids[rows], position_ids=position_ids[rows], **kwargs)
        # The search expects logits for every row of the batch; it ignores those of finished articles.
        if first:
            output.logits = output.logits.repeat_interleave(cache.beams, dim=0)
        elif len(rows) < len(input_ids):
            logits = output.logits.new_zeros(len(input_ids), *output.logits.shape[1:])
            logits[rows] = output.logits
            output.logits = logits
        return output

    model.config._attn_implementation, model.generation_config = SHARED_ATTENTION, config
    model.forward = MethodType(forward_unfinished, model)
    model._update_finished_beams = MethodType(update_finished_beams, model)
    try:
        yield
    finally:
        model.config._attn_implementation, model.generation_config = attention, own_config
        del model.forward, model._update_finished_beams


def supports_shared_prompt(model: PreTrainedModel, num_beams: int) -> bool:
    """Whether the shared prompt can replace the model's own cache, by what the model says of itself.

    It needs full attention in every layer, through transformers' attention interface, with plain scores, and
    more than one beam. `decoding.shares_prompt` then proves it on prompts.
    """
    layers = DynamicCache(config=model.config).layers
    full = all(type(layer) is DynamicLayer for layer in layers)
    plain = not any(getattr(model.config, name, None) for name in OTHER_CONFIGS)
    return num_beams > 1 and full and plain and getattr(model, "_supports_attention_backend", False)


def beam_search(
    model: PreTrainedModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    config: GenerationConfig,
    processors: LogitsProcessorList | None = None,
) -> Any:
    """What `model.generate(ids, attention_mask=mask, generation_config=config)` returns, [prompts, tokens].

    ids, mask: left-padded prompts [prompts, length], length > 1; processors: of logits, as generate's
    `logits_processor`. Call it in inference mode, and only if `supports_shared_prompt`.
    """
    # The beams read the prompt's last token themselves, since its logits begin the search.
    longest = ids.shape[1] - 1
    lengths = mask.sum(dim=1) - 1
    places = (torch.arange(longest, device=ids.device) + (longest - lengths)[:, None]).clamp(max=longest)
    room = config.max_new_tokens or config.max_length - ids.shape[1]
    cache = SharedPromptCache(model, len(ids), longest, config.num_beams, room)
    cache.read_prompts(model, ids.take_along_dim(places, dim=1), lengths)
    config, banned = copy(config), config.suppress_tokens
    config.suppress_tokens = None
    with sharing(model, cache, config):
        return model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            past_key_values=cache,
            logits_processor=LogitsProcessorList(
                [*([Suppress(banned)] if banned else []), *(processors or [])]
            ),
        )
