"""Token ids of prompts and summaries, their truncation and their labels, for training and generation alike.

Only the document is ever cut, at its end. Only the summary and EOS have labels. Labels depend on where the
prompt ends, never on pad ids, so that EOS keeps its label even where pad and eos are the same token.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onesentence.core.errors import UserError
from onesentence.core.prompts import CHAT, TEMPLATES, Frame, completion, frame_of

if TYPE_CHECKING:
    import torch
    from transformers import BatchEncoding, PreTrainedTokenizerBase

IGNORED = -100  # the label that cross-entropy skips


@dataclass(frozen=True)
class Prompt:
    """The text and token ids of a filled template, and how many of the document's tokens were cut."""

    text: str
    ids: list[int]
    document_tokens: int
    document_tokens_cut: int


def filled_ids(
    tokenizer: PreTrainedTokenizerBase, frame: Frame, document: str
) -> tuple[list[int], list[tuple[int, int]]]:
    """(token ids, their spans in the text) of a prompt, with BOS where the model expects it.

    The summary follows, so what a tokenizer appends to a text (EOS, as in `<s> $A </s>`) is left out.
    """
    if frame.chat:
        return _chat_ids(tokenizer, frame, document)
    encoded = tokenizer(
        frame.before + document + frame.after,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        split_special_tokens=True,
    )
    ids, spans, added = (encoded[key] for key in ("input_ids", "offset_mapping", "special_tokens_mask"))
    end = len(ids)
    # Special tokens that the tokenizer adds at the end; BOS, at the beginning, stays.
    while end and added[end - 1]:
        end -= 1
    return list(ids[:end]), list(spans[:end])


def _chat_ids(
    tokenizer: PreTrainedTokenizerBase, frame: Frame, document: str
) -> tuple[list[int], list[tuple[int, int]]]:
    """`filled_ids` of a chat: special tokens of the frame are tokens, those that the article spells are text.

    An article that spells none is tokenized with its frame as one text. Otherwise the text is tokenized in
    three parts, cut at the frame's special tokens before and after the article.
    """
    text = frame.before + document + frame.after
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    start, end = len(frame.before), len(frame.before) + len(document)
    if not any(place < end and start < last for place, last in _special_places(tokenizer, encoded)):
        return list(encoded["input_ids"]), list(encoded["offset_mapping"])
    head, tail = special_end(tokenizer, frame.before), special_start(tokenizer, frame.after)
    ids, spans, place = [], [], 0
    for text, split in (
        (frame.before[:head], False),
        (frame.before[head:] + document + frame.after[:tail], True),
        (frame.after[tail:], False),
    ):
        encoded = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=split
        )
        ids += encoded["input_ids"]
        spans += [(place + start, place + end) for start, end in encoded["offset_mapping"]]
        place += len(text)
    return ids, spans


def special_places(tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[int, int]]:
    """(start, end) of each special token that a text spells."""
    return _special_places(tokenizer, tokenizer(text, add_special_tokens=False, return_offsets_mapping=True))


def _special_places(tokenizer: PreTrainedTokenizerBase, encoded: BatchEncoding) -> list[tuple[int, int]]:
    # Added tokens too: a chat template may use some that are not declared special.
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [span for number, span in pairs if number in special]


def special_end(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Where the last special token of a text ends; 0 if it has none."""
    return max((end for _, end in special_places(tokenizer, text)), default=0)


def special_start(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Where the first special token of a text starts; the text's length if it has none."""
    return min((start for start, _ in special_places(tokenizer, text)), default=len(text))


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of `text` alone, without special tokens.

    A special token that `text` spells is tokenized as text: an article about tokenizers must not end a
    sequence.
    """
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def overhead(tokenizer: PreTrainedTokenizerBase, template: str, document: str) -> int:
    """The number of tokens that the template adds to `document`."""
    ids, _ = filled_ids(tokenizer, frame_of(tokenizer, template), document)
    return len(ids) - len(ids_of(tokenizer, document))


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, template: str, document: str, max_tokens: int
) -> Prompt:
    """`template`, filled with as much of the start of `document` as fits in `max_tokens` tokens.

    Raises a UserError if the template leaves no room for a token of the document.
    """
    frame = frame_of(tokenizer, template)
    before, after = frame.before, frame.after
    text = before + document + after
    ids, spans = filled_ids(tokenizer, frame, document)
    total = sum(1 for start, end in spans if end > len(before) and start < len(before) + len(document))
    shortened = document
    # A cut text may have other tokens at its end, so the prompt is tokenized again until it fits.
    while len(ids) > max_tokens:
        # Where the tokens of the shortened document start in `text`.
        inside = [
            start
            for start, end in spans
            if end > len(before) and start < len(before) + len(shortened) and end > start
        ]
        excess = len(ids) - max_tokens
        # Cutting every token would leave an empty document.
        if excess >= len(inside):
            raise UserError(
                f"prompt.max_input_tokens: {max_tokens} leaves no room for the document: the template "
                f"{template!r} alone takes {len(ids) - len(inside)} tokens; use a higher limit or a shorter "
                "template"
            )
        shortened = text[len(before) : max(inside[-excess], len(before))].rstrip()
        text = before + shortened + after
        ids, spans = filled_ids(tokenizer, frame, shortened)
    left = sum(1 for start, end in spans if end > len(before) and start < len(before) + len(shortened))
    return Prompt(text, ids, total, total - left)


def encode_completion(tokenizer: PreTrainedTokenizerBase, summary: str, template: str) -> list[int]:
    """Token ids of the summary, as it follows the prompt, and EOS.

    The summary is tokenized behind the end of the template, and the template's tokens are taken off: alone,
    it would get the blank that some tokenizers put before every text. A full stop takes the template's place
    in two cases: the template ends with the article, or its last token would merge with the first of the
    summary, a token with which generation cannot begin.
    """
    frame = frame_of(tokenizer, template)
    text = completion(summary, frame)
    if frame.chat:
        return [*_answer_ids(tokenizer, frame, text), tokenizer.eos_token_id]
    for tail in (frame.after, "."):
        lead, whole = ids_of(tokenizer, tail), ids_of(tokenizer, tail + text)
        if lead and whole[: len(lead)] == lead:
            return [*whole[len(lead) :], tokenizer.eos_token_id]
    return [*ids_of(tokenizer, text), tokenizer.eos_token_id]


def _answer_ids(tokenizer: PreTrainedTokenizerBase, frame: Frame, text: str) -> list[int]:
    """Token ids of an answer in a chat, tokenized behind the frame's last special token and what follows it.

    An answer that spells a special token is tokenized alone, as text.
    """
    if not special_places(tokenizer, text):
        last = max((start for start, _ in special_places(tokenizer, frame.after)), default=0)
        tail = frame.after[last:]
        lead, whole = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (tail, tail + text))
        if whole[: len(lead)] == lead:
            ids: list[int] = whole[len(lead) :]
            return ids
    return ids_of(tokenizer, text)


def pad_left(rows: Sequence[Collection[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(input_ids, attention_mask), each int64 [rows, longest], padded on the left."""
    import torch

    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):  # each row ends in the last column, where generation begins
        ids[i, longest - len(row) :] = torch.as_tensor(row, dtype=torch.long)
        mask[i, longest - len(row) :] = 1
    return ids, mask


def training_batch(
    rows: Sequence[tuple[Collection[int], Collection[int]]], pad_id: int
) -> dict[str, torch.Tensor]:
    """input_ids and labels of (prompt ids, completion ids) rows, each int64 [rows, longest].

    Rows are padded on the right. No token of a causal model reads what comes after it, so training needs no
    attention mask, and attention skips the half of the scores that causality hides. Labels are IGNORED except
    on the completion. Generation pads on the left (`pad_left`).
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


def template_overheads(tokenizer: PreTrainedTokenizerBase, document: str) -> dict[str, int]:
    """The number of tokens that each template adds to `document`, by name."""
    names = list(TEMPLATES)
    try:
        frame_of(tokenizer, CHAT)
        names.append(CHAT)
    except UserError:  # no chat template, or one that is refused: params.yaml may use another template
        pass
    return {name: overhead(tokenizer, name, document) for name in names}
