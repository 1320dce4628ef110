"""The `docstrings` source: API documentation read from the sources of installed packages.

Nothing is imported from those packages: their files are parsed with `ast`. An entry is a class or a
function with a docstring. The same packages at the same versions give the same entries on every
Python version from 3.11 on, which is why docstrings are dedented and signatures cut out of the source
here: `inspect.cleandoc` and `ast.unparse` differ between versions.
"""

import ast
import hashlib
import io
import re
import tokenize
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from onesentence.core.errors import UserError

# Distributions whose docstrings are read, each pinned in requirements.txt. Most are there anyway.
DISTRIBUTIONS = (
    "accelerate",
    "aiohttp",
    "asyncssh",
    "celery",
    "datasets",
    "dulwich",
    "fonttools",
    "huggingface_hub",
    "kombu",
    "matplotlib",
    "narwhals",
    "networkx",
    "nltk",
    "numpy",
    "pandas",
    "peft",
    "prompt_toolkit",
    "pydantic",
    "scikit-learn",
    "scipy",
    "sympy",
    "torch",
    "transformers",
)
# Copies of other packages, test suites, and files that a build generates (they differ by platform).
SKIPPED_FOLDERS = frozenset(
    "_vendor vendor vendored _vendored extern externals third_party tests test testing _examples "
    "__pycache__".split()
)
SKIPPED_FILES = frozenset("__config__.py version.py _version.py conftest.py setup.py".split())

# A quoted default is kept whole; a comment goes, whatever is quoted in it.
TEXT_OR_COMMENT = re.compile(rb"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|#.*""")
SIGNATURE = re.compile(r"(class|def|async def) [^\s(:\[]+(.*)")

# What is a word and where a sentence ends, by rules in ASCII of its own that never change: its rows
# and their split are the same on every Python version, and the embedded base was trained on them.
WORD = re.compile(r"[A-Za-z0-9_]+|[^\x00-\x7f]+")
SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s+[\"'(\[]?[A-Z0-9`*:]|\s*$)")
INITIAL = re.compile(r"[A-Z]\.")
ABBREVIATIONS = frozenset(
    "e.g. i.e. cf. vs. etc. fig. eq. ref. sec. no. al. approx. resp. mr. mrs. ms. dr. prof. st. jr. sr. "
    "u.s. u.k. inc. ltd. co. gen. sen. rep. gov. lt. col. sgt. rev. dept. jan. feb. mar. apr. jun. jul. "
    "aug. sep. sept. oct. nov. dec.".split()
)

SUMMARY_WORDS = (3, 40)
BODY_WORDS = (12, 5_000)

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class DocumentedObject:
    """One documented class or function.

    file: "distribution/path/in/wheel.py"; qualname: dotted name from the package down; heading: the
    qualified name and signature as written in the source, on one line; docstring: dedented text.
    """

    file: str
    qualname: str
    heading: str
    docstring: str


def pinned_versions(requirements: Path) -> dict[str, str]:
    """Versions by normalised name of every `name==version` line of a requirements file."""
    pins = {}
    for line in requirements.read_text(encoding="utf-8").splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)==([^\s;#]+)", line)
        if match:
            pins[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return pins


def check_versions(requirements: Path) -> None:
    """Refuse packages whose installed version is not the pinned one."""
    pins = pinned_versions(requirements)
    wrong = []
    for name in DISTRIBUTIONS:
        pin = pins.get(re.sub(r"[-_.]+", "-", name).lower())
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed = None
        # A local label (torch 2.13.0+cpu) is another build of the same sources.
        if pin is None or installed is None or installed.split("+")[0] != pin:
            wrong.append(f"{name}: {installed or 'not installed'}, pinned {pin or 'nowhere'}")
    if wrong:
        raise UserError(
            f"{requirements}: the docstrings source needs the pinned versions, found {'; '.join(wrong)}. "
            f"Run: pip install -r {requirements}"
        )


def source_files() -> Iterator[tuple[str, Path]]:
    """Yield ("distribution/path", absolute path) of every file that is read, sorted."""
    for name in DISTRIBUTIONS:
        paths = {}
        for file in metadata.distribution(name).files or []:
            parts = file.parts
            if file.suffix == ".py" and not (
                SKIPPED_FOLDERS.intersection(parts) or file.name in SKIPPED_FILES or parts[0] == ".."
            ):
                paths["/".join((name, *parts))] = Path(str(file.locate()))
        yield from sorted(paths.items())


def clean_docstring(text: str) -> str:
    """Dedent a docstring by PEP 257's rule and drop trailing blanks; NULs and \\r are removed."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "").expandtabs(8).split("\n")
    indents = [len(line) - len(line.lstrip(" ")) for line in lines[1:] if line.strip(" ")]
    margin = min(indents, default=0)
    cleaned = [lines[0].strip(" ")] + [line[margin:].rstrip(" ") for line in lines[1:]]
    return "\n".join(cleaned).strip("\n ")


def heading_of(node: Definition, qualname: str, lines: list[bytes]) -> str:
    """Qualified name and signature of a def or class, cut out of its source lines, on one line."""
    doc = node.body[0]
    end_line, end_column = doc.lineno - 1, doc.col_offset
    parts = [*lines[node.lineno - 1 : end_line], lines[end_line][:end_column]]
    text = b"\n".join(TEXT_OR_COMMENT.sub(rb"\1", part) for part in parts).decode("utf-8")
    match = SIGNATURE.fullmatch(" ".join(text.split()).rstrip(": "))
    assert match is not None  # a parsed definition begins with one of the three words and its name
    kind, rest = match.groups()
    return f"{kind} {qualname}{rest}".replace("( ", "(").replace(", )", ")").replace(" )", ")")


def entries_of(file: str, path: Path) -> list[DocumentedObject]:
    """Entries of one source file, in order of their lines; those in `except` blocks are passed over.

    Raises UserError where the file does not parse, so that no Python version drops one silently.
    """
    raw = path.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        source = raw.decode(encoding).replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte before Python 3.11.4; not UTF-8
        raise UserError(f"{file}: not parsed by this Python: {error}") from error
    # ast counts columns in UTF-8 bytes, and a form feed does not end its lines.
    lines = source.encode("utf-8").split(b"\n")
    module = file.split("/", 1)[1].removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    found = []

    def visit(parent: ast.AST, prefix: str) -> None:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, Definition):
                qualname = f"{prefix}.{node.name}"
                docstring = raw_docstring(node)
                if docstring:
                    found.append(
                        DocumentedObject(file, qualname, heading_of(node, qualname, lines), docstring)
                    )
                visit(node, qualname)
            elif isinstance(node, ast.If | ast.Try | ast.With):
                visit(node, prefix)

    visit(tree, module)
    return found


def raw_docstring(node: Definition) -> str:
    """The cleaned docstring of a def or class, "" where there is none."""
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        value = first.value.value
        if isinstance(value, str):
            # A lone surrogate cannot be written as UTF-8.
            return clean_docstring(value.encode("utf-8", "replace").decode("utf-8"))
    return ""


def _entries_of(item: tuple[str, Path]) -> list[DocumentedObject]:
    return entries_of(*item)


def read_docstrings(requirements: Path) -> list[DocumentedObject]:
    """The documented objects of all packages, sorted by file and line. About a minute on one core."""
    check_versions(requirements)
    files = list(source_files())
    # spawn, not fork: a forked child of a process with OpenMP threads can hang.
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        parsed = list(
            tqdm(
                pool.map(_entries_of, files, chunksize=64),
                total=len(files),
                desc="docstrings",
                unit="file",
            )
        )
    return [entry for entries in parsed for entry in entries]


def entries_hash(entries: list[DocumentedObject]) -> str:
    """SHA-256 over every field of every entry, in order."""
    digest = hashlib.sha256()
    for entry in entries:
        for field in (entry.file, entry.qualname, entry.heading, entry.docstring):
            digest.update(field.encode("utf-8") + b"\x00")
    return digest.hexdigest()


def words(text: str) -> list[str]:
    """Lower-cased words of `text`: runs of ASCII letters, digits and underscores, or of non-ASCII."""
    return WORD.findall(text.lower())


def is_one_sentence(line: str) -> bool:
    """Whether no sentence ends within `line`, a text with single blanks that is not empty."""
    for match in SENTENCE_END.finditer(line):
        last = line[: match.end()].rsplit(" ", 1)[-1].lstrip("\"'([")
        abbreviates = last.lower() in ABBREVIATIONS or INITIAL.fullmatch(last)
        if match.end() < len(line) and not abbreviates:
            return False
    return True


def pair_of(entry: DocumentedObject) -> tuple[str, str, str] | str:
    """(heading, document, summary) of an entry, or the reason why it gives none.

    The summary is the docstring's first line, where that is one sentence followed by a blank line; the
    document is the rest of the docstring.
    """
    first, _, rest = entry.docstring.partition("\n")
    first, body = " ".join(first.split()), rest.strip("\n ")
    if not body:
        return "docstring of one line"
    if rest.split("\n", 1)[0].strip():
        return "first line runs on"
    if not re.match(r"[A-Z`*\"'(]*[A-Za-z]", first) or first.endswith(":") or ">>>" in first:
        return "first line is no sentence"
    if not SUMMARY_WORDS[0] <= len(words(first)) <= SUMMARY_WORDS[1] or not is_one_sentence(first):
        return "first line is no sentence"
    if not BODY_WORDS[0] <= len(words(body)) <= BODY_WORDS[1]:
        return f"body outside {BODY_WORDS[0]} to {BODY_WORDS[1]} words"
    return entry.heading, body, first
