"""An output against its article: what it copies, what it adds, and which numbers and names have no source.

No model and no reference is needed. Words are those of `stages.common.text.WORD`, compared in lower case.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise

from stages.common.text import WORD

MARKED_WORDS = 3  # a shorter span that also stands in the article is no sign of copying
NUMBER = re.compile(r"(?<!\w)(?<!\d[.,])\d+(?:[.,]\d+)*")  # 1,000 or 3.5 or 2015, not the 32 of float32
NAME_WORD = re.compile(r"[^\W\d_]\w*")
SENTENCE_START = re.compile(r"(?:^|[.!?:][\"')\]’”]*\s|\n\s*\n)[\s\"'(\[‘“]*$")

Span = tuple[int, int]  # characters from, to (exclusive)


def word_spans(text: str) -> list[Span]:
    """Where the words of a text stand."""
    return [match.span() for match in WORD.finditer(text)]


def canonical_number(text: str) -> str:
    """A number without thousands commas and closing zeros: 1,000.50 and 1000.5 are one number."""
    text = re.sub(r",(?=\d{3}(?!\d))", "", text)
    if text.count(".") == 1 and "," not in text:
        text = text.rstrip("0").rstrip(".")
    return text


def number_spans(text: str) -> list[Span]:
    """Where numbers in digits stand; a number word ("two") is none."""
    return [match.span() for match in NUMBER.finditer(text)]


def name_spans(text: str) -> list[Span]:
    """Where capitalised words stand that are capitalised by themselves.

    The first word of a sentence counts only where it has a second capital (NATO, DataFrame); a single
    letter never does.
    """
    found = []
    for match in NAME_WORD.finditer(text):
        word = match[0]
        if len(word) == 1 or not word[0].isupper():
            continue
        if any(letter.isupper() for letter in word[1:]) or not SENTENCE_START.search(text[: match.start()]):
            found.append(match.span())
    return found


def grams(words: list[str], n: int) -> set[tuple[str, ...]]:
    """The distinct n-grams of a list of words."""
    return set(zip(*(words[i:] for i in range(n)), strict=False))


class Article:
    """A document, cut up once for the outputs of every system.

    text: what can be copied; source: all that numbers and names may come from (the document with its
    heading, where `text` is its body).
    """

    def __init__(self, text: str, source: str | None = None) -> None:
        self.text = text
        self.source = text if source is None else source
        self.spans = word_spans(text)
        self.words = [text[start:end].lower() for start, end in self.spans]
        self._places = defaultdict(list)
        for place, word in enumerate(self.words):
            self._places[word].append(place)
        self._grams: dict[int, set] = {}

    @cached_property
    def numbers(self) -> set[str]:
        """Canonical numbers of the source."""
        return {canonical_number(self.source[start:end]) for start, end in number_spans(self.source)}

    @cached_property
    def name_words(self) -> set[str]:
        """Every word of the source that could be a name, in lower case whatever its case there."""
        return {match[0].lower() for match in NAME_WORD.finditer(self.source)}

    def novel_share(self, words: list[str], n: int) -> float | None:
        """Share (0 to 1) of the distinct n-grams of `words` that the article lacks; None below n words.

        Narayan et al. 2018, table 1.
        """
        if n not in self._grams:
            self._grams[n] = grams(self.words, n)
        found = grams(words, n)
        return len(found - self._grams[n]) / len(found) if found else None

    def longest_matches(self, words: list[str]) -> list[Span]:
        """For each place in `words`: (length, place in the article) of the longest run of words from there
        on that the article has too; (0, 0) where it lacks the word."""
        found = []
        for start, word in enumerate(words):
            best, at = 0, 0
            for place in self._places.get(word, ()):
                length, most = 1, min(len(words) - start, len(self.words) - place)
                while length < most and words[start + length] == self.words[place + length]:
                    length += 1
                if length > best:
                    best, at = length, place
            found.append((best, at))
        return found

    def fragments(self, matches: list[Span]) -> Iterator[tuple[int, int, int]]:
        """(place in the output, length, place in the article) of the extractive fragments, in words.

        matches: of `longest_matches`. Greedy from the left, each time the longest
        (Grusky et al. 2018, section 4.1).
        """
        place = 0
        while place < len(matches):
            length, at = matches[place]
            if length:
                yield place, length, at
            place += max(length, 1)

    def unsupported_numbers(self, text: str) -> list[Span]:
        """Numbers in `text` that the article lacks."""
        return [s for s in number_spans(text) if canonical_number(text[slice(*s)]) not in self.numbers]

    def unsupported_names(self, text: str) -> list[Span]:
        """Names in `text` whose word the article lacks, in any case."""
        return [s for s in name_spans(text) if text[slice(*s)].lower() not in self.name_words]


def extraction_scores(article: Article, text: str) -> dict[str, float | None]:
    """Abstractiveness and faithfulness of one output; None where undefined (an empty output, no number).

    novel_1 to novel_4 and coverage, number_precision, name_precision: % (0 to 100). density: words.
    compression: article words per output word. verbatim: 100 where the whole output is one span of the
    article, else 0. longest_copy: words.
    """
    words = [text[start:end].lower() for start, end in word_spans(text)]
    shares = {f"novel_{n}": article.novel_share(words, n) for n in (1, 2, 3, 4)}
    found = {name: None if share is None else 100 * share for name, share in shares.items()}
    matches = article.longest_matches(words)
    lengths = [length for _, length, _ in article.fragments(matches)]
    n = len(words)
    longest = max((length for length, _ in matches), default=0)
    numbers, names = number_spans(text), name_spans(text)
    return found | {
        "coverage": 100 * sum(lengths) / n if n else None,
        "density": sum(length**2 for length in lengths) / n if n else None,
        "compression": len(article.words) / n if n else None,
        "verbatim": 100.0 * (longest == n) if n else None,
        "longest_copy": float(longest) if n else None,
        "number_precision": _precision(numbers, article.unsupported_numbers(text)),
        "name_precision": _precision(names, article.unsupported_names(text)),
    }


def _precision(spans: list[Span], unsupported: list[Span]) -> float | None:
    return 100 * (1 - len(unsupported) / len(spans)) if spans else None


def form_scores(text: str, reference: str) -> dict[str, float | None]:
    """Length and repetition of one output: words, length_ratio (to the reference's words), distinct_2 and
    repeated_trigram (%); None where the output is too short to have any."""
    words = [text[start:end].lower() for start, end in word_spans(text)]
    pairs = len(words) - 1
    triples = len(words) - 2
    return {
        "words": float(len(words)),
        "length_ratio": len(words) / max(1, len(word_spans(reference))),
        "distinct_2": 100 * len(grams(words, 2)) / pairs if pairs > 0 else None,
        "repeated_trigram": 100.0 * (len(grams(words, 3)) < triples) if triples > 0 else None,
    }


def segments(text: str, marks: dict[str, list[Span]]) -> list[list[str]]:
    """`text` cut where a mark begins or ends: [[text, kinds joined by blanks], ...], for a page to show."""
    edges = sorted({0, len(text), *(edge for spans in marks.values() for span in spans for edge in span)})
    found = []
    for start, end in pairwise(edges):
        kinds = [k for k, spans in marks.items() if any(a <= start and end <= b for a, b in spans)]
        found.append([text[start:end], " ".join(kinds)])
    return found


def output_marks(article: Article, text: str) -> tuple[dict[str, list[Span]], list[Span]]:
    """(marks of an output by kind, what of the article it copies): spans of characters.

    Kinds: copied (MARKED_WORDS words or more that stand in the article in this order), number and name
    (not in the article).
    """
    spans = word_spans(text)
    matches = article.longest_matches([text[start:end].lower() for start, end in spans])
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
