"""A chat template that gives the trained prompt, for programs that know nothing of this repository.

One user message, the article, becomes the text before it, the article, and the text after it. `transformers
serve`, vLLM and pipelines then use the prompt that was trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onesentence.core.errors import UserError
from onesentence.core.prompts import CHAT, FRAMES, Frame
from onesentence.model.encoding import encode_prompt, filled_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Any other message would be lost or change the prompt, so it is refused.
TEMPLATE = (
    "{{%- if messages | length != 1 or messages[0]['role'] != 'user' -%}}\n"
    "{{{{- raise_exception('This model summarizes one article: send one message of the user.') -}}}}\n"
    "{{%- endif -%}}\n"
    "{{{{- {before} -}}}}\n"
    "{{%- if messages[0]['content'] is string -%}}\n"
    "{{{{- messages[0]['content'] -}}}}\n"
    "{{%- else -%}}\n"
    "{{%- for part in messages[0]['content'] -%}}{{{{- part['text'] -}}}}{{%- endfor -%}}\n"
    "{{%- endif -%}}\n"
    "{{{{- {after} -}}}}\n"
)
PROBES = (
    "A short article.",
    "  An article that begins with blanks,\n\nhas two paragraphs and ends with a blank. ",
    "Ünïcödé, 数字 and `code(x={'a': 1})`: {{ braces }}, {% tags %} and \\ backslashes \" quotes '.",
)
LONGEST = 10**6  # tokens of a probe's prompt: none is cut


def literal(text: str) -> str:
    """A text as a string of Jinja, which reads Python's escapes."""
    return "'" + text.encode("unicode_escape").decode("ascii").replace("'", "\\'") + "'"


def chat_template(frame: Frame, bos: bool) -> str:
    """The chat template of a trained prompt. bos: whether the prompt begins with the tokenizer's BOS."""
    before = literal(frame.before)
    return TEMPLATE.format(before=f"bos_token + {before}" if bos else before, after=literal(frame.after))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, article: str) -> list[int]:
    """Token ids of an article in the tokenizer's chat template."""
    ids: list[int] = tokenizer.apply_chat_template(
        [{"role": "user", "content": article}], add_generation_prompt=True, return_dict=False
    )
    return ids


def begins_with_bos(tokenizer: PreTrainedTokenizerBase, frame: Frame) -> bool:
    """Whether a filled prompt gets a BOS that is not in its text."""
    if frame.chat or tokenizer.bos_token_id is None:
        return False
    ids, spans = filled_ids(tokenizer, frame, PROBES[0])
    return ids[0] == tokenizer.bos_token_id and spans[0][0] == spans[0][1]


def cut_article(
    tokenizer: PreTrainedTokenizerBase, frame: Frame, article: str, max_tokens: int
) -> tuple[str, int]:
    """(the article, cut at its end as training cut it; how many of its tokens were cut)."""
    FRAMES[tokenizer] = frame
    prompt = encode_prompt(tokenizer, CHAT, article, max_tokens)
    return prompt.text[len(frame.before) : len(prompt.text) - len(frame.after)], prompt.document_tokens_cut


def add_chat_template(tokenizer: PreTrainedTokenizerBase, frame: Frame) -> None:
    """Give a tokenizer the chat template of the trained prompt.

    An article that spells a special token is text, as in training. The tokenizer is set to split such tokens
    where no special token belongs to the prompt itself.
    Raises UserError if the template gives other token ids than training read.
    """
    bos = begins_with_bos(tokenizer, frame)
    tokenizer.chat_template = chat_template(frame, bos)
    tokenizer.split_special_tokens = not bos and not frame.chat
    for article in PROBES:
        trained, _ = filled_ids(tokenizer, frame, article)
        exported = prompt_ids(tokenizer, article)
        if exported != trained:
            place = next(
                (k for k, pair in enumerate(zip(exported, trained, strict=False)) if pair[0] != pair[1]),
                min(len(exported), len(trained)),
            )
            raise UserError(
                "model.name: no chat template can give the trained prompt with this tokenizer (token "
                f"{place} of {article[:30]!r}: expected {trained[place : place + 1]}, found "
                f"{exported[place : place + 1]}); use a model whose tokenizer adds no token of its own"
            )
