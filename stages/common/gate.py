"""The smoke gate: what must hold on a handful of articles before anything longer is started."""

from stages.common.decoding import Output, summarize
from stages.common.encoding import pad_left
from stages.common.errors import UserError

MOST_OVERCONFIDENCE = 2.2  # nats a token, see check_tokenizer


def failures(ids: list[str], prompts: list[list[int]], outputs: list[Output], wanted: int) -> list[str]:
    """A line for each article whose output is no summary: id, prompt length, reason."""
    lines = []
    for name, prompt, output in zip(ids, prompts, outputs, strict=True):
        if output.succeeded:
            continue
        reason = (
            f"output is {output.status}"
            if output.status != "ok"
            else f"stopped after {len(output.tokens)} of {wanted} new tokens without EOS"
        )
        lines.append(f"{name}: {len(prompt)} prompt tokens, {reason}")
    return lines


def check_success(ids, prompts, outputs, wanted: int, min_success_rate: float, who: str) -> float:
    """Share of successful outputs; raises UserError with the offending articles if under the minimum."""
    bad = failures(ids, prompts, outputs, wanted)
    rate = 1 - len(bad) / len(outputs)
    if rate < min_success_rate:
        raise UserError(
            f"smoke gate: {who} succeeded on {rate:.0%} of {len(outputs)} articles, "
            f"smoke.min_success_rate is {min_success_rate:.0%}. Not started. Failed:\n  " + "\n  ".join(bad)
        )
    return rate


def run_gate(model, tokenizer, ids, prompts, settings, min_success_rate: float, who: str):
    """Generate for the articles and check the success rate. Returns (outputs, rate)."""
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
            f"smoke gate: the tokenizer gives id {highest}, the model knows ids below {vocabulary}; "
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
            raise UserError("smoke gate: the base model's logits are not finite; use another model.dtype")
        loss -= predicted.gather(1, ids[0, 1:, None].to(device)).sum().item()
        entropy -= (predicted.exp() * predicted).sum().item()
        count += len(prompt) - 1
    loss, entropy = loss / count, entropy / count
    if loss - entropy > MOST_OVERCONFIDENCE:
        raise UserError(
            f"smoke gate: the base model's loss on the articles is {loss:.2f} nats a token where it expects "
            f"{entropy:.2f}; the tokenizer is not this model's, or the articles are in no language it knows"
        )
    return loss
