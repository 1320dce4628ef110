"""Which code a stage runs, independent of file names: two commits with equal identities compute the same.

The identity of a module is a set of hashes: one for each top-level statement in the module and in every
module of the project that it imports, directly or indirectly. The hash covers what a definition computes, not
the file that holds it. The hashes leave out:

- comments, layout, docstrings and the annotations of functions;
- imports of the project's own modules, and a module's name before an attribute (`metrics.mean` is `mean`);
- the text of errors, because a run that finished has raised none, and the text that is printed.

A constant, an operator, a default value, a decorator or an imported package changes a hash.

So no study becomes outdated because a file is renamed, a function moves or a module is split. A new
definition does change the identity, even if nothing calls it: calls are not traced, since attributes and
strings can hide them.
"""

import ast
import functools
import hashlib
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from onesentence.core.errors import UserError

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Tree(Protocol):
    """The files of a project, by their path from its root."""

    def text(self, path: str) -> str | None:
        """The text of a file, or None if it does not exist."""

    def has(self, name: str) -> bool:
        """Whether the root holds a file or folder of that name."""


class WorkingTree:
    """The files of a folder as they are now."""

    def __init__(self, root: Path = Path()) -> None:
        self.root = root

    def text(self, path: str) -> str | None:
        file = self.root / path
        return file.read_text(encoding="utf-8") if file.is_file() else None

    def has(self, name: str) -> bool:
        return (self.root / name).exists()


class CommitTree:
    """The files of a commit of the repository in the working directory."""

    def __init__(self, commit: str) -> None:
        self.blobs: dict[str, str] = {}  # by path: the hash of git's blob
        for line in _git("ls-tree", "-r", "-z", "--full-tree", commit).split("\0"):
            description, tab, path = line.partition("\t")  # MODE TYPE HASH<tab>PATH
            if tab:
                self.blobs[path] = description.split()[-1]
        self.names = {path.partition("/")[0] for path in self.blobs}

    def text(self, path: str) -> str | None:
        return _blob(self.blobs[path]) if path in self.blobs else None

    def has(self, name: str) -> bool:
        return name in self.names

    def is_code(self, path: str) -> bool:
        """Whether a path is a module or a package."""
        return path.endswith(".py") or f"{path}/__init__.py" in self.blobs


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], check=False, capture_output=True, encoding="utf-8")
    if result.returncode:
        raise UserError(f"git {arguments[0]}: {result.stderr.strip()}")
    return result.stdout


@functools.cache
def _blob(name: str) -> str:
    """The text of a git blob. Commits share most blobs, so each is read once."""
    return _git("cat-file", "blob", name)


def identity(tree: Tree, modules: Iterable[str]) -> frozenset[str] | None:
    """The hashes (SHA-256, hex) of the code that `modules` (dotted names) run; None if one does not exist.

    Raises UserError for a file that is not valid Python.
    """
    waiting: list[str] = []
    for module in modules:
        files = _files(tree, module)
        if not any(_is_file_of(path, module) for path in files):
            return None
        waiting += files
    seen: set[str] = set()
    hashes: set[str] = set()
    while waiting:
        path = waiting.pop()
        # This module itself computes nothing that is compared.
        if path in seen or path.endswith(f"/{Path(__file__).name}"):
            continue
        seen.add(path)
        text = tree.text(path) or ""
        imports = _imports(path, text)
        own = frozenset(local for module, name, local in imports if _is_module(tree, f"{module}.{name}"))
        hashes |= _statements(path, text, own)
        for module, name, local in imports:
            if _is_own(tree, module):
                waiting += _files(tree, f"{module}.{name}" if name else module)
            else:
                # One hash for each name: two halves of a split file may import different names of a package.
                hashes.add(_hash(f"import {module} {name} {local}"))
    return frozenset(hashes)


def digest(hashes: Iterable[str]) -> str:
    """One hash (SHA-256, hex) of a whole identity, short enough to be stored."""
    return _hash("\n".join(sorted(hashes)))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _files(tree: Tree, module: str) -> list[str]:
    """The files that importing a dotted name runs: the __init__.py of its packages, and its own file.

    If the last part of the name is a definition, it adds no file.
    """
    parts = module.split(".")
    stems = ["/".join(parts[:i]) for i in range(1, len(parts) + 1)]
    paths = [path for stem in stems for path in (f"{stem}/__init__.py", f"{stem}.py")]
    return [path for path in paths if tree.text(path) is not None]


def _is_file_of(path: str, module: str) -> bool:
    stem = module.replace(".", "/")
    return path in (f"{stem}.py", f"{stem}/__init__.py")


def _is_own(tree: Tree, module: str) -> bool:
    """Whether a dotted name belongs to the project."""
    top = module.partition(".")[0]
    return tree.has(top) or tree.has(f"{top}.py")


def _is_module(tree: Tree, name: str) -> bool:
    """Whether a dotted name is a module of the project, not a definition in one."""
    return any(_is_file_of(path, name) for path in _files(tree, name))


def _parsed(path: str, text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise UserError(
            f"{path}:{error.lineno}: not valid Python: {error.msg}; correct or remove the file"
        ) from error
    except ValueError as error:  # a null byte, in Python before 3.11.4
        raise UserError(f"{path}: not valid Python: {error}; correct or remove the file") from error


@functools.lru_cache(maxsize=4096)
def _imports(path: str, text: str) -> frozenset[tuple[str, str, str]]:
    """Every name that a file imports, at any depth, in the form of `_names`."""
    return frozenset(
        name
        for node in ast.walk(_parsed(path, text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in _names(node, path)
    )


@functools.lru_cache(maxsize=4096)
def _statements(path: str, text: str, own: frozenset[str]) -> frozenset[str]:
    """Hashes of a file's top-level statements except imports.

    own: the local names of the project's modules.
    """
    essence = _Essence(own).visit(_parsed(path, text))
    return frozenset(_hash("".join(_dump(statement))) for statement in essence.body)


def _names(statement: ast.Import | ast.ImportFrom, path: str) -> Iterator[tuple[str, str, str]]:
    """Yield (module, name in the module or "", local name) of each import; relative modules are resolved."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            yield alias.name, "", alias.asname or alias.name.partition(".")[0]
        return
    module = statement.module or ""
    if statement.level:
        folders = path.split("/")[: -statement.level]
        module = ".".join([*folders, *([module] if module else [])])
    for alias in statement.names:
        yield module, alias.name, alias.asname or alias.name


class _Essence(ast.NodeTransformer):
    """Removes imports and everything that cannot change the results of a finished run."""

    def __init__(self, own: frozenset[str]) -> None:
        self.own = own

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        # `module.name` and `name` are the same definition, imported in two ways.
        if isinstance(node.value, ast.Name) and node.value.id in self.own:
            return ast.Name(node.attr)
        return self.generic_visit(node)

    def _block(self, node: ast.Module | ast.ClassDef | _Function) -> ast.AST:
        first = node.body[0] if node.body else None  # the docstring, if it is a text
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            if isinstance(first.value.value, str):
                node.body = node.body[1:]
        return self.generic_visit(node)

    visit_Module = visit_ClassDef = _block

    def visit_FunctionDef(self, node: _Function) -> ast.AST:
        node.returns = None
        return self._block(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        return None

    visit_ImportFrom = visit_Import

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):  # the type of the error still counts: code may catch it
            node.exc.args, node.exc.keywords = [], []
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        call = node.value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print":
            # Only texts are emptied: what is computed for the output still counts.
            for part in ast.walk(call):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    part.value = ""
        return self.generic_visit(node)


def _dump(node: object) -> Iterator[str]:
    """Yield a syntax tree as text. Empty fields are left out, since newer Python versions add such fields."""
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for name, value in ast.iter_fields(node):
            # ctx follows from the place in the tree; kind and type_comment do not affect what runs.
            if value is None or value == [] or name in ("ctx", "kind", "type_comment"):
                continue
            yield f" {name}="
            yield from _dump(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for item in node:
            yield from _dump(item)
        yield "]"
    else:
        yield f"{type(node).__name__}:{node!r}"
