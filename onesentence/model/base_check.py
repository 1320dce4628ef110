"""Checks of a base model before anything is trained on it; each takes seconds.

Stage `tokenize` checks the configuration and the tokenizer. Stage `smoke` checks the weights. `loading`
checks the files of a model when it loads them, and `decoding.shares_prompt` whether beams can share a prompt.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from onesentence.core import machine_faults
from onesentence.core.errors import UserError
from onesentence.model.encoding import ids_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

TRIED = 16  # tokens of a prompt; `check_causal` replaces their second half
# Largest change of a logit, in standard deviations of the logits. Measured: 0 in float32 on 20 architectures,
# 5e-7 with mixtures of experts; 0.06 in int8, which scales its numbers by all tokens of a row.
CAUSAL_TOLERANCE = {"float32": 1e-4, "other": 0.3}
MOST_LOST = 0.01  # share of the letters that a tokenizer may lose


def check_ids(tokenizer: PreTrainedTokenizerBase, embeddings: int, highest: int = 0) -> None:
    """Raise a UserError unless every id that is used has an embedding.

    embeddings: how many the model has; highest: the highest id in the tokenized rows.
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


def position_limit(config: PreTrainedConfig) -> tuple[int | None, bool]:
    """(the number of positions of a model, whether it fails beyond them); (None, False) without a limit.

    A rotary model computes any position, also those it was not trained on. Learned positions are a table,
    which ends; so does MPT's table of biases by distance. Falcon's and Bloom's biases have no limit, and
    neither have state-space models.
    """
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    # XLNet has -1 for its relative positions.
    if limit is None or limit <= 0 or getattr(config, "alibi", False):
        return None, False
    return limit, getattr(config, "rope_parameters", None) is None


def check_positions(config: PreTrainedConfig, longest: int, key: str) -> str | None:
    """A warning if the longest text exceeds the positions of a rotary model, else None.

    longest: tokens of a prompt and what follows it; key: the key of params.yaml that bounds what follows.
    Raises a UserError if the positions are a table that ends before.
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


def letters(text: str) -> Counter[str]:
    """How often each letter and digit of `text` occurs, after NFKC normalization; case matters."""
    return Counter(char for char in unicodedata.normalize("NFKC", text) if char.isalnum())


def check_round_trip(tokenizer: PreTrainedTokenizerBase, ids: list[str], texts: list[str]) -> str | None:
    """A warning if encoding and decoding lose the case of the texts, else None.

    ids: names of the texts, for the error. Blanks may change: they carry no word. Raises a UserError if more
    than MOST_LOST of the letters are lost.
    """
    total, lost, lost_case = 0, 0, 0
    worst, example = 0, ""
    for name, text in zip(ids, texts, strict=True):
        decoded = tokenizer.decode(ids_of(tokenizer, text), skip_special_tokens=True)
        before, after = letters(text), letters(decoded)
        missing = letters(text.casefold()) - letters(decoded.casefold())
        total += before.total()
        lost_case += (before - after).total()
        lost += missing.total()
        if missing.total() > worst:
            worst = missing.total()
            example = f"{name}: {''.join(sorted(missing))[:20]!r} are missing"
    if lost > MOST_LOST * total:
        raise UserError(
            f"model.name: the tokenizer loses {lost / total:.1%} of the letters of the training summaries "
            f"({example}), at most {MOST_LOST:.0%} are allowed; use a model that knows this script"
        )
    if lost_case - lost > MOST_LOST * total:
        return "the tokenizer changes the case of letters: outputs will be in lower case"
    return None


@contextmanager
def readable_layers(model: PreTrainedModel, key: str) -> Iterator[None]:
    """Turn what a quantized model raises when it first computes into a UserError; not a fault of the machine.

    key: the key of params.yaml that quantizes it. A model that is not quantized raises what it raises. Some
    types of model read the weights of a layer themselves, where bitsandbytes has packed them: Mamba, and
    DeepSeek in int8.
    """
    try:
        yield
    except (RuntimeError, TypeError, ValueError) as error:
        if not getattr(model, "is_quantized", False) or machine_faults.sentence_of(error):
            raise
        raise UserError(
            f"{key}: a {model.config.model_type} model does not compute with the layers of "
            f"bitsandbytes ({type(error).__name__}: {error}); set it to none or to another format"
        ) from error


def check_causal(model: PreTrainedModel, prompts: list[list[int]]) -> None:
    """Raise a UserError if later tokens change earlier logits: training would see the answer.

    prompts: token ids. The second half of one prompt is replaced by other ids that occur in the prompts.
    """
    import torch

    prompt = max(prompts, key=len)[-TRIED:]
    half = len(prompt) // 2
    others = sorted({number for row in prompts for number in row})
    # Each id becomes the next one among all that occur: valid for the model, and never the same.
    changed = [others[(others.index(number) + 1) % len(others)] for number in prompt[half:]]
    device = next(model.parameters()).device
    with torch.inference_mode(), readable_layers(model, "model.quantization"):
        rows = [torch.tensor([ids], device=device) for ids in (prompt, prompt[:half] + changed)]
        original, other = (model(input_ids=ids, use_cache=False).logits[0, :half].float() for ids in rows)
    exact = model.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    change = ((original - other).abs().max() / original.std()).item()
    if change > CAUSAL_TOLERANCE["float32" if exact else "other"]:
        raise UserError(
            f"smoke test: {type(model).__name__} (model_type {model.config.model_type}) is not causal: later "
            f"tokens change earlier logits by {change:.1g} standard deviations, so training would see the "
            "answer; use a decoder-only causal language model"
        )


def check_base(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]) -> None:
    """Check the weights on prompts (token ids): every id has an embedding, and the model is causal."""
    embeddings = model.get_input_embeddings().weight.shape[0]
    check_ids(tokenizer, embeddings, max(max(prompt) for prompt in prompts))
    check_causal(model, prompts)
