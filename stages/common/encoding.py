"""One prompt, one truncation rule, one set of label rules: used by training, generation and tests.

Only the document is ever cut, from its end. The loss falls on the summary and EOS alone: labels follow
from where the prompt ends, never from pad ids, so that EOS keeps its label even where pad is eos.
"""

from dataclasses import dataclass

from stages.common.errors import UserError
from stages.common.prompts import TEMPLATES, around, completion

IGNORED = -100  # the label that cross-entropy skips


@dataclass(frozen=True)
class Prompt:
    """Token ids of a filled template, and how much of the document is in it."""

    text: str
    ids: list[int]
    document_tokens: int
    document_tokens_cut: int


def filled_ids(tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """(token ids, their spans in the text) of a prompt, as the model expects its beginning (BOS).

    What a tokenizer puts behind a text (EOS, as in `<s> $A </s>`) is left out: the summary follows.
    """
    encoded = tokenizer(
        text, return_offsets_mapping=True, return_special_tokens_mask=True, split_special_tokens=True
    )
    ids, spans, added = (encoded[key] for key in ("input_ids", "offset_mapping", "special_tokens_mask"))
    end = len(ids)
    while end and added[end - 1]:
        end -= 1
    return list(ids[:end]), list(spans[:end])


def ids_of(tokenizer, text: str) -> list[int]:
    """Token ids of `text` alone, without special tokens.

    Text that spells a special token stays text: an article about tokenizers must not end a sequence.
    """
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def overhead(tokenizer, template: str, document: str) -> int:
    """Tokens that the template adds to `document`."""
    before, after = around(template)
    ids, _ = filled_ids(tokenizer, before + document + after)
    return len(ids) - len(ids_of(tokenizer, document))


def encode_prompt(tokenizer, template: str, document: str, max_tokens: int) -> Prompt:
    """Fill `template` with as much of the start of `document` as fits in `max_tokens` tokens.

    Raises UserError where the template alone leaves no room for a token of the document.
    """
    before, after = around(template)
    text = before + document + after
    ids, spans = filled_ids(tokenizer, text)
    total = sum(1 for start, end in spans if end > len(before) and start < len(before) + len(document))
    kept = document
    while len(ids) > max_tokens:
        # Token spans that lie in the document, as it stands in `text` now.
        inside = [
            start
            for start, end in spans
            if end > len(before) and start < len(before) + len(kept) and end > start
        ]
        excess = len(ids) - max_tokens
        if excess >= len(inside):
            raise UserError(
                f"prompt.max_input_tokens: {max_tokens} leaves no room for the document; the template "
                f"{template!r} alone takes {len(ids) - len(inside)} tokens"
            )
        kept = text[len(before) : max(inside[-excess], len(before))].rstrip()
        text = before + kept + after
        ids, spans = filled_ids(tokenizer, text)
    left = sum(1 for start, end in spans if end > len(before) and start < len(before) + len(kept))
    return Prompt(text, ids, total, total - left)


def encode_completion(tokenizer, summary: str, template: str) -> list[int]:
    """Token ids of the summary as it follows the prompt, and EOS: what the prompt's ids lack of the text.

    It is tokenized behind the template's end: alone, it would get the blank that some tokenizers put before
    every text. Where the last token of a prompt would merge with the first of its summary, generation cannot
    begin with that token; there, and where the template ends with the article, a full stop goes before.
    """
    text = completion(summary)
    for tail in (around(template)[1], "."):
        lead, whole = ids_of(tokenizer, tail), ids_of(tokenizer, tail + text)
        if lead and whole[: len(lead)] == lead:
            return [*whole[len(lead) :], tokenizer.eos_token_id]
    return [*ids_of(tokenizer, text), tokenizer.eos_token_id]


def pad_left(rows: list[list[int]], pad_id: int):
    """(input_ids, attention_mask), each int64 [rows, longest], padded on the left."""
    import torch

    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :] = torch.as_tensor(row, dtype=torch.long)
        mask[i, longest - len(row) :] = 1
    return ids, mask


def training_batch(rows: list[tuple[list[int], list[int]]], pad_id: int) -> dict:
    """input_ids and labels of (prompt ids, completion ids) rows, each int64 [rows, longest].

    Padded on the right, where a causal model's real tokens never look: training needs no attention mask, and
    attention passes over the half of the scores that causality hides. labels are IGNORED but on the
    completion. Generation pads on the left (`pad_left`).
    """
    import torch

    longest = max(len(prompt) + len(completion_ids) for prompt, completion_ids in rows)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for i, (prompt, completion_ids) in enumerate(rows):
        end = len(prompt) + len(completion_ids)
        ids[i, :end] = torch.as_tensor([*prompt, *completion_ids], dtype=torch.long)
        labels[i, len(prompt) : end] = ids[i, len(prompt) : end]
    return {"input_ids": ids, "labels": labels}


def template_overheads(tokenizer, document: str) -> dict[str, int]:
    """Tokens that each template adds to `document`."""
    return {name: overhead(tokenizer, name, document) for name in TEMPLATES}
