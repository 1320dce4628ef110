"""Compare an output with its article: what it copies, what it adds, which numbers and names are unsupported.

This needs no model and no reference. Words are those of `onesentence.core.text`, in any script, without case.
The time grows with the sum of the two lengths, not with their product.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise

import regex

from onesentence.core.text import CHARACTER, IN_WORD, fold, word_spans, words

MARKED_WORDS = 3  # a shorter span that the article has too is no sign of copying
# Matches 1,000 and 3.5 and 2015, but not the 32 of float32. Digits after a letter match if its script has no
# capitals. Arabic has its own separators (\u066b, \u066c), Chinese and Japanese a wide full stop (\uff0e).
NUMBER = regex.compile(
    r"(?<![\p{Lu}\p{Ll}\p{Lt}\p{N}_]\p{M}{0,4})(?<!\p{Nd}[.,\u066b\u066c\uff0e])"
    r"\p{Nd}+(?:[.,\u066b\u066c\uff0e]\p{Nd}+)*"
)
SEPARATORS = str.maketrans("\u066b\u066c\uff0e", ".,.")
NAME_WORD = regex.compile(rf"[\p{{L}}--{CHARACTER}]{IN_WORD}*+", regex.V1)
# Matches what precedes the first word of a sentence. A word after a colon may have a capital too.
SENTENCE_START = regex.compile(
    r"""(?:\A|[.:\u2026\p{Sentence_Terminal}]["')\]\p{Pf}\p{Pi}]*+\s|\n\s*\n)"""
    r"""[\s"'(\[\p{Ps}\p{Pi}\p{Pf}\u00a1\u00bf]*+"""
)

Span = tuple[int, int]  # of characters: start, end (exclusive)


def canonical_number(text: str) -> str:
    """Return a number in ASCII digits without thousands commas and closing zeros: 1,000.50 becomes 1000.5.

    Python's tables of characters are older than the package regex's: digits that they lack stay as they are.
    """
    if not text.isascii():
        digits = (c if c in ".," else str(unicodedata.decimal(c, c)) for c in text.translate(SEPARATORS))
        text = "".join(digits)
    text = re.sub(r",(?=\d{3}(?!\d))", "", text)
    if text.count(".") == 1 and "," not in text:
        text = text.rstrip("0").rstrip(".")
    return text


def number_spans(text: str) -> list[Span]:
    """Return the spans of numbers in digits of any script; number words ("two") do not count."""
    return [match.span() for match in NUMBER.finditer(text)]


def name_spans(text: str) -> list[Span]:
    """Return the spans of words that look like names: capitalised, and not just as the first of a sentence.

    The first word of a sentence counts only if it has a second capital (NATO, DataFrame). A single letter
    never counts. A script without capitals has no names.
    """
    starts = {match.end() for match in SENTENCE_START.finditer(text)}
    spans = []
    for match in NAME_WORD.finditer(text):
        word = match[0]
        if len(word) == 1 or not (word[0].isupper() or word[0].istitle()):
            continue
        if any(letter.isupper() for letter in word[1:]) or match.start() not in starts:
            spans.append(match.span())
    return spans


class SuffixAutomaton:
    """An index of every run of words of a text (Blumer et al. 1985). Time and memory grow with its length.

    A state is a set of runs that end at the same places. next: states by the following word. link: the state
    of the longest suffix that ends at more places. length: of the state's longest run. last: the last place.
    """

    def __init__(self, tokens: list[str]) -> None:
        self.next: list[dict[str, int]] = [{}]
        self.link, self.length, self.last = [-1], [0], [-1]
        whole = 0
        for place, token in enumerate(tokens):
            whole = self._extend(whole, place, token)
        # A run's suffix ends wherever the run does: pass the last place on, longest runs first.
        for state in sorted(range(1, len(self.link)), key=self.length.__getitem__, reverse=True):
            link = self.link[state]
            self.last[link] = max(self.last[link], self.last[state])

    def _add(self, following: dict[str, int], link: int, length: int, last: int) -> int:
        """Add a state and return its number."""
        self.next.append(following)
        self.link.append(link)
        self.length.append(length)
        self.last.append(last)
        return len(self.link) - 1

    def _extend(self, whole: int, place: int, token: str) -> int:
        """Add a token and return the state of the text with it. whole: the state of the text before."""
        new = self._add({}, 0, self.length[whole] + 1, place)
        state = whole
        while state >= 0 and token not in self.next[state]:
            self.next[state][token] = new
            state = self.link[state]
        if state < 0:
            return new
        other = self.next[state][token]
        if self.length[other] > self.length[state] + 1:  # its shorter runs now end here too: split them off
            split = self._add(dict(self.next[other]), self.link[other], self.length[state] + 1, -1)
            while state >= 0 and self.next[state].get(token) == other:
                self.next[state][token] = split
                state = self.link[state]
            self.link[other] = split
            other = split
        self.link[new] = other
        return new

    def matches(self, tokens: list[str]) -> Iterator[tuple[int, int]]:
        """Yield for each token (length, last place in the text of its end) of the longest run it ends."""
        state = length = 0
        for token in tokens:
            while state and token not in self.next[state]:
                state = self.link[state]
                length = self.length[state]
            if token in self.next[state]:
                state, length = self.next[state][token], length + 1
            yield length, self.last[state]


def grams(tokens: list[str], n: int) -> set[tuple[str, ...]]:
    """Return the distinct n-grams of a list of words."""
    return set(zip(*(tokens[i:] for i in range(n)), strict=False))


class Article:
    """A document, tokenized once for the outputs of every system.

    text: what an output can copy. source: what numbers and names may come from; by default `text`. With
    `text` the body of a document, it is the document with its heading.
    """

    def __init__(self, text: str, source: str | None = None) -> None:
        self.text = text
        self.source = text if source is None else source
        self.spans = word_spans(text)
        self.words = words(text)
        self._grams: dict[int, set[tuple[str, ...]]] = {}

    @cached_property
    def numbers(self) -> set[str]:
        """Canonical numbers of the source."""
        return {canonical_number(self.source[start:end]) for start, end in number_spans(self.source)}

    @cached_property
    def name_words(self) -> set[str]:
        """Words of the source that could be a name, without case."""
        return {fold(match[0]) for match in NAME_WORD.finditer(self.source)}

    @cached_property
    def _backwards(self) -> SuffixAutomaton:
        """The runs of the reversed article: the last end of a run there is its first start in the article."""
        return SuffixAutomaton(self.words[::-1])

    def novel_share(self, tokens: list[str], n: int) -> float | None:
        """Return the share (0 to 1) of distinct n-grams of `tokens` that the article lacks.

        None below n words. See Narayan et al. 2018, table 1.
        """
        if n not in self._grams:
            self._grams[n] = grams(self.words, n)
        distinct = grams(tokens, n)
        return len(distinct - self._grams[n]) / len(distinct) if distinct else None

    def longest_matches(self, tokens: list[str]) -> list[Span]:
        """Return, for each place in `tokens`, the longest run of words from it that the article has too.

        Each is (length, first place in the article), or (0, 0) if the article lacks the word.
        """
        end = len(self.words) - 1
        backwards = [
            (length, end - last if length else 0) for length, last in self._backwards.matches(tokens[::-1])
        ]
        return backwards[::-1]

    def fragments(self, matches: list[Span]) -> Iterator[tuple[int, int, int]]:
        """Yield the extractive fragments as (place in the output, length, place in the article), in words.

        matches: from `longest_matches`. Greedy from the left, each time the longest (Grusky et al. 2018,
        section 4.1).
        """
        place = 0
        while place < len(matches):
            length, at = matches[place]
            if length:
                yield place, length, at
            place += max(length, 1)

    def unsupported_numbers(self, text: str) -> list[Span]:
        """Return the spans of numbers in `text` that the article lacks."""
        return [s for s in number_spans(text) if canonical_number(text[slice(*s)]) not in self.numbers]

    def unsupported_names(self, text: str) -> list[Span]:
        """Return the spans of names in `text` whose word the article lacks in any case."""
        return [s for s in name_spans(text) if fold(text[slice(*s)]) not in self.name_words]


def extraction_scores(article: Article, text: str) -> dict[str, float | None]:
    """Return the abstractiveness and faithfulness of one output; None where undefined (empty, no number).

    novel_1 to novel_4, coverage, number_precision, name_precision: % (0 to 100). density: words. compression:
    article words per output word. verbatim: 100 if the whole output is one span of the article, else 0.
    longest_copy: words.
    """
    tokens = words(text)
    shares = {f"novel_{n}": article.novel_share(tokens, n) for n in (1, 2, 3, 4)}
    novelty = {name: None if share is None else 100 * share for name, share in shares.items()}
    matches = article.longest_matches(tokens)
    lengths = [length for _, length, _ in article.fragments(matches)]
    n = len(tokens)
    longest = max((length for length, _ in matches), default=0)
    numbers, names = number_spans(text), name_spans(text)
    return novelty | {
        "coverage": 100 * sum(lengths) / n if n else None,
        "density": sum(length**2 for length in lengths) / n if n else None,
        "compression": len(article.words) / n if n else None,
        "verbatim": 100.0 * (longest == n) if n else None,
        "longest_copy": float(longest) if n else None,
        "number_precision": _precision(numbers, article.unsupported_numbers(text)),
        "name_precision": _precision(names, article.unsupported_names(text)),
    }


def _precision(spans: list[Span], unsupported: list[Span]) -> float | None:
    """Return the share of spans that are supported, in %; None without spans."""
    return 100 * (1 - len(unsupported) / len(spans)) if spans else None


def form_scores(text: str, reference: str) -> dict[str, float | None]:
    """Return the length and repetition of one output; None where it is too short.

    words: their number. length_ratio: to the reference's words, of which at least one is counted. distinct_2:
    % of 2-grams. repeated_trigram: 100 if a 3-gram occurs twice, else 0.
    """
    tokens = words(text)
    pairs = len(tokens) - 1
    triples = len(tokens) - 2
    return {
        "words": float(len(tokens)),
        "length_ratio": len(tokens) / max(1, len(word_spans(reference))),
        "distinct_2": 100 * len(grams(tokens, 2)) / pairs if pairs > 0 else None,
        "repeated_trigram": 100.0 * (len(grams(tokens, 3)) < triples) if triples > 0 else None,
    }


def segments(text: str, marks: dict[str, list[Span]]) -> list[list[str]]:
    """Return `text` cut where a mark begins or ends: [[text, kinds joined by blanks], ...]."""
    # By place: the number of marks that begin there minus those that end there.
    changes: dict[int, Counter[str]] = {0: Counter(), len(text): Counter()}
    for kind, spans in marks.items():
        for start, end in spans:
            changes.setdefault(start, Counter())[kind] += 1
            changes.setdefault(end, Counter())[kind] -= 1
    pieces = []
    open_marks = dict.fromkeys(marks, 0)
    for start, end in pairwise(sorted(changes)):
        for kind, change in changes[start].items():
            open_marks[kind] += change
        pieces.append([text[start:end], " ".join(kind for kind, n in open_marks.items() if n)])
    return pieces


def output_marks(article: Article, text: str) -> tuple[dict[str, list[Span]], list[Span]]:
    """Return (marks in an output by kind, spans of the article that it copies), in characters.

    Kinds: copied (at least MARKED_WORDS words in a row that the article has too), number and name (that the
    article lacks).
    """
    spans = word_spans(text)
    matches = article.longest_matches(words(text))
    copied, sources = [], []
    for place, length, at in article.fragments(matches):
        if length >= MARKED_WORDS:
            copied.append((spans[place][0], spans[place + length - 1][1]))
            sources.append((article.spans[at][0], article.spans[at + length - 1][1]))
    marks = {
        "copied": copied,
        "number": article.unsupported_numbers(text),
        "name": article.unsupported_names(text),
    }
    return marks, sources
