"""ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum (Lin 2004) as F1, equal to rouge_score's numbers bit for bit.

The formulas, and for English the tokens, are rouge_score's. Its tables are not used: their time grows with
the product of two lengths.
"""

from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from importlib import metadata
from itertools import groupby
from operator import itemgetter
from typing import ClassVar

from onesentence.core.language import Stemmer, rouge_signature, rouge_tokens
from onesentence.core.text import sentences
from onesentence.evaluation.metric import quality
from onesentence.evaluation.overlap.overlap_metric import OverlapMetric


def lcs_length(left: list[str], right: list[str]) -> int:
    """Return the length of the longest common subsequence. A row of the table is one number (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, token in enumerate(left):
        places[token] = places.get(token, 0) | 1 << place
    whole = row = (1 << len(left)) - 1  # a bit of 0 for each place where the length grows
    for token in right:
        met = row & places.get(token, 0)
        row = ((row + met) | (row - met)) & whole
    return len(left) - row.bit_count()


def _places_by_sentence(sentence_tokens: list[list[str]]) -> dict[str, list[tuple[int, int]]]:
    """Return (sentence, place in it) of every occurrence of each token, in order."""
    occurrences: dict[str, list[tuple[int, int]]] = {}
    for sentence, tokens in enumerate(sentence_tokens):
        for place, token in enumerate(tokens):
            occurrences.setdefault(token, []).append((sentence, place))
    return occurrences


def _chosen(target: list[str], tokens: list[tuple[str, bool]]) -> set[int]:
    """Return the places in `target` of the longest common subsequence that rouge_score would choose.

    tokens: the other sentence's tokens that `target` has too, each with whether other tokens follow it before
    the next. Other tokens do not change a row of the table. But where rouge_score meets one as it reads the
    table backwards, it steps back to where the row last grew.
    """
    masks: dict[str, int] = {}
    for place, token in enumerate(target):
        masks[token] = masks.get(token, 0) | 1 << place
    row = (1 << len(target)) - 1  # as in `lcs_length`
    whole, rows = row, [row]
    for token, _ in tokens:
        met = row & masks[token]
        row = ((row + met) | (row - met)) & whole
        rows.append(row)

    def grown(row: int, until: int) -> int:
        """Return the length of the subsequence within the first `until` places."""
        return until - (row & ((1 << until) - 1)).bit_count()

    chosen = set()
    i, j, stepped = len(target), len(tokens), None
    while i and j:
        token, others = tokens[j - 1]
        if others and stepped != j:  # step back to the last place where the row grew, once per token
            i, stepped = (~rows[j] & ((1 << i) - 1)).bit_length(), j
            continue
        if target[i - 1] == token:
            chosen.add(i - 1)
            i, j = i - 1, j - 1
        elif grown(rows[j - 1], i) > grown(rows[j], i - 1):
            j -= 1
        else:
            i -= 1
    return chosen


def union_hits(targets: list[list[str]], outputs: list[list[str]]) -> int:
    """Return the size of ROUGE-Lsum's union subsequences (Lin 2004, section 3.2), clipped as in rouge_score.

    targets, outputs: tokens by sentence. The result is rouge_score's, without a table for each pair of
    sentences: a sentence of the reference is compared only with the tokens that it has itself.
    """
    # Each word counts at most as often as both texts have it.
    left = [Counter(token for tokens in side for token in tokens) for side in (targets, outputs)]
    places = _places_by_sentence(outputs)
    hits = 0
    for target in targets:
        met = sorted((*at, token) for token in set(target) for at in places.get(token, ()))
        union: set[int] = set()
        for sentence, group in groupby(met, key=itemgetter(0)):
            rows = [(place, token) for _, place, token in group]
            following = [place for place, _ in rows[1:]] + [len(outputs[sentence])]
            tokens = [
                (token, after > place + 1) for (place, token), after in zip(rows, following, strict=True)
            ]
            union |= _chosen(target, tokens)
        for place in sorted(union):
            token = target[place]
            if left[0][token] > 0 and left[1][token] > 0:
                hits += 1
                left[0][token] -= 1
                left[1][token] -= 1
    return hits


def _ngrams(tokens: list[str], n: int) -> Counter[tuple[str, ...]]:
    """Return how often each n-gram occurs."""
    return Counter(zip(*(tokens[k:] for k in range(n)), strict=False))


class Rouge(OverlapMetric):
    """F1 of n-grams and of longest common subsequences."""

    declared: ClassVar = {
        "rouge1": quality("ROUGE-1", "F1 x 100"),
        "rouge2": quality("ROUGE-2", "F1 x 100"),
        "rougeL": quality("ROUGE-L", "F1 x 100"),
        "rougeLsum": quality("ROUGE-Lsum", "F1 x 100"),
    }

    def __init__(self, language: str, meteor_synonyms: bool) -> None:
        from rouge_score.scoring import fmeasure

        self.fmeasure: Callable[[float, float], float] = fmeasure
        self.language = language
        stemmer = Stemmer(language)
        # Each text is tokenized once for all of these metrics.
        self.tokens = lru_cache(maxsize=4_096)(lambda text: rouge_tokens(text, language, stemmer))

    def f1(self, matched: int, reference: int, output: int) -> float:
        """Return F1 from counts: in both, in the reference, in the output."""
        return self.fmeasure(matched / max(output, 1), matched / max(reference, 1))

    def ngrams(self, reference: Counter[tuple[str, ...]], output: Counter[tuple[str, ...]]) -> float:
        """Return ROUGE-n from the n-grams of both."""
        return self.f1((reference & output).total(), reference.total(), output.total())

    def several(self, reference: str, output: str) -> float:
        """Return ROUGE-Lsum of texts with one sentence per line."""
        sides = [[self.tokens(line) for line in text.split("\n")] for text in (reference, output)]
        return self.f1(union_hits(*sides), *(sum(map(len, side)) for side in sides))

    def all(self, reference: str, output: str) -> list[float]:
        """Return each F1 (0 to 1) of texts with one sentence per line."""
        target, tokens = self.tokens(reference), self.tokens(output)
        longest = self.f1(lcs_length(target, tokens), len(target), len(tokens))
        several = longest  # with one line each, ROUGE-Lsum is ROUGE-L
        if "\n" in reference or "\n" in output:
            several = self.several(reference, output)
        return [*(self.ngrams(_ngrams(target, n), _ngrams(tokens, n)) for n in (1, 2)), longest, several]

    def scores(self, reference: str, output: str) -> dict[str, float | list[int]]:
        """Return each ROUGE of one output. Texts are split into sentences first."""
        values = self.all(*(lines_of_sentences(text, self.language) for text in (reference, output)))
        return {name: 100 * value for name, value in zip(self.declared, values, strict=True)}

    def signatures(self) -> dict[str, str]:
        """Name how texts are split into words, and for ROUGE-Lsum into sentences."""
        one = f"F1|{rouge_signature(self.language)}|rouge_score:{metadata.version('rouge_score')}"
        several = one.replace("|tokens", f"|sentences:lines, text.py's of {self.language}|tokens")
        return dict.fromkeys(self.declared, one) | {"rougeLsum": several}

    def best_sentence(self, document: str, reference: str) -> str:
        """Return the sentence of the document with the best ROUGE-1 + ROUGE-2 F1; of equals, the first."""
        target = {n: _ngrams(self.tokens(reference), n) for n in (1, 2)}
        best, chosen = -1.0, ""
        for sentence in sentences(document, self.language):
            tokens = self.tokens(sentence)
            score = sum(self.ngrams(grams, _ngrams(tokens, n)) for n, grams in target.items())
            if score > best:
                best, chosen = score, sentence
        return chosen


def lines_of_sentences(text: str, language: str) -> str:
    """Return a text with one sentence per line. The end of a line ends a sentence too, as in rouge_score."""
    return "\n".join(sentence for line in text.split("\n") for sentence in sentences(line, language))
