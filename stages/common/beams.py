"""Beam search that reads each prompt once: the library's search, over a cache that its beams share.

`generate()` copies the prompt for every beam before its first pass, and copies and reorders the whole
cache at every step. Here the prompt's keys and values are held once an article, [articles, kv heads, prompt,
head_dim], and read by all of its beams; what the beams wrote themselves is preallocated, and reordered
alone. An attention function combines both under one softmax. Articles that have finished leave the batch.
The search itself, its scores, stopping and choice of beams, stays transformers' own.
"""

from contextlib import contextmanager
from types import MethodType

import torch
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import AttentionMaskInterface

SHARED_ATTENTION = "shared_prompt"
# What attention may be given beside plain scores: soft caps (Gemma 2), sinks (gpt-oss), windows, biases (T5).
OTHER_SCORES = ("softcap", "s_aux", "sliding_window", "position_bias", "head_mask")
# The same in a configuration.
OTHER_CONFIGS = ("attn_logit_softcapping", "alibi", "kv_lora_rank")
LEAVE_BELOW = 0.9  # share of the articles of a batch; leaving copies the cache, so it is not done for one


class SharedPromptLayer(DynamicLayer):
    """One layer's keys and values: the prompts' (read only), and each beam's own tokens.

    prompt_keys, prompt_values: [articles, kv heads, prompt, head_dim]; keys, values: [articles * beams, kv
    heads, room, head_dim], of which `length` tokens are filled; mask: what attention adds to a prompt's
    scores, [articles, 1, 1, prompt], or None where no prompt is padded.
    """

    def __init__(self, prompt: DynamicLayer, mask, beams: int, room: int) -> None:
        super().__init__()
        self.prompt_keys, self.prompt_values, self.mask, self.beams = prompt.keys, prompt.values, mask, beams
        articles, heads, _, width = prompt.keys.shape
        self.keys = prompt.keys.new_empty(articles * beams, heads, room, width)
        self.values = prompt.values.new_empty(articles * beams, heads, room, prompt.values.shape[-1])
        self.length = 0
        self.is_initialized, self.dtype, self.device = True, prompt.keys.dtype, prompt.keys.device

    def update(self, key_states, value_states, *args, **kwargs):
        """Append new tokens [articles * beams, kv heads, 1, head_dim]; returns the beams' own so far."""
        end = self.length + key_states.shape[2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        keys = self.keys[:, :, :end]
        keys.layer = self  # the attention function gets the tensor alone
        return keys, self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.prompt_keys.shape[2] + self.length

    def reorder_cache(self, beam_idx) -> None:
        """Row k goes on from what row beam_idx[k] wrote; both are beams of one article."""
        self.keys[:, :, : self.length] = self.keys[beam_idx, :, : self.length]
        self.values[:, :, : self.length] = self.values[beam_idx, :, : self.length]

    def keep(self, articles, rows) -> None:
        """Drop all but these articles and the rows of their beams."""
        self.prompt_keys, self.prompt_values = self.prompt_keys[articles], self.prompt_values[articles]
        self.keys, self.values = self.keys[rows], self.values[rows]
        self.mask = None if self.mask is None else self.mask[articles]


def shared_prompt_attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Attention of one new token a beam over its article's prompt and its own tokens, one softmax.

    query: [articles * beams, heads, 1, head_dim]; key, value: the beams' own, from SharedPromptLayer.update.
    Each prompt is multiplied with all queries of its article at once. Returns [rows, 1, heads, head_dim].
    """
    if not hasattr(key, "layer") or any(kwargs.get(name) is not None for name in OTHER_SCORES):
        raise ValueError("its keys or scores are changed in a way that the shared prompt does not know")
    layer = key.layer
    rows, heads, length, width = query.shape
    if length != 1:
        raise ValueError(f"the shared prompt serves one new token a step, not {length}")
    kv_heads, own_length = key.shape[1], key.shape[2]
    beams, group = layer.beams, heads // kv_heads
    articles = rows // beams
    together = (articles, kv_heads, beams * group)
    prompt_keys, prompt_values = layer.prompt_keys, layer.prompt_values
    query = query.reshape(rows, kv_heads, group, width) * (width**-0.5 if scaling is None else scaling)
    stored = query.dtype
    if stored == torch.float16:  # Phi's scores overflow in it (transformers#28163)
        query, key, value = query.float(), key.float(), value.float()
        prompt_keys, prompt_values = prompt_keys.float(), prompt_values.float()

    def by_article(x):  # [rows, kv heads, group, n] -> [articles, kv heads, beams * group, n]
        return x.view(articles, beams, kv_heads, group, -1).transpose(1, 2).reshape(*together, -1)

    def by_row(x):  # and back
        return x.view(articles, kv_heads, beams, group, -1).transpose(1, 2).reshape(rows, kv_heads, group, -1)

    prompt = by_article(query) @ prompt_keys.transpose(2, 3)  # [articles, kv heads, beams * group, prompt]
    if layer.mask is not None:
        prompt = prompt + layer.mask
    own = by_article(query @ key.transpose(2, 3))
    weights = torch.cat([prompt, own], dim=-1).float().softmax(dim=-1).to(value.dtype)
    read = by_row(weights[..., :-own_length] @ prompt_values)
    read = read + by_row(weights[..., -own_length:]) @ value
    return read.to(stored).reshape(rows, heads, 1, -1).transpose(1, 2), None


AttentionInterface.register(SHARED_ATTENTION, shared_prompt_attention)
AttentionMaskInterface.register(SHARED_ATTENTION, lambda **kwargs: None)  # the cache holds the mask


class SharedPromptCache(Cache):
    """The cache of one batch.

    prompts: the prefilled cache of the articles; mask: [articles, prompt], 1 for a token, 0 for padding;
    articles: indices, in the batch, of those that are still in it; finished: [articles], by the search.
    """

    def __init__(self, prompts: DynamicCache, mask, beams: int, room: int) -> None:
        first = prompts.layers[0].keys
        added = None
        if not bool(mask.all()):
            added = torch.zeros(mask.shape, dtype=first.dtype, device=first.device)
            added = added.masked_fill(mask == 0, torch.finfo(first.dtype).min)[:, None, None, :]
        super().__init__(layers=[SharedPromptLayer(layer, added, beams, room) for layer in prompts.layers])
        self.beams, self.total = beams, len(mask)
        self.articles = torch.arange(self.total, device=first.device)
        self.finished = torch.zeros(self.total, dtype=torch.bool, device=first.device)

    def rows(self, articles):
        """Rows of the beams of articles."""
        return (articles[:, None] * self.beams + torch.arange(self.beams, device=articles.device)).flatten()

    def reorder_cache(self, beam_idx) -> None:
        """beam_idx: rows of the whole batch."""
        if len(self.articles) < self.total:
            place = torch.empty(self.total, dtype=torch.long, device=beam_idx.device)
            place[self.articles] = torch.arange(len(self.articles), device=beam_idx.device)
            beam_idx = beam_idx[self.rows(self.articles)]
            beam_idx = place[beam_idx // self.beams] * self.beams + beam_idx % self.beams
        for layer in self.layers:
            layer.reorder_cache(beam_idx)

    def let_finished_leave(self) -> None:
        """Drop finished articles, once there are enough of them."""
        still = (~self.finished[self.articles]).nonzero()[:, 0]
        if 0 < len(still) < LEAVE_BELOW * len(self.articles):
            rows = self.rows(still)
            for layer in self.layers:
                layer.keep(still, rows)
            self.articles = self.articles[still]


@contextmanager
def sharing(model, cache: SharedPromptCache, early_stopping: bool):
    """Inside, `model.generate` reads the shared prompts and passes over articles that have finished."""
    forward, update, attention = (
        model.forward,
        model._update_finished_beams,
        model.config._attn_implementation,
    )

    def update_finished_beams(self, **kwargs):
        found = update(**kwargs)
        # From here on the search itself lets no new candidate of such an article in.
        cache.finished |= ~kwargs["is_early_stop_heuristic_unsatisfied"][:, 0]
        if early_stopping:
            cache.finished |= found[-1].all(dim=1)
        return found

    def forward_those_left(self, input_ids, position_ids, attention_mask=None, **kwargs):
        cache.let_finished_leave()
        rows = cache.rows(cache.articles)
        output = forward(input_ids=input_ids[rows], position_ids=position_ids[rows], **kwargs)
        if len(rows) < len(input_ids):
            logits = output.logits.new_zeros(len(input_ids), *output.logits.shape[1:])
            logits[rows] = output.logits
            output.logits = logits
        return output

    model.config._attn_implementation = SHARED_ATTENTION
    model.forward = MethodType(forward_those_left, model)
    model._update_finished_beams = MethodType(update_finished_beams, model)
    try:
        yield
    finally:
        model.config._attn_implementation = attention
        del model.forward, model._update_finished_beams


def serves(model, num_beams: int) -> bool:
    """Whether the shared prompt can stand for the model's own cache: full attention in every layer, through
    transformers' attention interface, of plain scores, and more than one beam. A rule, which
    `decoding.shares_prompt` proves on a prompt."""
    layers = DynamicCache(config=model.config).layers
    full = all(type(layer) is DynamicLayer for layer in layers)
    plain = not any(getattr(model.config, name, None) for name in OTHER_CONFIGS)
    return num_beams > 1 and full and plain and getattr(model, "_supports_attention_backend", False)


def beam_search(model, ids, mask, config, processors=None):
    """What `model.generate(ids, attention_mask=mask, generation_config=config)` returns, [prompts, tokens].

    ids, mask: left-padded prompts [prompts, length]; processors: of logits, generate's own argument. To be
    called in inference mode, where `serves`.
    """
    prompts = DynamicCache(config=model.config)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    if ids.shape[1] > 1:
        model(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=positions[:, :-1],
            past_key_values=prompts,
            use_cache=True,
            logits_to_keep=1,
        )
    # The prompt's last token is the first that the beams read themselves.
    room = config.max_new_tokens or config.max_length - ids.shape[1]
    cache = SharedPromptCache(prompts, mask[:, :-1], config.num_beams, room)
    with sharing(model, cache, config.early_stopping is True):
        return model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            past_key_values=cache,
            logits_processor=processors,
        )
