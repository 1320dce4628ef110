"""Summarize new articles exactly as the pipeline summarizes its own: the same tokens for the same model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onesentence.core.errors import UserError
from onesentence.core.prompts import FRAMES
from onesentence.core.runtime import set_up
from onesentence.evaluation.extraction import Article
from onesentence.generation.decoding import Output
from onesentence.generation.decoding import summarize_in_batches as generate_in_batches
from onesentence.generation.smoke_test import check_success, require_complete
from onesentence.inference.ctranslate2 import CTranslate2Model
from onesentence.inference.models import ModelSource, find, load_model, load_model_tokenizer
from onesentence.model.base_check import check_ids, check_positions
from onesentence.model.encoding import Prompt, encode_prompt

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from onesentence.inference.settings import Settings

# What the smoke test reads where no articles are given: documentation, news, and a text that is cut.
SAMPLES = (
    "def count_lines(path: str, encoding: str = 'utf-8') -> int\n\nOpens the file at `path` and reads it to "
    "its end. Empty lines count too.\n\nArgs:\n    path: The file.\n    encoding: Of its text.\n\nReturns:\n"
    "    The number of lines in the file.",
    "The town council has approved a new bridge over the river. Work will start in May and take two years. "
    "Residents had asked for a second crossing since the flood of 2012, when the old bridge was closed for "
    "six weeks. The bridge will cost 12 million pounds, of which the county pays half.",
    "The library has three floors. " * 400,
)


@dataclass(frozen=True)
class Summary:
    """The summary of one article.

    status: ok, empty, or echo (the text repeats the prompt). stopped: whether EOS ended it. input_tokens: of
    the filled prompt; document_tokens_cut: of the article's end, which the model did not read. unsupported:
    numbers and names in the text that the article lacks, in the order of the text.
    """

    text: str
    status: str
    stopped: bool
    input_tokens: int
    output_tokens: int
    document_tokens_cut: int
    unsupported: tuple[str, ...]


class Summarizer:
    """A loaded model. name: what messages call it; language: ISO 639, of the articles."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        model: PreTrainedModel | PeftModel | CTranslate2Model,
        tokenizer: PreTrainedTokenizerBase,
        trained: bool,
    ) -> None:
        self.name, self.settings, self.language = name, settings, settings.language
        self.model, self.tokenizer, self.trained = model, tokenizer, trained
        # CTranslate2 reads tokens, not ids: `export` has shown that it reads these.
        self.embeddings: int | None = None
        self.warned = False
        if not isinstance(model, CTranslate2Model):
            self.embeddings = model.get_input_embeddings().weight.shape[0]
        if settings.frame is not None and settings.frame.chat:
            FRAMES[tokenizer] = settings.frame  # so that no chat template is filled again

    @classmethod
    def load(cls, model: str | Path | None = None, untuned: bool = False) -> Summarizer:
        """Load a model: None is params.yaml's with models/tuned; else a folder or a revision (`models.find`).

        untuned: load the base alone. Kernels, threads and seeds are set as in every stage.
        """
        return cls.of(find(model, untuned))

    @classmethod
    def of(cls, source: ModelSource) -> Summarizer:
        """Load a model of `models.find`."""
        set_up(seed=0, formats=[source.settings.model.dtype])
        tokenizer = load_model_tokenizer(source)
        model = load_model(source, tokenizer)
        return cls(source.name, source.settings, model, tokenizer, source.trained)

    def require_fit(self, prompts: list[Prompt]) -> None:
        """Raise a UserError unless the model has an embedding for each id and a position for each token.

        What `tokenize` has checked of its own base, another folder's model may not meet. Prints once that
        prompts are longer than what a rotary model was trained on.
        """
        if isinstance(self.model, CTranslate2Model) or self.embeddings is None or not prompts:
            return
        longest = max(len(prompt.ids) for prompt in prompts) + self.settings.generate.max_new_tokens
        try:
            check_ids(self.tokenizer, self.embeddings, max(max(prompt.ids) for prompt in prompts))
            warning = check_positions(self.model.config, longest, "generate.max_new_tokens")
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from error
        if warning and not self.warned:
            self.warned = True
            print(f"{self.name}: {warning}", file=sys.stderr)

    def prompts(self, articles: list[str]) -> list[Prompt]:
        """The filled prompt of each article, cut to prompt.max_input_tokens.

        Raises a UserError where the model has no embedding for a token of one, or too few positions.
        """
        prompt = self.settings.prompt
        prompts = [
            encode_prompt(self.tokenizer, prompt.template, storable(article), prompt.max_input_tokens)
            for article in articles
        ]
        self.require_fit(prompts)
        return prompts

    def outputs(self, prompts: list[Prompt], names: list[str]) -> Iterator[tuple[list[int], list[Output]]]:
        """Yield (indices, outputs) of filled prompts, by batch; names: of the articles, for errors."""
        ids = [prompt.ids for prompt in prompts]
        if isinstance(self.model, CTranslate2Model):
            return self.model.outputs(ids)
        return generate_in_batches(self.model, self.tokenizer, ids, self.settings.generate, names)

    def summarize_in_batches(
        self, articles: list[str], names: list[str] | None = None
    ) -> Iterator[tuple[list[int], list[Summary]]]:
        """Yield (indices, summaries) of articles, batch after batch, longest prompts first.

        names: of the articles, for errors; their places from 1 by default.
        """
        names = names or _places(articles)
        prompts = self.prompts(articles)
        longest = self.settings.generate.max_new_tokens
        for batch, outputs in self.outputs(prompts, names):
            for i, output in zip(batch, outputs, strict=True):
                require_complete(output, longest, names[i], self.name)
            pairs = zip(batch, outputs, strict=True)
            yield batch, [_summary(articles[i], prompts[i], output) for i, output in pairs]

    def summarize(self, articles: list[str]) -> list[Summary]:
        """The summary of each article, in order."""
        by_index: dict[int, Summary] = {}
        for batch, summaries in self.summarize_in_batches(articles):
            by_index |= zip(batch, summaries, strict=True)
        return [by_index[i] for i in range(len(articles))]

    def check(self, articles: list[str] | None = None, names: list[str] | None = None) -> float:
        """The share of articles that get a summary; a UserError if the smoke test fails.

        articles: by default a few of its own. A tuned model must reach smoke.min_success_rate; an untuned
        base must only write well-formed outputs.
        """
        articles = list(SAMPLES) if articles is None else articles
        names = names or _places(articles)
        prompts = self.prompts(articles)
        by_index: dict[int, Output] = {}
        for batch, outputs in self.outputs(prompts, names):
            by_index |= zip(batch, outputs, strict=True)
        return check_success(
            names,
            [prompt.ids for prompt in prompts],
            [by_index[i] for i in range(len(articles))],
            self.settings.generate.max_new_tokens,
            self.settings.min_success_rate if self.trained else None,
            self.name,
        )


def _places(articles: list[str]) -> list[str]:
    return [f"article {number}" for number in range(1, len(articles) + 1)]


def storable(text: str) -> str:
    """`text` with lone surrogates replaced, as `prepare` stores it: JSON can spell one, UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _summary(article: str, prompt: Prompt, output: Output) -> Summary:
    return Summary(
        text=output.text,
        status=output.status,
        stopped=output.stopped,
        input_tokens=len(prompt.ids),
        output_tokens=len(output.tokens),
        document_tokens_cut=prompt.document_tokens_cut,
        unsupported=unsupported(article, output.text),
    )


def unsupported(article: str, text: str) -> tuple[str, ...]:
    """Numbers and names in `text` that the article lacks, each once, in the order of the text."""
    source = Article(article)
    spans = sorted({*source.unsupported_numbers(text), *source.unsupported_names(text)})
    return tuple(dict.fromkeys(text[start:end] for start, end in spans))
