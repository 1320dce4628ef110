"""The rules for values in params.yaml and studies.yaml: a test, and the words for the error."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from onesentence.core.prompts import CHAT, SLOT, TEMPLATES, is_template

# ISO 639-1, and ISO 639-2's `und` for any other language.
LANGUAGES = tuple(
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de "
    "dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id "
    "ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu "
    "lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu "
    "rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr "
    "ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu und".split()
)


@dataclass(frozen=True)
class Key:
    """The rule for a value. expected: the error's words; accepts: the test; choices: the legal texts."""

    expected: str
    accepts: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


LARGEST = 10**12  # of a count: more is a slip of the key, and libraries fail on it, each in its own words


def whole(low: int, nullable: bool = False, or_null: str = "", high: int | None = None) -> Key:
    """A whole number from low to high, or to LARGEST where no high is given; True and 3.0 are refused."""
    text = (
        f"a whole number of at least {low} (and at most {LARGEST:,})"
        if high is None
        else f"a whole number from {low} to {high:,}"
    )
    highest = LARGEST if high is None else high
    return Key(
        text + (f", or null ({or_null})" if nullable else ""),
        lambda v: (nullable and v is None) or (type(v) is int and low <= v <= highest),
    )


SEED = whole(0, high=2**32 - 1)  # as NumPy's and torch's generators take it


def number(low: float, high: float, low_open: bool = False, high_open: bool = False) -> Key:
    """A number between low and high."""
    text = f"a number {'above' if low_open else 'from'} {low:g} {'to below' if high_open else 'to'} {high:g}"
    return Key(
        text,
        lambda v: (
            type(v) in (int, float)
            and (low < v if low_open else low <= v)
            and (v < high if high_open else v <= high)
        ),
    )


def choice(*values: str, or_null: str | None = None) -> Key:
    """One of the texts `values`, or null where `or_null` says what that means."""
    rest = "" if or_null is None else f", or null ({or_null})"
    return Key(
        f"one of {', '.join(values)}{rest}",
        lambda v: (isinstance(v, str) and v in values) or (v is None and or_null is not None),
        values,
    )


TRUTH = Key("true or false", lambda v: isinstance(v, bool))
SHA256 = Key(
    "a SHA-256 in quotes (64 hexadecimal digits)",
    lambda v: isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v) is not None,
)
SHA256_OR_NULL = Key(f"{SHA256.expected}, or null (not known yet)", lambda v: v is None or SHA256.accepts(v))
MODEL_SHA256 = Key(f"{SHA256.expected}, or null (where no model is named)", SHA256_OR_NULL.accepts)
LANGUAGE = Key(
    f"a language's code of ISO 639 (und = any other), one of {', '.join(LANGUAGES)}",
    lambda v: isinstance(v, str) and v in LANGUAGES,
)
TEXT = Key("a text that is not empty", lambda v: isinstance(v, str) and v.strip() != "")
TEXT_OR_NULL = Key("a text or null", lambda v: v is None or TEXT.accepts(v))
TEMPLATE = Key(
    f"one of {', '.join(TEMPLATES)}, {CHAT} (the base's own), or a text that holds {SLOT} once",
    is_template,
    (*TEMPLATES, CHAT),
)
NAMES = Key(
    "a list of at least one module name, none twice",
    lambda v: (
        isinstance(v, list) and len(v) > 0 and all(TEXT.accepts(name) for name in v) and len(set(v)) == len(v)
    ),
)
