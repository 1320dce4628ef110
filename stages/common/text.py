"""Words, sentences and n-grams: the one place where text is cut into units.

Every rule here is ASCII-only on purpose: `str.isalpha` and `\\w` follow the Unicode database of the
running Python, and the harvest must have the same hash on every Python version.
"""

import re

WORD = re.compile(r"[A-Za-z0-9_]+|[^\x00-\x7f]+")
# A sentence ends at . ! or ? (and closing quotes or brackets) before white space and something that
# can start a sentence.
SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s+[\"'(\[]?[A-Z0-9`*:]|\s*$)")
ABBREVIATIONS = frozenset(
    "e.g. i.e. cf. vs. etc. fig. eq. ref. sec. no. al. approx. resp. mr. mrs. ms. dr. prof. st. jr. sr. "
    "u.s. u.k. inc. ltd. co. gen. sen. rep. gov. lt. col. sgt. rev. dept. jan. feb. mar. apr. jun. jul. "
    "aug. sep. sept. oct. nov. dec.".split()
)


def words(text: str) -> list[str]:
    """Lower-cased words of `text`: runs of ASCII letters, digits and underscores, or of non-ASCII."""
    return WORD.findall(text.lower())


def sentences(text: str) -> list[str]:
    """Split `text` into sentences, each with its white space folded to single spaces.

    A blank line also ends a sentence; abbreviations and single initials ("J. Smith") do not.
    """
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        paragraph = " ".join(paragraph.split())
        start = 0
        for match in SENTENCE_END.finditer(paragraph):
            last = paragraph[start : match.end()].rsplit(" ", 1)[-1].lstrip("\"'([")
            is_initial = re.fullmatch(r"[A-Z]\.", last) is not None
            if (last.lower() in ABBREVIATIONS or is_initial) and match.end() < len(paragraph):
                continue
            found.append(paragraph[start : match.end()].strip())
            start = match.end()
        if paragraph[start:].strip():
            found.append(paragraph[start:].strip())
    return found


def first_sentence(text: str) -> str:
    """The first sentence of `text`, or "" where there is none."""
    return next(iter(sentences(text)), "")


def without_heading(document: str) -> str:
    """The body of a harvested document: what follows its heading and a blank line."""
    return document.partition("\n\n")[2]


def body_of(document: str, source: str) -> str:
    """The text of a document without its heading; only documents of `docstrings` have one."""
    return without_heading(document) if source == "docstrings" else document


def novel_ngram_share(document: str, summary: str, n: int) -> float | None:
    """Share (0 to 1) of the distinct n-grams of `summary` that do not stand in `document`.

    None where the summary has fewer than n words. (Narayan et al. 2018, table 1.)
    """

    def grams(tokens: list[str]) -> set[tuple[str, ...]]:
        return set(zip(*(tokens[i:] for i in range(n)), strict=False))

    of_summary = grams(words(summary))
    if not of_summary:
        return None
    return len(of_summary - grams(words(document))) / len(of_summary)
