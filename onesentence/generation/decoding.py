"""Generate summaries: one routine for the smoke test and stage `generate`.

It prevents the two mistakes that cost the original study its results. `max_new_tokens` bounds the new tokens,
not a length that includes the prompt. A batch that is not padded on the left is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from onesentence.core.errors import UserError
from onesentence.model.encoding import pad_left

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

    from onesentence.core.params import Generate

LONGEST_PROOF = 128  # prompt tokens for `prove_sharing`, where transformers reads them once for each beam
# By model: whether its beams may share their prompt. Weak, so that it keeps no model in memory.
PROVEN: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()
# The largest difference between two ways to compute one score (nats a token). Measured: 1e-6 in float32 on 20
# architectures, and 8e-2 if attention ignores its sinks; 0.2 in bfloat16, whose rounding can decide between
# two nearly equal beams.
SAME_SCORE = {"float32": 1e-3, "other": 0.5}
# What torch says where it has no error class of its own for an allocation that failed.
FAILED_ALLOCATIONS = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


@dataclass(frozen=True)
class Output:
    """The output for one prompt.

    tokens: new token ids, including EOS; stopped: whether EOS ended it; status: ok, empty, or echo (the text
    repeats the prompt from its beginning); complete: whether it stopped or used all of max_new_tokens.
    """

    text: str
    tokens: list[int]
    stopped: bool
    status: str
    complete: bool

    @property
    def succeeded(self) -> bool:
        """Whether the output counts as a summary: complete, not empty and no echo."""
        return self.complete and self.status == "ok"


def generation_config(
    tokenizer: PreTrainedTokenizerBase, settings: Generate, vocabulary: int
) -> GenerationConfig:
    """transformers' GenerationConfig for params.yaml's `generate` section.

    vocabulary: number of the model's ids. Every argument is explicit: no sampling, pad and eos by id, the
    length in new tokens. Ids that the model has and the tokenizer lacks (Phi-2: 51,200 and 50,295) are
    suppressed, since decoding one gives None (transformers#29269). So is pad, which would look like the end
    of a row.
    """
    from transformers import GenerationConfig

    known = set(tokenizer.get_vocab().values())  # not those below its size: ids may have gaps
    suppressed = [number for number in range(vocabulary) if number not in known]
    if tokenizer.pad_token_id != tokenizer.eos_token_id:  # if pad is eos, no output could end without it
        suppressed.append(tokenizer.pad_token_id)

    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        num_beams=settings.num_beams,
        do_sample=False,
        early_stopping=settings.num_beams > 1,  # transformers warns about it in greedy search
        length_penalty=float(settings.length_penalty),
        num_return_sequences=1,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        suppress_tokens=suppressed or None,
    )


def inner_model(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The transformers model inside a peft model; any other model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def processors(no_repeat_ngram_size: int, prompt_length: int) -> LogitsProcessorList:
    """Logits processors that forbid an n-gram to occur twice in an output (Paulus et al. 2018).

    transformers' own argument counts the prompt too, and would forbid every n-gram of the article.
    """
    from transformers import LogitsProcessorList
    from transformers.generation.logits_process import LogitsProcessor, NoRepeatNGramLogitsProcessor

    class OutputOnly(LogitsProcessor):
        """NoRepeatNGramLogitsProcessor on the new tokens only."""

        def __init__(self) -> None:
            self.inner = NoRepeatNGramLogitsProcessor(no_repeat_ngram_size)

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            allowed: torch.Tensor = self.inner(input_ids[:, prompt_length:], scores)
            return allowed

    return LogitsProcessorList([OutputOnly()] if no_repeat_ngram_size else [])


def generate_tokens(
    model: PreTrainedModel | PeftModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    config: GenerationConfig,
    no_repeat_ngram_size: int = 0,
) -> torch.Tensor:
    """New tokens [prompts, at most max_new_tokens] for left-padded prompts; ids, mask: [prompts, length].

    Beams share the cache of their prompt if that gives transformers' own tokens (`shares_prompt`).
    """
    import torch

    from onesentence.generation.beam_search import beam_search

    if not bool((mask[:, -1] == 1).all()):
        raise ValueError("prompts must be padded on the left, but a row ends with padding")
    model = inner_model(model)
    # Otherwise the model's own generation_config.json would fill in what `config` leaves unset.
    model.generation_config = config
    changed = processors(no_repeat_ngram_size, ids.shape[1])
    with torch.inference_mode():
        if ids.shape[1] > 1 and config.num_beams > 1 and shares_prompt(model, ids, mask, config):
            sequences: torch.Tensor = beam_search(model, ids, mask, config, changed)
        else:
            sequences = model.generate(
                input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=changed
            )
    return sequences[:, ids.shape[1] :]


def shares_prompt(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, config: GenerationConfig
) -> bool:
    """Whether beams may share the cache of their prompt: proved once for each model, on its first prompts.

    ids, mask: left-padded prompts [prompts, length]. Call it in inference mode.
    """
    from onesentence.generation.beam_search import supports_shared_prompt

    if model not in PROVEN:
        reason: str | None = "the model's kind of attention or cache is not supported"
        if supports_shared_prompt(model, config.num_beams):
            reason = prove_sharing(model, ids, mask, config)
        if reason:
            print(f"generate: beams do not share their prompt: {reason}; using transformers' own search")
        PROVEN[model] = reason is None
    return PROVEN[model]


def prove_sharing(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, config: GenerationConfig
) -> str | None:
    """How `beam_search` differs from `generate()` on these prompts; None if both give the same.

    Both write four tokens with two beams, for the end of the longest prompt and for half of it, padded.
    """
    import torch

    from onesentence.generation.beam_search import beam_search

    longest = mask.sum(dim=1).argmax()
    prompt = ids[longest, mask[longest] == 1][-LONGEST_PROOF:]
    ids, mask = prompt.repeat(2, 1), torch.ones(2, len(prompt), dtype=mask.dtype, device=mask.device)
    ids[1, : len(prompt) // 2], mask[1, : len(prompt) // 2] = config.pad_token_id, 0
    config = deepcopy(config)
    config.update(num_beams=2, max_new_tokens=4, return_dict_in_generate=True, output_scores=True)
    wanted = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    try:
        result = beam_search(model, ids, mask, config)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        if out_of_memory(error):
            raise
        return f"the model's attention fails with a shared prompt ({type(error).__name__}: {error})"
    exact = model.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    difference = (result.sequences_scores - wanted.sequences_scores).abs().max().item()
    if difference > SAME_SCORE["float32" if exact else "other"]:
        return f"a beam's score differs by {difference:.1g} nats a token"
    if exact and not torch.equal(result.sequences, wanted.sequences):
        return "the tokens differ"
    return None


def read_output(
    tokenizer: PreTrainedTokenizerBase, new_tokens: list[int], prompt_ids: list[int], max_new_tokens: int
) -> Output:
    """The Output of one row of new tokens."""
    stopped = tokenizer.eos_token_id in new_tokens
    tokens = new_tokens[: new_tokens.index(tokenizer.eos_token_id) + 1] if stopped else list(new_tokens)
    if not stopped:  # a row that ended without EOS may be padded to the length of the others
        while tokens and tokens[-1] == tokenizer.pad_token_id:
            tokens.pop()
    text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    prompt = tokenizer.decode(prompt_ids, skip_special_tokens=True).strip()
    # A prompt may begin with the article. A copy of its first sentence that EOS ends is a summary, no echo.
    echoes = text.startswith(prompt) or (not stopped and prompt.startswith(text))
    status = "empty" if not text else "echo" if echoes else "ok"
    return Output(text, tokens, stopped, status, stopped or len(tokens) == max_new_tokens)


def summarize_batch(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    settings: Generate,
) -> list[Output]:
    """The Output of each prompt (token ids) of one batch, in order."""
    ids, mask = pad_left(prompts, tokenizer.pad_token_id)
    device = next(model.parameters()).device
    config = generation_config(tokenizer, settings, model.config.vocab_size)
    new = generate_tokens(
        model, ids.to(device), mask.to(device), config, settings.no_repeat_ngram_size
    ).tolist()
    return [
        read_output(tokenizer, row, prompt, settings.max_new_tokens)
        for row, prompt in zip(new, prompts, strict=True)
    ]


def out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, on a GPU or on a CPU, for which torch has no error class of its own."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in FAILED_ALLOCATIONS)
    )


def longest_first(prompts: list[list[int]]) -> list[int]:
    """Indices of the prompts, the longest first, so that rows of similar length share a batch.

    A batch that does not fit in memory then shows at the start.
    """
    return sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))


def planned_batches(prompts: list[list[int]], settings: Generate) -> list[list[int]]:
    """The indices of each batch that `summarize_in_batches` generates if all of them fit in memory."""
    new_tokens = settings.num_beams * settings.max_new_tokens
    waiting, batches = longest_first(prompts), []
    while waiting:
        size = articles_within(settings.max_batch_tokens, len(prompts[waiting[0]]), new_tokens)
        batches.append(waiting[:size])
        waiting = waiting[size:]
    return batches


def summarize_in_batches(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    settings: Generate,
    names: list[str],
    finished: Sequence[list[int]] = (),
) -> Iterator[tuple[list[int], list[Output]]]:
    """Yield (indices, outputs) of prompts (token ids), batch after batch, longest prompts first.

    settings: params.yaml's `generate` section; names: of the prompts, for errors. A batch that does not fit
    in memory is halved, and so are those after it. Raises a UserError for a prompt that does not fit alone.

    finished: the batches that an earlier call with the same prompts and settings yielded first; the batches
    after them are the same as those that it would have yielded next.
    """
    budget = settings.max_batch_tokens
    new_tokens = settings.num_beams * settings.max_new_tokens  # of all beams of an article
    waiting = longest_first(prompts)
    for batch in finished:
        if waiting[: len(batch)] != batch or not batch:
            raise ValueError(f"batch {batch} does not continue the order of these prompts")
        longest = len(prompts[batch[0]])
        if len(batch) < min(len(waiting), articles_within(budget, longest, new_tokens)):  # it was halved
            budget = (longest + new_tokens) * len(batch)
        waiting = waiting[len(batch) :]
    while waiting:
        batch = waiting[: articles_within(budget, len(prompts[waiting[0]]), new_tokens)]
        outputs = None
        try:
            outputs = summarize_batch(model, tokenizer, [prompts[i] for i in batch], settings)
        except Exception as error:
            if not out_of_memory(error):
                error.add_note(f"while generating for {', '.join(names[i] for i in batch)}")
                raise
            if len(batch) == 1:
                raise UserError(
                    f"generate.max_batch_tokens: {names[batch[0]]} ({len(prompts[batch[0]])} prompt tokens, "
                    f"{settings.num_beams} beams) does not fit in memory even alone; lower "
                    "generate.num_beams or prompt.max_input_tokens"
                ) from error
        if outputs is None:  # not in the handler: its traceback holds what the batch has allocated
            budget = (len(prompts[batch[0]]) + new_tokens) * (len(batch) // 2)
            print(f"generate: out of memory with {len(batch)} articles; continuing with {len(batch) // 2}")
            continue
        yield batch, outputs
        waiting = waiting[len(batch) :]


def summarize(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    settings: Generate,
    names: list[str] | None = None,
) -> list[Output]:
    """The Output of each prompt (token ids), in order; see `summarize_in_batches`."""
    names = names or [str(i) for i in range(len(prompts))]
    by_index: dict[int, Output] = {}
    for batch, outputs in summarize_in_batches(model, tokenizer, prompts, settings, names):
        by_index |= zip(batch, outputs, strict=True)
    return [by_index[i] for i in range(len(prompts))]


def articles_within(budget: int, longest: int, new_tokens: int) -> int:
    """The number of articles that fit in a budget of cached tokens, at least 1.

    longest: tokens of the longest prompt, to which the others are padded; new_tokens: the most that all beams
    of an article write. The keys and values of a token take 2 x layers x kv heads x head_dim numbers.
    """
    return max(1, budget // (longest + new_tokens))


def evenly_spaced_by_length(lengths: list[int], count: int) -> list[int]:
    """Indices of `count` rows from the shortest to the longest, evenly spaced in rank."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    count = min(count, len(order))
    if count == 1:
        return [order[-1]]
    return [order[round(k * (len(order) - 1) / (count - 1))] for k in range(count)]
