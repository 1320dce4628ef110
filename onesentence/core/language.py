"""A language for evaluation: its words for ROUGE and METEOR, its stemmer, sacrebleu's tokenizer for it.

English is rouge_score's: ASCII words with Porter stems. Any other language has the words of text.py, which
keep the letters of every script, with the Snowball stemmer that nltk has for it, or none.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from importlib import metadata

import regex

from onesentence.core.errors import UserError
from onesentence.core.text import WORD, WORD_SIGNATURE, words

ENGLISH = "en"
UNDETERMINED = "und"  # ISO 639-2: any language without rules of its own
MAX_LOST_SHARE = 0.01  # of the references' letters: English text with accented names loses less
SHOWN_LETTERS = 3
STEMMERS = {  # names of nltk's Snowball stemmers
    "ar": "arabic",
    "da": "danish",
    "nl": "dutch",
    "fi": "finnish",
    "fr": "french",
    "de": "german",
    "hu": "hungarian",
    "it": "italian",
    "nb": "norwegian",
    "nn": "norwegian",
    "no": "norwegian",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "es": "spanish",
    "sv": "swedish",
}
# sacrebleu's ja-mecab and ko-mecab need dictionaries of other packages: Japanese is cut into characters,
# Korean, which has blanks, as any other language. `intl` cuts off punctuation and symbols of every script.
BLEU_TOKENIZERS = {ENGLISH: "13a", "zh": "zh"} | dict.fromkeys("bo dz ii ja km lo my th".split(), "char")
# Letters that English lacks, by which a language is named in an error; of equally likely ones the first.
LETTERS = {
    "de": "äöüß",
    "fr": "àâæçèéêëîïôùûüœ",
    "es": "áéíñóúü",
    "pt": "àáâãçéêíóôõú",
    "it": "àèéìòù",
    "sv": "åäöé",
    "da": "åæøé",
    "fi": "äö",
    "pl": "ąćęłńóśźż",
    "cs": "áčďéěíňóřšťúůýž",
    "tr": "çğıöşü",
    "ro": "ăâîșțşţ",
    "hu": "áéíóöőúüű",
    "vi": "ăâđêôơư",
}
SCRIPTS = {  # one language of each, the one with the most text
    "ja": r"[\p{Hiragana}\p{Katakana}]",
    "zh": r"\p{Han}",
    "ko": r"\p{Hangul}",
    "th": r"\p{Thai}",
    "lo": r"\p{Lao}",
    "km": r"\p{Khmer}",
    "my": r"\p{Myanmar}",
    "ar": r"\p{Arabic}",
    "he": r"\p{Hebrew}",
    "hi": r"\p{Devanagari}",
    "bn": r"\p{Bengali}",
    "ta": r"\p{Tamil}",
    "te": r"\p{Telugu}",
    "gu": r"\p{Gujarati}",
    "pa": r"\p{Gurmukhi}",
    "ru": r"\p{Cyrillic}",
    "el": r"\p{Greek}",
    "ka": r"\p{Georgian}",
    "hy": r"\p{Armenian}",
    "am": r"\p{Ethiopic}",
}
KANA_SHARE = 0.05  # of the Han characters beside it, from which a text is Japanese
LETTER = regex.compile(r"[\p{L}\p{M}]")
ROUGE_WORD = regex.compile(r"[A-Za-z0-9]+")


class Stemmer:
    """nltk's stemmer of a language, each word stemmed once: that is most of ROUGE's and METEOR's time.

    A language without a stemmer keeps its words. `stem` is what nltk's METEOR and rouge_score call.
    """

    def __init__(self, language: str) -> None:
        self.stem = lru_cache(maxsize=200_000)(self._of(language))

    @staticmethod
    def _of(language: str) -> Callable[[str], str]:
        if language == ENGLISH:
            from nltk.stem.porter import PorterStemmer

            porter: Callable[[str], str] = PorterStemmer().stem
            return porter
        if language in STEMMERS:
            from nltk.stem.snowball import SnowballStemmer

            snowball: Callable[[str], str] = SnowballStemmer(STEMMERS[language]).stem
            return snowball
        return str


def rouge_tokens(text: str, language: str, stemmer: Stemmer) -> list[str]:
    """Words of a text for ROUGE, stemmed: rouge_score's own for English."""
    if language == ENGLISH:
        from rouge_score import tokenize

        tokens: list[str] = tokenize.tokenize(text, stemmer)
        return tokens
    return [stemmer.stem(word) for word in words(text)]


def rouge_signature(language: str) -> str:
    """Language, stemmer and words of `rouge_tokens`."""
    if language == ENGLISH:
        return f"lang:{ENGLISH}|stemmer:yes|tokens:rouge_score"
    return f"lang:{language}|stemmer:{stemmer_signature(language)}|{WORD_SIGNATURE}"


def stemmer_signature(language: str) -> str:
    """Name and version of the Snowball stemmer of a language, or `no`."""
    if language not in STEMMERS:
        return "no"
    return f"snowball {STEMMERS[language]} (nltk {metadata.version('nltk')})"


def bleu_tokenizer(language: str) -> str:
    """The name of sacrebleu's tokenizer."""
    return BLEU_TOKENIZERS.get(language, "intl")


def lost_letters(texts: list[str], language: str) -> tuple[Counter[str], int]:
    """(letters and marks that no word of ROUGE keeps, with their counts; how many letters there are)."""
    lost: Counter[str] = Counter()
    total = 0
    for text in texts:
        if text.isascii():
            total += sum(map(str.isalpha, text))
            continue
        text = unicodedata.normalize("NFC", text)
        total += len(LETTER.findall(text))
        lost.update(LETTER.findall((ROUGE_WORD if language == ENGLISH else WORD).sub("", text)))
    return lost, total


def likely_language(letters: Counter[str]) -> str:
    """A language that has these letters, by its script or its accents; `und` where none is likely."""
    scripts = {
        code: sum(count for letter, count in letters.items() if regex.match(script, letter))
        for code, script in SCRIPTS.items()
    }
    code = max(scripts, key=scripts.__getitem__)
    if scripts[code]:
        return "ja" if code == "zh" and scripts["ja"] > KANA_SHARE * scripts["zh"] else code
    own = {
        code: sum(letters[letter] + letters[letter.upper()] for letter in known)
        for code, known in LETTERS.items()
    }
    code = max(own, key=own.__getitem__)
    return code if own[code] else UNDETERMINED


def require_language(references: list[str], language: str) -> None:
    """Refuse references of which the words of a language keep less than 99 % of the letters."""
    lost, total = lost_letters(references, language)
    if lost.total() <= MAX_LOST_SHARE * total:
        return
    shown = ", ".join(repr(letter) for letter, _ in lost.most_common(SHOWN_LETTERS))
    raise UserError(
        f"evaluate.language: {language!r} does not fit the references: its words lose "
        f"{lost.total() / total:.1%} of their letters (such as {shown}), at most {MAX_LOST_SHARE:.0%} may be "
        f"lost; set evaluate.language to the language of the references, such as {likely_language(lost)!r}"
    )
