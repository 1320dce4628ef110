"""The rules of a language in evaluation: words for ROUGE and METEOR, stemmer, sacrebleu's tokenizer.

English follows rouge_score: ASCII words with Porter stems. Every other language uses the words of text.py,
which keep the letters of every script, and nltk's Snowball stemmer for the language if one exists.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import metadata

import regex

from onesentence.core.errors import UserError
from onesentence.core.text import WORD, WORD_SIGNATURE, words

ENGLISH = "en"
UNDETERMINED = "und"  # ISO 639-2: a language without rules of its own
MAX_LOST_SHARE = 0.01  # of the references' letters; English text with accented names loses less
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
# sacrebleu's ja-mecab and ko-mecab need dictionaries from other packages. So Japanese is split into
# characters, and Korean, which writes blanks, is treated like any other language: `intl` separates the
# punctuation and symbols of every script.
BLEU_TOKENIZERS = {ENGLISH: "13a", "zh": "zh"} | dict.fromkeys("bo dz ii ja km lo my th".split(), "char")
# Letters that English lacks, by language. An error suggests the language with the most matches; the first
# one wins a tie.
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
SCRIPTS = {  # for each script, the language with the most text
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
KANA_SHARE = 0.05  # kana per Han character above which a text is Japanese, not Chinese
LETTER = regex.compile(r"[\p{L}\p{M}]")
ROUGE_WORD = regex.compile(r"[A-Za-z0-9]+")


class Stemmer:
    """nltk's stemmer for a language, with a cache: stemming takes most of ROUGE's and METEOR's time.

    Words of a language without a stemmer stay as they are. nltk's METEOR and rouge_score call `stem`.
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

            stemmer = SnowballStemmer(STEMMERS[language])
            if language != "ar":
                snowball: Callable[[str], str] = stemmer.stem
                return snowball

            def arabic(word: str) -> str:
                # nltk keeps this flag of an earlier word: stems would depend on the order of the words.
                stemmer.stemmer.suffixes_verb_step1_success = False
                return str(stemmer.stem(word))

            return arabic
        return str


def rouge_tokens(text: str, language: str, stemmer: Stemmer) -> list[str]:
    """Stemmed words of a text for ROUGE; for English, those of rouge_score."""
    if language == ENGLISH:
        from rouge_score import tokenize

        tokens: list[str] = tokenize.tokenize(text, stemmer)
        return tokens
    return [stemmer.stem(word) for word in words(text)]


def rouge_signature(language: str) -> str:
    """The language, stemmer and word rule of `rouge_tokens`, as a signature for the results."""
    if language == ENGLISH:
        return f"lang:{ENGLISH}|stemmer:yes|tokens:rouge_score"
    return f"lang:{language}|stemmer:{stemmer_signature(language)}|{WORD_SIGNATURE}"


def stemmer_signature(language: str) -> str:
    """Name and version of a language's Snowball stemmer, or `no`."""
    if language not in STEMMERS:
        return "no"
    return f"snowball {STEMMERS[language]} (nltk {metadata.version('nltk')})"


def bleu_tokenizer(language: str) -> str:
    """The name of sacrebleu's tokenizer for a language."""
    return BLEU_TOKENIZERS.get(language, "intl")


def lost_letters(texts: Iterable[str], language: str) -> tuple[Counter[str], int]:
    """(counts of the letters and marks that no word of ROUGE keeps, number of all letters)."""
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
    """The language that these letters suggest, by script or accents; `und` if they suggest none."""
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


def require_language(references: Iterable[str], language: str) -> None:
    """Refuse references that lose more than 1 % of their letters under the word rule of a language."""
    lost, total = lost_letters(references, language)
    if lost.total() <= MAX_LOST_SHARE * total:
        return
    examples = ", ".join(repr(letter) for letter, _ in lost.most_common(SHOWN_LETTERS))
    raise UserError(
        f"evaluate.language: {language!r} does not fit the references: its words lose "
        f"{lost.total() / total:.1%} of their letters, such as {examples} (expected at most "
        f"{MAX_LOST_SHARE:.0%}); set evaluate.language to the language of the references, such as "
        f"{likely_language(lost)!r}"
    )
