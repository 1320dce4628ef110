"""The prompt templates, and the one place that fills them.

A template is the text around `{article}`; the summary follows it after one space and ends with EOS.
`prompt.template` is the name of one of these, or such a text itself. The first five are the original study's,
`direct` its choice. The others vary one thing at a time: what is asked (nothing, a headline, rules, a role, a
reader), where it stands (before, after, both sides), and the form (Markdown, tags, JSON).
"""

SLOT = "{article}"
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


def is_template(value: object) -> bool:
    """Whether a value is a template's name, or a text with one place for the article."""
    return isinstance(value, str) and (value in TEMPLATES or value.count(SLOT) == 1)


def around(template: str) -> tuple[str, str]:
    """The text before and after the article in a template, given by its name or as a text."""
    before, after = TEMPLATES.get(template, template).split(SLOT)
    return before, after


def completion(summary: str) -> str:
    """What follows the prompt: a space, so that the first word is tokenized as inside a sentence."""
    return f" {summary.strip()}"
