"""Summaries from prompts: one generation routine for the smoke gate and for `generate`.

The two mistakes that cost the original study its results cannot be made by its callers: the number of
new tokens is bounded by `max_new_tokens` (never by a length that counts the prompt), and a batch that
is not padded on the left is refused.
"""

from dataclasses import dataclass

from stages.common.encoding import pad_left


@dataclass(frozen=True)
class Output:
    """What came out for one prompt.

    tokens: new token ids up to and with EOS; stopped: by EOS; status: ok, empty, or echo (the text
    repeats the prompt from its beginning); complete: stopped, or used the whole of max_new_tokens.
    """

    text: str
    tokens: list[int]
    stopped: bool
    status: str
    complete: bool

    @property
    def succeeded(self) -> bool:
        """Whether the output counts as a summary at all."""
        return self.complete and self.status == "ok"


def generation_config(tokenizer, max_new_tokens: int, num_beams: int, vocabulary: int):
    """Every argument of generation, explicit: no sampling, pad and eos named, the length in new tokens.

    Ids that the model has and the tokenizer lacks (Phi-2: 51,200 against 50,295) are suppressed, since
    decoding one gives None (transformers#29269); so is pad, which would look like the end of a row.
    """
    from transformers import GenerationConfig

    suppressed = list(range(len(tokenizer), vocabulary))
    if tokenizer.pad_token_id != tokenizer.eos_token_id:
        suppressed.append(tokenizer.pad_token_id)

    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        do_sample=False,
        early_stopping=num_beams > 1,
        length_penalty=1.0,
        num_return_sequences=1,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        suppress_tokens=suppressed or None,
    )


def generate_tokens(model, ids, mask, config):
    """New tokens [prompts, at most max_new_tokens] for left-padded prompts ids, mask [prompts, length].

    The prompt's keys and values are computed once and repeated for the beams; `generate()` would copy
    the prompt num_beams times before its prefill.
    """
    import torch
    from transformers import DynamicCache

    if not bool((mask[:, -1] == 1).all()):
        raise ValueError("prompts must be padded on the left: a row ends with padding")
    # What the model's own file says of generation must not fill in for what we leave unset.
    model.generation_config = config
    options = {}
    with torch.inference_mode():
        if config.num_beams > 1 and ids.shape[1] > 1:
            cache = DynamicCache(config=model.config)
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            model(
                input_ids=ids[:, :-1],
                attention_mask=mask[:, :-1],
                position_ids=positions[:, :-1],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache.batch_repeat_interleave(config.num_beams)
            options["past_key_values"] = cache
        sequences = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **options)
    return sequences[:, ids.shape[1] :]


def read_output(tokenizer, new_tokens: list[int], prompt_ids: list[int], max_new_tokens: int) -> Output:
    """Text, status and stop of one row of new tokens."""
    stopped = tokenizer.eos_token_id in new_tokens
    tokens = new_tokens[: new_tokens.index(tokenizer.eos_token_id) + 1] if stopped else list(new_tokens)
    if not stopped:  # pads behind the end of a row that was cut short
        while tokens and tokens[-1] == tokenizer.pad_token_id:
            tokens.pop()
    text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    prompt = tokenizer.decode(prompt_ids, skip_special_tokens=True).strip()
    # A prompt may begin with the article: a copy of its first sentence that ends there is a summary.
    echoes = text.startswith(prompt) or (not stopped and prompt.startswith(text))
    status = "empty" if not text else "echo" if echoes else "ok"
    return Output(text, tokens, stopped, status, stopped or len(tokens) == max_new_tokens)


def summarize(model, tokenizer, prompts: list[list[int]], settings) -> list[Output]:
    """Outputs for one batch of prompts (token ids), in order.

    settings: params.yaml's `generate` section.
    """
    ids, mask = pad_left(prompts, tokenizer.pad_token_id)
    device = next(model.parameters()).device
    config = generation_config(
        tokenizer, settings.max_new_tokens, settings.num_beams, model.config.vocab_size
    )
    new = generate_tokens(model, ids.to(device), mask.to(device), config).tolist()
    return [
        read_output(tokenizer, row, prompt, settings.max_new_tokens)
        for row, prompt in zip(new, prompts, strict=True)
    ]


def batches_by_length(lengths: list[int], size: int) -> list[list[int]]:
    """Row indices in batches of `size`, longest first, so that a batch that will not fit fails at once."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[start : start + size] for start in range(0, len(order), size)]


def spanning(lengths: list[int], count: int) -> list[int]:
    """Indices of `count` rows from the shortest to the longest, evenly spaced in rank."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    count = min(count, len(order))
    if count == 1:
        return [order[-1]]
    return [order[round(k * (len(order) - 1) / (count - 1))] for k in range(count)]
