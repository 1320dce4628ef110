"""Entailment of an output by its article, judged by a model: SummaC-ZS (Laban et al. 2022).

The score of an output is the mean over its sentences of the highest probability with which a part of the
article entails the sentence, x 100. The parts are the article's sentences, and windows of as many sentences
in a row as fit, since one sentence may hold facts of several. Nothing is truncated: a sentence that does not
fit is cut into parts that do. An output without text, and an article without text, give a score of 0.

A batch holds parts of one article with one sentence. So a score depends on its article and its output alone,
not on other articles or systems, and is computed once where systems share a sentence.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onesentence.core.errors import UserError
from onesentence.core.journal import Journal
from onesentence.core.params import Evaluate
from onesentence.core.runtime import set_up
from onesentence.core.text import sentences
from onesentence.evaluation.articles import score_articles
from onesentence.evaluation.extraction import Article
from onesentence.evaluation.pinned_model import (
    limit_length,
    loading,
    model_files,
    one_thread,
    require_vocabulary,
    require_weights,
    shown_name,
    versions,
)

KEY = "evaluate.nli_model"
LABEL = "entailment"
MAX_TOKENS = 512  # of a pair, also where a model reads more: models of this kind are trained on short pairs
OUTPUT_SHARE = 4  # 1 / 4 of these tokens is for the output's sentence, the rest for the article's part
LEAST_TOKENS = 40  # that a model must read: fewer leave no room for sentences
BATCH_TOKENS = 4_096  # of the pairs that are computed at once, padding included; limits memory
MAX_PADDING = 2  # the longest pair of a batch is at most this many times as long as the shortest


def cut(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Return a text in parts that fit: halved at the blank nearest to the middle until each part does."""
    if len(text) < 2 or fits(text):
        return [text]
    middle = len(text) // 2
    blanks = [place for place in (text.rfind(" ", 1, middle), text.find(" ", middle)) if place > 0]
    place = min(blanks, key=lambda blank: abs(blank - middle), default=middle)
    return cut(text[:place].strip(), fits) + cut(text[place:].strip(), fits)


def windows(parts: list[str], fits: Callable[[str], bool]) -> Iterator[str]:
    """Yield as many parts in a row as fit together, joined by blanks; the next window begins with the last.

    A part that fits with no neighbour is in no window.
    """
    start = 0
    while start < len(parts) - 1:
        end = start + 1
        while end < len(parts) and fits(" ".join(parts[start : end + 1])):
            end += 1
        if end - start > 1:
            yield " ".join(parts[start:end])
        if end == len(parts):
            return
        start = max(start + 1, end - 1)


def batches(lengths: list[int], most: int) -> Iterator[list[int]]:
    """Yield places in `lengths`, shortest first, in batches of at most `most` tokens, padding included."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        longest = min(most // (len(batch) + 1), MAX_PADDING * lengths[batch[0]]) if batch else lengths[place]
        if lengths[place] > longest:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def label_index(label2id: dict[str, int], id2label: dict[int, str], name: str) -> int:
    """Return the place of the label `entailment`, which differs between models.

    Raises UserError unless both tables of a config.json name it, in any case, once and in the same place.
    """
    places = [index for label, index in label2id.items() if label.strip().lower() == LABEL]
    named = [index for index, label in id2label.items() if str(label).strip().lower() == LABEL]
    if len(places) != 1 or named != places:
        found = ", ".join(f"{index} = {label}" for index, label in sorted(id2label.items()))
        raise UserError(
            f"{KEY}: {name!r}: expected one label {LABEL!r} in its config.json, the same in label2id and "
            f"id2label, found {found}; use a model of natural language inference, or correct a copy"
        )
    return places[0]


class Entailment:
    """Scores outputs by a pinned model of natural language inference."""

    def __init__(self, settings: Evaluate) -> None:
        name = str(settings.nli_model)
        folder = model_files(name, KEY, settings.nli_revision)
        sha256 = require_weights(folder, name, KEY, settings.nli_sha256)
        set_up(seed=0)
        self._load(folder, name)
        self._language = settings.language
        special = self._tokenizer.num_special_tokens_to_add(pair=True)
        tokens = min(MAX_TOKENS, limit_length(self._tokenizer, self._model.config))
        if tokens < LEAST_TOKENS:
            raise UserError(f"{KEY}: {name!r} reads only {tokens} tokens; use one that reads {LEAST_TOKENS}")
        self._output_tokens = (tokens - special) // OUTPUT_SHARE
        self._part_tokens = tokens - special - self._output_tokens
        self._known: dict[tuple[str, str], float] = {}  # by article and sentence
        used = versions("transformers", "torch")
        self.signature = (
            f"SummaC-ZS|model:{shown_name(name, folder)}|weights:{sha256}|label:{self._label}|"
            f"parts:sentences and windows of up to {self._part_tokens} tokens|"
            f"output:sentences of up to {self._output_tokens} tokens|lang:{self._language}|{used}"
        )

    def _load(self, folder: Path, name: str) -> None:
        """Load the model and its tokenizer. Raises UserError if they do not classify pairs of texts."""
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        with loading(name, KEY, "a classifier of texts"):
            self._model, info = AutoModelForSequenceClassification.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        require_vocabulary(self._tokenizer, name, KEY)
        missing = sorted(info["missing_keys"])
        if missing:  # transformers fills them with random numbers
            raise UserError(
                f"{KEY}: {name!r} has no weights for {missing[0]}, so it was not trained to classify; use a "
                "model of natural language inference"
            )
        if self._tokenizer.pad_token is None:
            raise UserError(f"{KEY}: {name!r} has a tokenizer without a padding token; use another model")
        if self._model.config.pad_token_id is None:  # by which a decoder finds the last token of a pair
            self._model.config.pad_token_id = self._tokenizer.pad_token_id
        self._model.eval()
        self._label = label_index(self._model.config.label2id, self._model.config.id2label, name)

    def _count(self, text: str) -> int:
        """Return the number of a text's tokens without special ones."""
        return len(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _sentences(self, text: str, most: int) -> list[str]:
        """Return the sentences of a text, cut to at most `most` tokens, without those of no token."""
        parts = [
            part
            for sentence in sentences(text, self._language)
            for part in cut(sentence, lambda text: self._count(text) <= most)
        ]
        return [part for part in parts if self._count(part)]

    def parts(self, article: str) -> list[str]:
        """Return the sentences and the windows of an article that are compared with each output."""
        single = self._sentences(article, self._part_tokens)
        joined = windows(single, lambda text: self._count(text) <= self._part_tokens)
        return list(dict.fromkeys([*single, *joined]))

    def _best(self, parts: list[str], sentence: str) -> float:
        """Return the highest probability (0 to 1) with which one of the parts entails a sentence."""
        import torch

        highest = 0.0
        for batch in batches([self._count(part) + self._count(sentence) for part in parts], BATCH_TOKENS):
            pairs = self._tokenizer(
                [parts[place] for place in batch],
                [sentence] * len(batch),
                padding=True,
                truncation=False,
                return_tensors="pt",
            )
            chances = torch.softmax(self._model(**pairs).logits, dim=-1)[:, self._label]
            if not torch.isfinite(chances).all():
                raise UserError(f"{KEY}: the model's output is not a number; use a model with sound weights")
            highest = max(highest, float(chances.max()))
        return highest

    def scores(
        self, articles: list[Article], outputs: dict[str, list[str]], journal: Journal | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """Return scores [articles] of 0 to 100 by system. "" scores 0.

        journal: of finished articles, for a run that may be stopped.
        """
        import torch

        rows = list(zip(articles, *outputs.values(), strict=True))

        def score(i: int) -> list[float]:
            article, *texts = rows[i]
            split = [self._sentences(text, self._output_tokens) for text in texts]
            self._judge(article.source, [sentence for part in split for sentence in part])
            known = [[self._known[article.source, sentence] for sentence in part] for part in split]
            return [100 * float(np.mean(chances)) if chances else 0.0 for chances in known]

        # The references are judged in a call of their own, under no name.
        what = f"entailment {' '.join(outputs)}".strip()
        with torch.inference_mode(), one_thread():
            return score_articles(what, list(outputs), len(rows), score, journal)

    def _judge(self, article: str, output: list[str]) -> None:
        """Add the sentences of outputs that are not yet known for an article."""
        new = [text for text in dict.fromkeys(output) if (article, text) not in self._known]
        parts = self.parts(article) if new else []
        for sentence in new:
            self._known[article, sentence] = self._best(parts, sentence)


def judge_of(settings: Evaluate) -> Entailment | None:
    """Return the model that `evaluate.nli_model` names; None if it is null."""
    return None if settings.nli_model is None else Entailment(settings)
