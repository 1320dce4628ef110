"""The prompt templates, and the one place that fills them.

A template is the text around `{article}`; the summary follows it after one space and ends with EOS.
`prompt.template` is the name of one of these, or such a text itself. The first five are the original study's,
`direct` its choice. The others vary one thing at a time: what is asked (nothing, a headline, rules, a role, a
reader), where it stands (before, after, both sides), and the form (Markdown, tags, JSON). `chat_template` is
the base's own chat template, filled with the request as its user's message.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import jinja2

from onesentence.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SLOT = "{article}"
CHAT = "chat_template"
REQUEST = "Summarize the following article in one sentence.\n\n{article}"  # of the user, in a chat
ANSWER = "{summary}"  # of the assistant: where a template puts it
# Some templates write today's date into every prompt (Llama 3.2, SmolLM3): prompts would change overnight.
# This is the date that Llama 3.2's own template falls back on.
TODAY = datetime(2024, 7, 26)
TEMPLATES = {
    "simple": "{article}\n\nTL;DR:",
    "instruct": ("Instruct: Summarize the following article in one sentence.\n\n{article}\n\nOutput:"),
    "chat": ("User: Please summarize this article in one sentence.\n\n{article}\n\nAssistant:"),
    "direct": "Article: {article}\n\nSummarize the above article in one sentence.\nSummary:",
    "qa": "Context: {article}\n\nQuestion: What is the article about, in one sentence?\nAnswer:",
    # No instruction, or next to none.
    "bare": "{article}\n",
    "label": "{article}\n\nSummary:",
    "headline": "{article}\n\nHeadline:",
    "in_short": "{article}\n\nIn short,",
    "one_sentence": "{article}\n\nIn one sentence:",
    # The same request before the article, or on both sides of it.
    "before": "Summarize the article below in one sentence.\n\nArticle: {article}\nSummary:",
    "both_sides": (
        "Summarize the article below in one sentence.\n\nArticle: {article}\n\n"
        "Summarize the above article in one sentence.\nSummary:"
    ),
    # More words.
    "rules": (
        "Article: {article}\n\nWrite one sentence of at most 20 words that says what matters most in the "
        "article. Use your own words. Add nothing that the article does not say.\nSummary:"
    ),
    "role": (
        "You are an editor who writes the first sentence of news stories.\n\nArticle: {article}\n\n"
        "First sentence:"
    ),
    "reader": (
        "Article: {article}\n\nTell a colleague who has no time to read the article what it says, in one "
        "sentence.\nSummary:"
    ),
    "steps": (
        "Article: {article}\n\nFind the subject of the article. Find what is said about it. Put both into "
        "one sentence.\nSummary:"
    ),
    # Other forms.
    "question": "Article: {article}\n\nWhat is the main point?\nThe main point:",
    "markdown": "# Article\n\n{article}\n\n# Summary in one sentence\n\n",
    "tags": "<article>{article}</article>\n<summary>",
    "json": '{"article": "{article}", "summary": "',
}


@dataclass(frozen=True)
class Frame:
    """The text around an article, and what stands between it and the summary.

    chat: `before` and `after` spell special tokens, which a tokenizer reads as such there and nowhere else.
    """

    before: str
    after: str
    blank: str = " "  # so that a summary's first word is tokenized as inside a sentence
    chat: bool = False


FRAMES: "WeakKeyDictionary[PreTrainedTokenizerBase, Frame]" = (
    WeakKeyDictionary()
)  # by tokenizer: its chat template, rendered once


def is_template(value: object) -> bool:
    """Whether a value is a template's name, or a text with one place for the article."""
    return isinstance(value, str) and (value in TEMPLATES or value == CHAT or value.count(SLOT) == 1)


def frame_of(tokenizer: "PreTrainedTokenizerBase", template: str) -> Frame:
    """The frame of a template, given by its name or as a text.

    Raises UserError for `chat_template` where the tokenizer has none, or none that a summary can follow.
    """
    if template != CHAT:
        before, after = TEMPLATES.get(template, template).split(SLOT)
        return Frame(before, after)
    if tokenizer not in FRAMES:
        FRAMES[tokenizer] = _chat_frame(tokenizer)
    return FRAMES[tokenizer]


def _chat_frame(tokenizer: "PreTrainedTokenizerBase") -> Frame:
    if not tokenizer.chat_template:
        raise _no_frame("the tokenizer of model.name has no chat template, so it is no chat model")
    ask, answer = {"role": "user", "content": REQUEST}, {"role": "assistant", "content": ANSWER}
    text = _rendered(tokenizer, [ask], add_generation_prompt=True)
    if text.count(SLOT) != 1:
        raise _no_frame("the model's chat template leaves no place for the article")
    before, after = text.split(SLOT)
    whole = _rendered(tokenizer, [ask, answer])
    if whole.count(ANSWER) != 1:
        raise _no_frame("the model's chat template leaves no place for an answer")
    answered, turn_end = whole.split(ANSWER)
    # What a template puts between its own prompt and an answer (a blank, a channel) is the model's form too.
    between = answered.removeprefix(text) if answered.startswith(text) else ""
    blank = between if not between.strip() else ""
    if not turn_end.lstrip().startswith(tokenizer.eos_token):
        raise UserError(
            f"prompt.template: {CHAT}: the model ends its answers with {turn_end.strip()[:40]!r}, and its "
            f"tokenizer's eos is {tokenizer.eos_token!r}, so no answer would be seen to end; set eos_token "
            "in its tokenizer_config.json, or use another template"
        )
    return Frame(before, after + between.removesuffix(blank), blank=blank, chat=True)


def _no_frame(reason: str) -> UserError:
    return UserError(f"prompt.template: {CHAT}: {reason}; use one of {', '.join(TEMPLATES)}")


def _rendered(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]], **options: bool) -> str:
    try:
        # A call of the clock is replaced by what it would have said on that day.
        template = re.sub(
            r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""",
            lambda call: repr(TODAY.strftime(call[2])),
            tokenizer.get_chat_template(),
        )
        if "strftime_now(" in template:
            raise _no_frame("the model's chat template writes today's date in a form that is not known here")
        # enable_thinking: Qwen3's and SmolLM3's reasoning before an answer, which is no one-sentence summary.
        text: str = tokenizer.apply_chat_template(
            messages,
            chat_template=template,
            tokenize=False,
            enable_thinking=False,
            date_string=TODAY.strftime("%d %b %Y"),
            **options,
        )
        return text
    except (ValueError, jinja2.TemplateError) as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise _no_frame(f"the model's chat template cannot be filled ({said})") from error


def completion(summary: str, frame: Frame) -> str:
    """What follows the prompt, as text."""
    return frame.blank + summary.strip()
