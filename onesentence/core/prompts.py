"""The prompt templates, and the only code that fills them.

A template is the text around `{article}`. The summary follows it after one space and ends with EOS.
`prompt.template` is the name of a template here, or the text of one. The first five come from the original
study, which chose `direct`. The others vary one thing at a time: the request (none, a headline, rules, a
role, a reader), its place (before, after, on both sides) and the form (Markdown, tags, JSON). `chat_template`
is the base model's own chat template, with the request as the user's message.
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
REQUEST = "Summarize the following article in one sentence.\n\n{article}"  # the user's message in a chat
ANSWER = "{summary}"  # a placeholder for the assistant's message
# Some chat templates write today's date into every prompt (Llama 3.2, SmolLM3), so that prompts would change
# overnight. This fixed date is the default of Llama 3.2's own template.
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
    """The text before and after an article, and the blank between prompt and summary.

    chat: `before` and `after` contain special tokens. The tokenizer reads such tokens there, and nowhere
    else.
    """

    before: str
    after: str
    blank: str = " "  # so that the summary's first word gets the token that it has inside a sentence
    chat: bool = False


# The frame of each tokenizer's chat template, so that a template is rendered once and not for every prompt.
FRAMES: "WeakKeyDictionary[PreTrainedTokenizerBase, Frame]" = WeakKeyDictionary()


def is_template(value: object) -> bool:
    """Whether a value is the name of a template, or a text that contains `{article}` once."""
    return isinstance(value, str) and (value in TEMPLATES or value == CHAT or value.count(SLOT) == 1)


def frame_of(tokenizer: "PreTrainedTokenizerBase", template: str) -> Frame:
    """The frame of a template, which is a name or a text.

    Raises UserError if the template is `chat_template` and the tokenizer has none that a summary can follow.
    """
    if template != CHAT:
        before, after = TEMPLATES.get(template, template).split(SLOT)
        return Frame(before, after)
    if tokenizer not in FRAMES:
        FRAMES[tokenizer] = _chat_frame(tokenizer)
    return FRAMES[tokenizer]


def _chat_frame(tokenizer: "PreTrainedTokenizerBase") -> Frame:
    """The frame of a tokenizer's chat template: it is rendered with placeholders, then cut at them."""
    if not tokenizer.chat_template:
        raise _no_frame("the tokenizer of model.name has no chat template, so it is no chat model")
    ask, answer = {"role": "user", "content": REQUEST}, {"role": "assistant", "content": ANSWER}
    text = _rendered(tokenizer, [ask], add_generation_prompt=True)
    if text.count(SLOT) != 1:
        raise _no_frame("the model's chat template leaves no place for the article")
    before, after = text.split(SLOT)
    dialogue = _rendered(tokenizer, [ask, answer])
    if dialogue.count(ANSWER) != 1:
        raise _no_frame("the model's chat template leaves no place for an answer")
    answered, turn_end = dialogue.split(ANSWER)
    # Some templates put more between the prompt and the answer (a blank, a channel). The model was trained
    # with it, so it belongs to the prompt.
    between = answered.removeprefix(text) if answered.startswith(text) else ""
    blank = between if not between.strip() else ""
    if not turn_end.lstrip().startswith(tokenizer.eos_token):
        raise UserError(
            f"prompt.template: {CHAT}: the model ends its answers with {turn_end.strip()[:40]!r}, but its "
            f"tokenizer's eos is {tokenizer.eos_token!r}, so generation would not stop there; set eos_token "
            "in its tokenizer_config.json, or use another template"
        )
    return Frame(before, after + between.removesuffix(blank), blank=blank, chat=True)


def _no_frame(reason: str) -> UserError:
    return UserError(f"prompt.template: {CHAT}: {reason}; use one of {', '.join(TEMPLATES)}")


def _rendered(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]], **options: bool) -> str:
    try:
        # Replace every call of the clock by what it returns on TODAY.
        template = re.sub(
            r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""",
            lambda call: repr(TODAY.strftime(call[2])),
            tokenizer.get_chat_template(),
        )
        if "strftime_now(" in template:
            raise _no_frame("the model's chat template writes today's date in a form that is not supported")
        # enable_thinking: Qwen3 and SmolLM3 would reason before they answer; a summary is one sentence.
        text: str = tokenizer.apply_chat_template(
            messages,
            chat_template=template,
            tokenize=False,
            enable_thinking=False,
            date_string=TODAY.strftime("%d %b %Y"),
            **options,
        )
        return text
    # A template is a program, if only in a sandbox: it can divide by zero and call what does not exist.
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        MemoryError,
        jinja2.TemplateError,
    ) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise _no_frame(f"the model's chat template cannot be filled ({reason})") from error


def completion(summary: str, frame: Frame) -> str:
    """The text that follows the prompt."""
    return frame.blank + summary.strip()
