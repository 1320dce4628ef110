"""Makes text from outside safe to show: on a terminal, in Markdown, in a CSV file; and hides secrets.

Articles, outputs of a model, ids and names of files come from anywhere. A character in them must not move the
cursor, turn a line around, become markup or a formula. What is stored (parquet, JSON) stays as it is: only
what is shown is escaped.
"""

import os
from collections.abc import Mapping

import regex

# Characters that steer a terminal, turn text around or are not seen: controls (ESC among them), halves of a
# surrogate pair, marks of direction, separators of lines, annotations, invisible operators and tags. The
# joiners \u200c and \u200d stay: words of Persian and of Indic scripts, and emoji, contain them.
UNSAFE = regex.compile(
    r"[\p{Cc}\p{Cs}\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
LINES = "\n\t"  # what a text of several lines may contain
FORMULA = ("=", "+", "-", "@", "\t", "\n")  # a spreadsheet computes a cell that begins with one
MARKUP = regex.compile(r"([\\`*_{}\[\]<>#|~$&@!])")
# In an address: user:PASSWORD@, a token in the place of the user, keys among the values of the query.
PASSWORD = regex.compile(r"(?<=://)([^\s/@?#'\":]*):[^\s/?#'\"]+(?=@)")
TOKEN = regex.compile(r"(?<=https?://)[^\s/@?#'\":]{20,}(?=@)")
QUERY = regex.compile(
    r"(?i)([?&](?:[\w.-]*(?:key|token|secret|signature|password|credential)[\w.-]*)=)[^\s&#'\"]+"
)
# Names of variables of the environment whose values are secrets.
SECRET_NAME = regex.compile(r"(?i)(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIALS)")
SHORTEST_SECRET = 8  # characters; a shorter value may be part of any word
HIDDEN = "***"


def _code_point(match: regex.Match[str]) -> str:
    number = ord(match[0])
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def visible(text: str, keep: str = "") -> str:
    """`text` with a \\u escape in place of each character of UNSAFE, except those of `keep` (LINES)."""
    return UNSAFE.sub(lambda match: match[0] if match[0] in keep else _code_point(match), text)


def on_one_line(text: str) -> str:
    """`text` on one line, each run of white space one blank, and nothing in it that steers a terminal."""
    return visible(" ".join(text.split()))


def markdown_text(text: str) -> str:
    """`text` on one line of Markdown, where nothing in it is markup."""
    return MARKUP.sub(r"\\\1", on_one_line(text))


def markdown_cell(text: str) -> str:
    """`text` in a cell of a Markdown table; its letters stay as they are."""
    return on_one_line(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def markdown_code(text: str, longest: int | None = None) -> str:
    """`text` as Markdown code: no link, image, mention or heading in it takes effect, and no cell ends.

    longest: characters, after which it is cut; None: no limit.
    """
    text = on_one_line(text).replace("|", "\u00a6").replace("`", "'")
    if longest is not None and len(text) > longest:
        text = f"{text[:longest]} ..."
    return f"`{text}`" if text else ""


def csv_cell(value: object) -> object:
    """A cell of a CSV file: a text that a spreadsheet would compute begins with an apostrophe instead.

    Numbers stay numbers, and so does a text that is one. A carriage return, which ends a line for some
    readers, becomes an escape as the other characters of UNSAFE do.
    """
    if not isinstance(value, str):
        return value
    value = visible(value, keep=LINES)
    if not value.startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """Values of variables whose names say that they are secrets, longest first."""
    values = {
        value
        for name, value in environment.items()
        if SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET and not os.path.exists(value)  # noqa: PTH110
    }
    return sorted(values, key=lambda value: (-len(value), value))


def without_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """`text` with *** in place of passwords in addresses, of keys in queries, and of known secrets.

    Known are the values of an environment's variables whose names say so; None: that of the process.
    """
    text = TOKEN.sub(HIDDEN, PASSWORD.sub(rf"\1:{HIDDEN}", text))
    text = QUERY.sub(rf"\1{HIDDEN}", text)
    for secret in secrets_of(os.environ if environment is None else environment):
        text = text.replace(secret, HIDDEN)
    return text
