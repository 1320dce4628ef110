"""Words, sentences and n-grams of text in any script. Only this module splits text into units.

Character properties come from the pinned `regex` package, so they do not depend on the Python version. Words
of ASCII text are `[A-Za-z0-9_]+`. The docstrings source has its own rule, in docstrings.py.
"""

import re
import unicodedata
from functools import lru_cache

import regex

# Scripts that write no blanks between words: each of their characters counts as a word. Tibetan is not one of
# them, because its mark between syllables separates. Unicode assigns the sound marks of kana to no script, so
# they are listed here.
NO_BLANKS = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\u30fc\uff70\p{Bopomofo}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    r"\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Javanese}\p{Balinese}"
)
CHARACTER = rf"[[{NO_BLANKS}]&&[\p{{L}}\p{{Nl}}\p{{No}}]]"
# Words of Persian and of Indic scripts contain the joiners \u200c and \u200d. Soft hyphens and word joiners
# cut no word (rule WB4 of Unicode's word boundaries).
IN_WORD = rf"[[\p{{L}}\p{{M}}\p{{N}}_\u00ad\u200c\u200d\u2060]--{CHARACTER}]"
PICTURE = r"[\p{Extended_Pictographic}--[\u00a9\u00ae\u2122]]"  # without (c), (r) and tm
WORD = regex.compile(
    rf"[[\p{{L}}\p{{N}}_]--{CHARACTER}]{IN_WORD}*+"
    rf"|{CHARACTER}[\p{{M}}\uff9e\uff9f]*+"
    rf"|{PICTURE}[\ufe0f\p{{EMod}}]*+(?:\u200d{PICTURE}[\ufe0f\p{{EMod}}]*+)*+|\p{{RI}}{{1,2}}",
    regex.V1,
)
ASCII_WORD = re.compile(r"[A-Za-z0-9_]+")
UNSEEN = regex.compile(r"[\p{Cf}\ufe00-\ufe0f]")  # joiners, soft hyphens, direction marks, variants of a form
WORD_SIGNATURE = "tokens:Unicode words, characters where a script has no blanks|case:fold|form:NFKC"

# Marks that can also mean something else (3.5, e.g.): they end a sentence only before white space and the
# start of another one ...
WEAK = r".!?\u2024\u2026\u203c\u203d\u2047-\u2049\ufe52\uff0e"
# ... and marks that always end one. \u104a is Myanmar's comma. Tibetan's marks are added because Unicode's
# property STerm lacks them.
STRONG = rf"[[\p{{Sentence_Terminal}}\u0f0d\u0f0e]--[{WEAK}\u104a]]"
# A closing quote may look like an opening one (German) or follow a blank (French).
CLOSING = r"""(?:["')\]]|[[\p{Pe}\p{Pf}]--[\x00-\x7f]]|\p{Pi}(?![\p{L}\p{N}])|\ [»›](?=\ |$))"""
END = regex.compile(rf"[{STRONG}{WEAK}]++{CLOSING}*+", regex.V1)
# The Greek question mark looks like a semicolon, and Greek keyboards type an ASCII semicolon for it.
GREEK_END = regex.compile(rf"[{STRONG}{WEAK};]++{CLOSING}*+", regex.V1)
HAS_STRONG = regex.compile(STRONG, regex.V1)
OPENING = r"""["'(\[]?(?:[[\p{Ps}\p{Pi}\p{Pf}\u00a1\u00bf\u2012-\u2015]--[\x00-\x7f]]\s?)*+"""
START = regex.compile(rf"\s++{OPENING}(?:[\p{{Lu}}\p{{Lt}}\p{{Lo}}\p{{N}}`*:]|{PICTURE}|\p{{RI}})", regex.V1)
# After these, a quoted sentence goes on as part of another one: "...?", he asked; in Japanese, before the
# particle of quotation.
GOES_ON = regex.compile(r"\s?[,;:\u060c\u061b\u3001\uff0c\uff1b\uff1a]|(?<=\p{P}{2})(?:と|って)", regex.V1)
KANA_OR_HAN = r"[\p{Han}\p{Hiragana}\p{Katakana}\u30fc]"
BETWEEN_HAN = regex.compile(
    rf"(?<={KANA_OR_HAN})(?:\.|[!?\uff0e]+){CLOSING}*+{OPENING}{KANA_OR_HAN}", regex.V1
)
NO_FULL_STOP = regex.compile(r"(?<=[\p{Thai}\p{Lao}])\.", regex.V1)  # there, a full stop only abbreviates
INITIAL = regex.compile(r"(?:[\p{Lu}\p{Lt}]|(?=\p{L})[\p{Arabic}\p{Hebrew}])\p{M}*\.", regex.V1)
ORDINAL = regex.compile(r"\p{Nd}{1,2}\.")
BEFORE_WORD = "\"'([\u00a1\u00ab\u00bb\u00bf\u2018\u2019\u201a\u201c\u201d\u201e\u2039\u203a"
LINES = frozenset(("lo", "th"))  # Lao and Thai do not mark the end of a sentence: each line counts as one

# By language, in lower case, each with its full stop. A language without a list has only single initials.
ABBREVIATIONS = {
    language: frozenset(text.split())
    for language, text in {
        "en": "e.g. i.e. cf. vs. etc. fig. eq. ref. sec. no. al. approx. resp. mr. mrs. ms. dr. prof. st. "
        "jr. sr. u.s. u.k. inc. ltd. co. gen. sen. rep. gov. lt. col. sgt. rev. dept. jan. feb. mar. apr. "
        "jun. jul. aug. sep. sept. oct. nov. dec.",
        "cs": "atd. apod. č. dr. ing. mgr. mj. např. prof. resp. str. sv. tj. tzv. ul.",
        "da": "bl.a. ca. dr. dvs. f.eks. fr. hr. kl. mia. mio. nr. osv. pga. prof. st.",
        "de": "a. abs. art. bd. bzw. ca. d. d.h. dr. evtl. geb. gest. ggf. hl. hrsg. i. inkl. jh. max. min. "
        "mio. mrd. nr. o. prof. s. st. str. u. u.a. usw. v. vgl. z. z.b.",
        "el": "αρ. δηλ. δρ. κ. κ.κ. κ.λπ. κα. κλπ. π.χ. σελ.",
        "es": "art. d. dr. dra. dña. ee. ej. etc. núm. p. pág. prof. sr. sra. srta. ud. uds. uu.",
        "fi": "esim. klo. ks. milj. mm. mrd. n. prof. ym. yms.",
        "fr": "art. av. boul. cf. dr. env. etc. ex. mlle. mm. mme. p. pr. st. ste. vol.",
        "hi": "डॉ. प्रो. श्री. श्रीमती.",
        "hu": "dr. ill. kb. pl. prof. stb. sz. u. ui. ún.",
        "id": "dll. dr. dsb. dst. hlm. jl. no. prof.",
        "it": "art. avv. dott. ecc. es. ing. on. pag. prof. s. sig. sig.ra ss.",
        "nl": "bijv. blz. bv. ca. d.w.z. dhr. dr. enz. ing. ir. jl. m.b.t. mevr. mr. nr. o.a. prof. st.",
        "no": "bl.a. ca. dr. dvs. f.eks. kl. mill. mrd. nr. osv. prof. st.",
        "pl": "al. dr. gen. godz. inż. itd. itp. ks. m.in. mgr. np. nr. ok. płk. prof. r. str. św. "
        "tj. tzw. ul. w.",
        "pt": "art. av. dr. dra. etc. ex. exmo. n. pág. prof. sr. sra.",
        "ro": "art. dl. dna. dr. etc. nr. prof. str.",
        "ru": "акад. в. вв. г. гг. д. др. е. им. млн. млрд. н.э. п. проф. р. руб. св. см. стр. т. т.д. "
        "т.е. т.п. тыс. ул.",
        "sv": "bl.a. ca. dr. dvs. kl. m.m. nr. osv. prof. s.k. st. t.ex.",
        "tr": "av. bkz. doç. dr. no. prof. sn. vb. vs. yy. örn.",
        "uk": "акад. вул. грн. д. див. е. ім. м. млн. млрд. п. проф. р. рр. св. ст. т. тис.",
    }.items()
}
ABBREVIATIONS["nb"] = ABBREVIATIONS["nn"] = ABBREVIATIONS["no"]
# Languages that write "3rd" as "3.", where the full stop ends no sentence.
ORDINALS = frozenset("bs cs da de et fi fo hr hu is lb lv nb nn no pl sk sl sr tr".split())


@lru_cache(maxsize=200_000)
def fold(word: str) -> str:
    """A word in one canonical form: case, composition, width and compatibility forms make no difference."""
    if word.isascii():
        return word.lower()
    folded = unicodedata.normalize("NFKC", UNSEEN.sub("", word)).casefold()
    # İ in lower case is i with a combining dot, which would make it another word.
    return unicodedata.normalize("NFKC", folded).replace("i\u0307", "i")


def word_spans(text: str) -> list[tuple[int, int]]:
    """The places of the words in `text`: (first character, last character + 1)."""
    return [match.span() for match in (ASCII_WORD if text.isascii() else WORD).finditer(text)]


def has_word(text: str) -> bool:
    """Whether `words` finds one."""
    return (ASCII_WORD if text.isascii() else WORD).search(text) is not None


def percent(share: float) -> str:
    """A share as a percentage with the digits that it has: 0.95 is 95%, 0.999 is 99.9%."""
    return f"{100 * share:.6g}%"


def words(text: str) -> list[str]:
    """The folded words of `text`.

    A word is a run of letters, marks, digits and underscores, one character of a script without blanks, or
    an emoji.
    """
    if text.isascii():
        return ASCII_WORD.findall(text.lower())
    return [fold(word) for word in WORD.findall(text)]


def _ends_sentence(paragraph: str, start: int, end: regex.Match[str], language: str) -> bool:
    """Whether the sentence that begins at `start` ends with `end`, a match of END."""
    if end.end() == len(paragraph):
        return True
    if HAS_STRONG.search(end[0]):
        return GOES_ON.match(paragraph, end.end()) is None
    if BETWEEN_HAN.match(paragraph, end.start()):
        return True
    if not START.match(paragraph, end.end()) or NO_FULL_STOP.match(paragraph, end.start()):
        return False
    last = paragraph[max(start, paragraph.rfind(" ", start, end.end()) + 1) : end.end()].lstrip(BEFORE_WORD)
    return not (
        last.lower() in ABBREVIATIONS.get(language, ())
        or INITIAL.fullmatch(last)
        or (language in ORDINALS and ORDINAL.fullmatch(last))
    )


def sentences(text: str, language: str) -> list[str]:
    """The sentences of `text`, with white space reduced to single blanks.

    language: its ISO 639 code. A blank line also ends a sentence. The abbreviations of the language and
    single initials ("J. Smith") do not.
    """
    result = []
    for paragraph in re.split(r"\n" if language in LINES else r"\n\s*\n|\u2029", text):
        paragraph = " ".join(paragraph.split())
        start = 0
        for end in (GREEK_END if language == "el" else END).finditer(paragraph):
            if _ends_sentence(paragraph, start, end, language):
                result.append(paragraph[start : end.end()].strip())
                start = end.end()
        if paragraph[start:].strip():
            result.append(paragraph[start:].strip())
    return result


def first_sentence(text: str, language: str) -> str:
    """The first sentence of `text`; "" if it has none."""
    return next(iter(sentences(text, language)), "")


def with_heading(heading: str, document: str) -> str:
    """A whole article: heading, blank line and text; the text alone if the heading is empty."""
    return f"{heading}\n\n{document}" if heading else document


def novel_ngram_share(document: str, summary: str, n: int) -> float | None:
    """Share (0 to 1) of the distinct n-grams of `summary` that do not occur in `document`.

    None if the summary has fewer than n words. (Narayan et al. 2018, table 1.)
    """

    def grams(tokens: list[str]) -> set[tuple[str, ...]]:
        return set(zip(*(tokens[i:] for i in range(n)), strict=False))

    summary_grams = grams(words(summary))
    if not summary_grams:
        return None
    return len(summary_grams - grams(words(document))) / len(summary_grams)
