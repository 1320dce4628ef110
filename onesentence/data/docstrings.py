"""The `docstrings` source: API documentation read from the sources of installed packages.

Nothing is imported from those packages: their files are parsed with `ast`. An entry is a class or a function
with a docstring. The same package versions give the same entries on every Python version from 3.11 on. That
is why this module dedents docstrings and cuts signatures out of the source itself: `inspect.cleandoc` and
`ast.unparse` differ between Python versions.
"""

import ast
import hashlib
import io
import re
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tqdm import tqdm

from onesentence.core.errors import UserError
from onesentence.core.pool import Pool

# Distributions whose docstrings are read, each pinned in requirements.txt. Most are installed anyway.
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
# Copies of other packages, test suites, and files that a build generates: those differ between platforms.
SKIPPED_FOLDERS = frozenset(
    "_vendor vendor vendored _vendored extern externals third_party tests test testing _examples "
    "__pycache__".split()
)
SKIPPED_FILES = frozenset("__config__.py version.py _version.py conftest.py setup.py".split())

# The first alternative keeps a quoted default; the second removes a comment, even one that contains quotes.
TEXT_OR_COMMENT = re.compile(rb"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|#.*""")
SIGNATURE = re.compile(r"(class|def|async def) [^\s(:\[]+(.*)")

# This source has its own ASCII rules for words and sentences, which must never change: they decide the rows
# and their splits, and the embedded base model was trained on those.
WORD = re.compile(r"[A-Za-z0-9_]+|[^\x00-\x7f]+")
SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s+[\"'(\[]?[A-Z0-9`*:]|\s*$)")
INITIAL = re.compile(r"[A-Z]\.")
ABBREVIATIONS = frozenset(
    "e.g. i.e. cf. vs. etc. fig. eq. ref. sec. no. al. approx. resp. mr. mrs. ms. dr. prof. st. jr. sr. "
    "u.s. u.k. inc. ltd. co. gen. sen. rep. gov. lt. col. sgt. rev. dept. jan. feb. mar. apr. jun. jul. "
    "aug. sep. sept. oct. nov. dec.".split()
)

CHUNK_FILES = 64  # that a worker parses at once
SUMMARY_WORDS = (3, 40)
BODY_WORDS = (12, 5_000)

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class DocumentedObject:
    """One documented class or function.

    file: "distribution/path/in/wheel.py"; qualname: the dotted name, beginning with the package; heading: the
    qualified name and the signature as in the source, on one line; docstring: the dedented text.
    """

    file: str
    qualname: str
    heading: str
    docstring: str


def pinned_versions(requirements: Path) -> dict[str, str]:
    """The version of every `name==version` line of a requirements file, by normalised name."""
    pins = {}
    for line in requirements.read_text(encoding="utf-8").splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)==([^\s;#]+)", line)
        if match:
            pins[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return pins


def check_versions(requirements: Path) -> None:
    """Refuse packages whose installed version differs from the pinned one."""
    pins = pinned_versions(requirements)
    wrong = []
    for name in DISTRIBUTIONS:
        pin = pins.get(re.sub(r"[-_.]+", "-", name).lower())
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed = None
        # A local label (torch 2.13.0+cpu) marks another build of the same sources.
        if pin is None or installed is None or installed.split("+")[0] != pin:
            wrong.append(f"{name}: {installed or 'not installed'}, pinned {pin or 'nowhere'}")
    if wrong:
        raise UserError(
            f"{requirements}: the docstrings source needs the pinned versions, found {'; '.join(wrong)}; "
            f"run: pip install -r {requirements}"
        )


def source_files() -> Iterator[tuple[str, Path]]:
    """Yield ("distribution/path", absolute path) of every source file, sorted within each distribution."""
    for name in DISTRIBUTIONS:
        paths = {}
        files = metadata.distribution(name).files
        if files is None:
            raise UserError(
                f"{name}: its installation has no list of its files (RECORD), which the docstrings source "
                "reads; install it again with pip"
            )
        for file in files:
            parts = file.parts
            if file.suffix == ".py" and not (
                SKIPPED_FOLDERS.intersection(parts) or file.name in SKIPPED_FILES or parts[0] == ".."
            ):
                paths["/".join((name, *parts))] = Path(str(file.locate()))
        yield from sorted(paths.items())


def clean_docstring(text: str) -> str:
    """The docstring, dedented by the rule of PEP 257, without trailing blanks, NULs and \\r."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "").expandtabs(8).split("\n")
    indents = [len(line) - len(line.lstrip(" ")) for line in lines[1:] if line.strip(" ")]
    margin = min(indents, default=0)
    cleaned = [lines[0].strip(" ")] + [line[margin:].rstrip(" ") for line in lines[1:]]
    return "\n".join(cleaned).strip("\n ")


def heading_of(node: Definition, qualname: str, lines: list[bytes]) -> str:
    """The qualified name and signature of a definition, cut out of its source lines, on one line."""
    # The signature is the source from the definition's first line to its docstring.
    doc = node.body[0]
    end_line, end_column = doc.lineno - 1, doc.col_offset
    parts = [*lines[node.lineno - 1 : end_line], lines[end_line][:end_column]]
    text = b"\n".join(TEXT_OR_COMMENT.sub(rb"\1", part) for part in parts).decode("utf-8")
    match = SIGNATURE.fullmatch(" ".join(text.split()).rstrip(": "))
    assert match is not None  # source that parses begins with one of the three keywords and a name
    kind, rest = match.groups()
    return f"{kind} {qualname}{rest}".replace("( ", "(").replace(", )", ")").replace(" )", ")")


def entries_of(file: str, path: Path) -> list[DocumentedObject]:
    """Entries of one source file, in order of their lines; definitions in loops and `except` are left out.

    Raises UserError if the file does not parse, so that no Python version drops a file silently.
    """
    raw = path.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        source = raw.decode(encoding).replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:  # ValueError: not UTF-8, or a null byte before 3.11.4
        raise UserError(f"{file}: this Python cannot parse it: {error}") from error
    # ast counts columns in UTF-8 bytes, and a form feed does not end its lines.
    lines = source.encode("utf-8").split(b"\n")
    module = file.split("/", 1)[1].removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    entries: list[DocumentedObject] = []

    def visit(parent: ast.AST, prefix: str) -> None:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, Definition):
                qualname = f"{prefix}.{node.name}"
                docstring = raw_docstring(node)
                if docstring:
                    heading = heading_of(node, qualname, lines)
                    entries.append(DocumentedObject(file, qualname, heading, docstring))
                visit(node, qualname)
            elif isinstance(node, ast.If | ast.Try | ast.With):
                visit(node, prefix)

    visit(tree, module)
    return entries


def raw_docstring(node: Definition) -> str:
    """The cleaned docstring of a definition; "" if it has none."""
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        value = first.value.value
        if isinstance(value, str):
            # UTF-8 cannot store a lone surrogate.
            return clean_docstring(value.encode("utf-8", "replace").decode("utf-8"))
    return ""


def _entries_of(files: list[tuple[str, Path]]) -> list[list[DocumentedObject]]:
    return [entries_of(*item) for item in files]


def read_docstrings(requirements: Path) -> list[DocumentedObject]:
    """The documented objects of all packages, sorted by file and line. About a minute on one core."""
    check_versions(requirements)
    files = list(source_files())
    chunks = (files[start : start + CHUNK_FILES] for start in range(0, len(files), CHUNK_FILES))
    entries: list[DocumentedObject] = []
    with Pool() as pool, tqdm(total=len(files), desc="docstrings", unit="file") as bar:
        for parsed in pool.map(_entries_of, chunks):
            for of_file in parsed:
                entries += of_file
            bar.update(len(parsed))
    return entries


def entries_hash(entries: list[DocumentedObject]) -> str:
    """SHA-256 (hex) of every field of every entry, in order."""
    digest = hashlib.sha256()
    for entry in entries:
        for field in (entry.file, entry.qualname, entry.heading, entry.docstring):
            digest.update(field.encode("utf-8") + b"\x00")
    return digest.hexdigest()


def words(text: str) -> list[str]:
    """Lower-case words of `text`: runs of ASCII letters, digits and underscores, or of other characters."""
    return WORD.findall(text.lower())


def is_one_sentence(line: str) -> bool:
    """Whether no sentence ends inside `line`, which is not empty and has single blanks only."""
    for match in SENTENCE_END.finditer(line):
        last = line[: match.end()].rsplit(" ", 1)[-1].lstrip("\"'([")
        abbreviates = last.lower() in ABBREVIATIONS or INITIAL.fullmatch(last)
        if match.end() < len(line) and not abbreviates:
            return False
    return True


def pair_of(entry: DocumentedObject) -> tuple[str, str, str] | str:
    """(heading, document, summary) of an entry, or the reason why it has none.

    The summary is the docstring's first line, if that is one sentence and a blank line follows. The document
    is the rest of the docstring.
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
