"""METEOR (Lavie and Agarwal 2007) with nltk: words aligned by form and stem, and optionally by synonyms."""

from importlib import metadata
from typing import Any, ClassVar

from onesentence.core.errors import UserError
from onesentence.core.language import ENGLISH, STEMMERS, Stemmer, stemmer_signature
from onesentence.core.text import WORD_SIGNATURE, words
from onesentence.evaluation.metric import quality
from onesentence.evaluation.overlap.overlap_metric import OverlapMetric


class _NoSynonyms:
    """Replaces WordNet if METEOR's synonym stage is off: no word has a synonym."""

    def synsets(self, word: str) -> list[Any]:
        return []


def word_net() -> Any:
    """Return nltk's WordNet. Raises UserError if it is missing: without it METEOR is another metric."""
    from nltk.corpus import wordnet

    try:
        # nltk loads a corpus on first use, which would be in the middle of scoring.
        wordnet.ensure_loaded()
    except LookupError as error:
        raise UserError(
            "evaluate.meteor_synonyms: true needs WordNet, which nltk does not find on this machine; fetch "
            "it with `python -m nltk.downloader wordnet`, or set evaluate.meteor_synonyms: false"
        ) from error
    return wordnet


class Meteor(OverlapMetric):
    """Recall (weighted 9 to 1) and precision of aligned words, with a penalty for scattered matches.

    English is split into Treebank tokens, any other language into the words of ROUGE.
    """

    declared: ClassVar = {"meteor": quality("METEOR", "x 100")}

    def __init__(self, language: str, meteor_synonyms: bool) -> None:
        from nltk.tokenize.destructive import NLTKWordTokenizer

        self.language = language
        self.stemmer = Stemmer(language)
        self.words = NLTKWordTokenizer().tokenize if language == ENGLISH else words
        self.wordnet = word_net() if meteor_synonyms else _NoSynonyms()

    def scores(self, reference: str, output: str) -> dict[str, float | list[int]]:
        """Return the score of one output."""
        from nltk.translate.meteor_score import single_meteor_score

        score = single_meteor_score(
            self.words(reference), self.words(output), stemmer=self.stemmer, wordnet=self.wordnet
        )
        return {"meteor": 100 * score}

    def signatures(self) -> dict[str, str]:
        """Name the stages of the alignment, and how texts are split into words."""
        stages = "exact+stem" if self.language == ENGLISH or self.language in STEMMERS else "exact"
        if not isinstance(self.wordnet, _NoSynonyms):
            stages += f"+wordnet{self.wordnet.get_version()}"
        cut = "tokens:treebank|case:lower"
        if self.language != ENGLISH:
            cut = f"stemmer:{stemmer_signature(self.language)}|{WORD_SIGNATURE}"
        return {"meteor": f"lang:{self.language}|stages:{stages}|{cut}|nltk:{metadata.version('nltk')}"}
