"""The prompt templates, and the one place that fills them.

The five of the original study. A template is the text around `{article}`; the summary follows it after
one space and ends with EOS. `direct` is the study's choice.
"""

TEMPLATES = {
    "simple": "{article}\n\nTL;DR:",
    "instruct": ("Instruct: Summarize the following article in one sentence.\n\n{article}\n\nOutput:"),
    "chat": ("User: Please summarize this article in one sentence.\n\n{article}\n\nAssistant:"),
    "direct": "Article: {article}\n\nSummarize the above article in one sentence.\nSummary:",
    "qa": "Context: {article}\n\nQuestion: What is the article about, in one sentence?\nAnswer:",
}


def around(template: str) -> tuple[str, str]:
    """The text before and after the article in a template."""
    before, after = TEMPLATES[template].split("{article}")
    return before, after


def completion(summary: str) -> str:
    """What follows the prompt: a space, so that the first word is tokenized as inside a sentence."""
    return f" {summary.strip()}"
