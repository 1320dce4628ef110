"""The smoke test: what must hold on a handful of articles before anything longer is started.

A broken pipeline and a model that says nothing look alike in a score and are kept apart here. A wrong length,
padding or slice shows in the tokens, and stops any run. A base that has not been trained for the task may
answer with nothing, or repeat its prompt: that is a result, counted and scored 0; the same of a tuned model,
under `smoke.min_success_rate`, stops its run.
"""

from onesentence.core.errors import UserError
from onesentence.generation.decoding import Output, summarize
from onesentence.model.encoding import pad_left

SURELY_COPIED = 8  # tokens; a model may repeat a shorter prompt by itself
MOST_OVERCONFIDENCE = 2.2  # nats a token, see check_tokenizer


def fault(prompt: list[int], output: Output, wanted: int) -> str | None:
    """What shows that the pipeline is broken, whatever the model is; None where nothing does.

    prompt: its token ids; wanted: generate.max_new_tokens.
    """
    if len(output.tokens) > wanted:
        return f"{len(output.tokens)} new tokens, where {wanted} were asked for"
    if not output.complete:
        return f"stopped after {len(output.tokens)} of {wanted} new tokens without EOS"
    if len(prompt) >= SURELY_COPIED and output.tokens[: len(prompt)] == prompt:
        return "the output begins with the tokens of the prompt"
    return None


def check_success(
    ids: list[str],
    prompts: list[list[int]],
    outputs: list[Output],
    wanted: int,
    min_success_rate: float | None,
    who: str,
) -> float:
    """Share of successful outputs; raises UserError with the offending articles where a run must not start.

    min_success_rate: least share, or None for a base, which may fail as long as the pipeline is whole.
    """
    faults = [fault(prompt, output, wanted) for prompt, output in zip(prompts, outputs, strict=True)]
    rate = sum(output.succeeded for output in outputs) / len(outputs)
    if any(faults):
        bad = faults
        why = f"the generation of {who} is broken for {sum(map(bool, faults))} of {len(outputs)} articles"
    elif min_success_rate is not None and rate < min_success_rate:
        bad = [None if output.succeeded else f"output is {output.status}" for output in outputs]
        why = (
            f"{who} succeeded on {rate:.0%} of {len(outputs)} articles, smoke.min_success_rate is "
            f"{min_success_rate:.0%}"
        )
    else:
        return rate
    lines = [
        f"\n  {name}: {len(prompt)} prompt tokens, {reason}"
        for name, prompt, reason in zip(ids, prompts, bad, strict=True)
        if reason
    ]
    raise UserError(f"smoke test: {why}. Not started. Failed:{''.join(lines)}")


def run_smoke_test(
    model, tokenizer, ids, prompts, settings, min_success_rate: float | None, who: str
) -> tuple[list[Output], float]:
    """Generate for the articles and check them as `check_success` does. Returns (outputs, rate)."""
    outputs = summarize(model, tokenizer, prompts, settings, ids)
    rate = check_success(ids, prompts, outputs, settings.max_new_tokens, min_success_rate, who)
    return outputs, rate


def check_tokenizer(model, tokenizer, prompts: list[list[int]]) -> float:
    """Mean loss (nats a token) of the base on the articles; refuses a tokenizer that is not the model's.

    A model expects to be as surprised as it is: its loss is near the entropy of its own predictions, and
    so is a random model's (both are ln(vocabulary)). Under another model's tokenizer it is confident and
    wrong. Loss less entropy, measured on models/phi-tiny: 0.3 on documentation, 0.8 on abstracts, 1.5
    on news it has never seen; 2.9 to 6.8 under other tokenizers.
    """
    import torch

    vocabulary = model.config.vocab_size
    highest = max(max(prompt) for prompt in prompts)
    if highest >= vocabulary:
        raise UserError(
            f"smoke test: the tokenizer gives id {highest}, the model knows ids below {vocabulary}; "
            "the tokenizer is not this model's"
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
            f"smoke test: the base model's loss on the articles is {loss:.2f} nats a token where it expects "
            f"{entropy:.2f}; the tokenizer is not this model's, or the articles are in no language it knows"
        )
    return loss
