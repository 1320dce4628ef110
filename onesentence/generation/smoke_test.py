"""The smoke test: checks on a few articles before anything longer is started.

A broken pipeline and a model that writes nothing have the same score, so the smoke test separates them. A
wrong length, padding or slice shows in the tokens and stops every run. A base that has not been trained for
the task may write nothing, or repeat its prompt: this is a result, which is counted and scored 0. A tuned
model that does so too often (`smoke.min_success_rate`) stops its run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onesentence.core.errors import UserError
from onesentence.generation.decoding import Output, summarize
from onesentence.model.encoding import pad_left

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from onesentence.core.params import Generate

SURELY_COPIED = 8  # tokens; a model may repeat a shorter prompt by chance
MOST_OVERCONFIDENCE = 2.2  # nats a token; `check_tokenizer` says why


def fault(prompt: list[int], output: Output, max_new_tokens: int) -> str | None:
    """What in an output shows that the pipeline is broken, whatever the model is; None if nothing does.

    prompt: its token ids.
    """
    if len(output.tokens) > max_new_tokens:
        return f"{len(output.tokens)} new tokens, more than the limit of {max_new_tokens}"
    if not output.complete:
        return f"stopped after {len(output.tokens)} of {max_new_tokens} new tokens without EOS"
    if len(prompt) >= SURELY_COPIED and output.tokens[: len(prompt)] == prompt:
        return "the output begins with the tokens of the prompt"
    return None


class BrokenModelError(UserError):
    """The model computes no summary; the message names the article and the model."""


def require_complete(output: Output, max_new_tokens: int, article: str, who: str) -> None:
    """Raise BrokenModelError for an output that ended before the limit without EOS.

    Weights that are NaN do so, as after a training that diverged. article, who: names for the error, of the
    article and the model.
    """
    if not output.complete:
        raise BrokenModelError(
            f"{article}: the summary by {who} stopped after {len(output.tokens)} of {max_new_tokens} new "
            "tokens without EOS, so the model is broken; train it with a lower train.learning_rate, or fetch "
            "it again"
        )


def check_success(
    ids: list[str],
    prompts: list[list[int]],
    outputs: list[Output],
    max_new_tokens: int,
    min_success_rate: float | None,
    who: str,
) -> float:
    """The share of successful outputs; raises a UserError that lists the failed articles if a run must stop.

    min_success_rate: the lowest share that passes, or None for a base, which may fail as long as the pipeline
    works; who: the model, for the error.
    """
    faults = [fault(prompt, output, max_new_tokens) for prompt, output in zip(prompts, outputs, strict=True)]
    rate = sum(output.succeeded for output in outputs) / len(outputs)
    if any(faults):
        failures = faults
        why = f"the generation of {who} is broken for {sum(map(bool, faults))} of {len(outputs)} articles"
    elif min_success_rate is not None and rate < min_success_rate:
        failures = [None if output.succeeded else f"output is {output.status}" for output in outputs]
        why = (
            f"{who} succeeded on {rate:.0%} of {len(outputs)} articles, smoke.min_success_rate is "
            f"{min_success_rate:.0%}"
        )
    else:
        return rate
    lines = [
        f"\n  {name}: {len(prompt)} prompt tokens, {reason}"
        for name, prompt, reason in zip(ids, prompts, failures, strict=True)
        if reason
    ]
    raise UserError(f"smoke test: {why}; the run was not started. Failed:{''.join(lines)}")


def run_smoke_test(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: list[str],
    prompts: list[list[int]],
    settings: Generate,
    min_success_rate: float | None,
    who: str,
) -> tuple[list[Output], float]:
    """Generate for some articles and check the outputs as `check_success` does. Returns (outputs, rate)."""
    outputs = summarize(model, tokenizer, prompts, settings, ids)
    rate = check_success(ids, prompts, outputs, settings.max_new_tokens, min_success_rate, who)
    return outputs, rate


def check_tokenizer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> float:
    """The base's mean loss (nats a token) on the articles; a UserError if the tokenizer is another model's.

    A model's loss is near the entropy of its predictions: it is as surprised as it expects to be. That holds
    for a random model too (both are ln(vocabulary)). With another model's tokenizer it is confident and
    wrong. Loss minus entropy, measured on models/phi-tiny: 0.3 on documentation, 0.8 on abstracts, 1.5 on
    news, which it has never seen; 2.9 to 6.8 with other tokenizers.
    """
    import torch

    vocabulary = model.config.vocab_size
    highest = max(max(prompt) for prompt in prompts)
    if highest >= vocabulary:
        raise UserError(
            f"smoke test: the tokenizer is not this model's (expected ids below {vocabulary}, found "
            f"{highest}); use the model's own tokenizer"
        )
    device = next(model.parameters()).device
    loss, entropy, count = 0.0, 0.0, 0
    for prompt in prompts:
        ids, mask = pad_left([prompt], tokenizer.pad_token_id)
        with torch.inference_mode():
            logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits[0, :-1]
            predicted = torch.log_softmax(logits.float(), dim=-1)  # [tokens - 1, vocabulary]
        if not bool(torch.isfinite(logits).all()):
            raise UserError("smoke test: the base model's logits are not finite; use another model.dtype")
        loss -= predicted.gather(1, ids[0, 1:, None].to(device)).sum().item()
        entropy -= (predicted.exp() * predicted).sum().item()
        count += len(prompt) - 1
    loss, entropy = loss / count, entropy / count
    if loss - entropy > MOST_OVERCONFIDENCE:
        raise UserError(
            f"smoke test: the base model's loss on the articles is {loss:.2f} nats a token, but it expects "
            f"{entropy:.2f}: the tokenizer is not this model's, or the model does not know the articles' "
            "language; use the model's own tokenizer, or another base model"
        )
    return loss
