"""What must hold of a base model before anything is trained on it, each in seconds.

`tokenize` checks what follows from the configuration and the tokenizer, `smoke` checks the weights. What the
files of a model must hold is checked where they are loaded (`loading`), and whether beams may share a prompt
where they do (`decoding.shares_prompt`).
"""

import unicodedata
from collections import Counter

from onesentence.core.errors import UserError
from onesentence.model.encoding import ids_of

TRIED = 16  # tokens of a prompt whose second half is replaced
# Largest change of a logit, in standard deviations of the logits. Measured: 0 in float32 on 20 architectures,
# 5e-7 with mixtures of experts; 0.06 in int8, which scales its numbers by all tokens of a row.
CAUSAL_TOLERANCE = {"float32": 1e-4, "other": 0.3}
MOST_LOST = 0.01  # share of letters


def check_ids(tokenizer, embeddings: int, highest: int = 0) -> None:
    """Every id that is used has an embedding.

    embeddings: how many the model has; highest: id in the tokenized rows.
    """
    special = {
        f"{kind} token {getattr(tokenizer, f'{kind}_token')!r}": getattr(tokenizer, f"{kind}_token_id")
        for kind in ("pad", "eos", "bos")
    }
    used = special | {f"token {tokenizer.convert_ids_to_tokens(highest)!r} of the articles": highest}
    beyond = {name: number for name, number in used.items() if number is not None and number >= embeddings}
    if beyond:
        name, number = next(iter(beyond.items()))
        raise UserError(
            f"model.name: the tokenizer's {name} has id {number:,}, and the model has {embeddings:,} "
            f"embeddings (ids below {embeddings:,}); use the model's own tokenizer, or resize its embeddings "
            "and save it"
        )


def position_limit(config) -> tuple[int | None, bool]:
    """(most positions of a model, whether it cannot compute beyond them at all).

    A rotary model computes any position, untrained ones included. Learned positions are a table; so is MPT's
    bias by distance. Falcon's and Bloom's biases, and state-space models, have no limit.
    """
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    if limit is None or limit <= 0 or getattr(config, "alibi", False):  # XLNet says -1: relative ones
        return None, False
    return limit, getattr(config, "rope_parameters", None) is None


def check_positions(config, longest: int, key: str) -> str | None:
    """A warning where the longest text lies beyond a rotary model's positions; a UserError beyond a table's.

    longest: tokens of a prompt and what follows it; key: of params.yaml, what may follow.
    """
    limit, table = position_limit(config)
    if limit is None or longest <= limit:
        return None
    text = (
        f"prompt.max_input_tokens: a prompt and {key} take {longest:,} tokens, the model "
        f"{'has' if table else 'was trained on at most'} {limit:,} positions"
    )
    if table:
        raise UserError(f"{text}; lower prompt.max_input_tokens by {longest - limit:,}")
    return f"{text}; its outputs may be poor beyond them"


def letters(text: str) -> Counter:
    """How often each letter and digit occurs, in compatible form (NFKC) and in its case."""
    return Counter(char for char in unicodedata.normalize("NFKC", text) if char.isalnum())


def check_round_trip(tokenizer, ids: list[str], texts: list[str]) -> str | None:
    """A warning where tokens lose the case of texts; a UserError where they lose MOST_LOST of the letters.

    ids: names of the texts, for the error. Blanks may change: they carry no word.
    """
    total, lost, lost_case = 0, 0, 0
    worst, example = 0, ""
    for name, text in zip(ids, texts, strict=True):
        back = tokenizer.decode(ids_of(tokenizer, text), skip_special_tokens=True)
        own, kept = letters(text), letters(back)
        missing = letters(text.casefold()) - letters(back.casefold())
        total += own.total()
        lost_case += (own - kept).total()
        lost += missing.total()
        if missing.total() > worst:
            worst = missing.total()
            example = f"{name}: {''.join(sorted(missing))[:20]!r} are missing"
    if lost > MOST_LOST * total:
        raise UserError(
            f"model.name: the tokenizer loses {lost / total:.1%} of the letters of the training summaries "
            f"({example}), at most {MOST_LOST:.0%} may be lost; use a model that knows this script"
        )
    if lost_case - lost > MOST_LOST * total:
        return "the tokenizer changes the case of letters: outputs will be in lower case"
    return None


def check_causal(model, prompts: list[list[int]]) -> None:
    """A later token must change no earlier logits, or the training loss would see the answer.

    prompts: token ids. The second half of one is replaced by other ids that occur in them.
    """
    import torch

    prompt = max(prompts, key=len)[-TRIED:]
    half = len(prompt) // 2
    others = sorted({number for row in prompts for number in row})
    # Each replaced by another id: the one that follows it among all that occur.
    changed = [others[(others.index(number) + 1) % len(others)] for number in prompt[half:]]
    device = next(model.parameters()).device
    with torch.inference_mode():
        rows = [torch.tensor([ids], device=device) for ids in (prompt, prompt[:half] + changed)]
        one, other = (model(input_ids=ids, use_cache=False).logits[0, :half].float() for ids in rows)
    exact = model.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    off = ((one - other).abs().max() / one.std()).item()
    if off > CAUSAL_TOLERANCE["float32" if exact else "other"]:
        raise UserError(
            f"smoke test: {type(model).__name__} (model_type {model.config.model_type}) is not causal: other "
            f"tokens behind a text change its logits by {off:.1g} standard deviations, so training would see "
            "the answer; use a decoder-only causal language model"
        )


def check_base(model, tokenizer, prompts: list[list[int]]) -> None:
    """What the weights themselves must show, on prompts (token ids)."""
    embeddings = model.get_input_embeddings().weight.shape[0]
    check_ids(tokenizer, embeddings, max(max(prompt) for prompt in prompts))
    check_causal(model, prompts)
