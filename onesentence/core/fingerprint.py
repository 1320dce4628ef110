"""The fingerprint of a run: a hash of everything that determines what a stage writes."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from onesentence.core import code_identity
from onesentence.core.files import file_sha256, is_there
from onesentence.core.runtime import has_bfloat16_instructions

# Packages whose version can change a result in its last digits.
COMPUTING = ("accelerate", "bitsandbytes", "numpy", "peft", "tokenizers", "torch", "transformers")
PROJECT = Path(__file__).parents[2]


def fingerprint(
    module: str,
    files: Iterable[Path],
    settings: Mapping[str, object],
    formats: Iterable[str] = (),
) -> str:
    """16 hexadecimal digits that are equal only for runs that write the same bytes.

    module: the stage's, such as "stages.train"; its code counts, and that of every module it imports. files:
    data and weights; a folder stands for every file in it. settings: values of params.yaml by dotted key.
    formats: the number formats that the run computes in: in bfloat16, a CPU without such instructions gives
    other bytes.
    """
    code = code_identity.identity(code_identity.WorkingTree(PROJECT), [module])
    assert code is not None, module
    facts = {
        "code": code_identity.digest(code),
        "files": {path.as_posix(): file_sha256(path) for path in _all_files(files)},
        "settings": dict(settings),
        "packages": {name: _version(name) for name in COMPUTING},
        "device": _device(formats),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def model_files(name: str) -> list[Path]:
    """The files of a model in a folder; none for a hub id, which model.revision pins, and for no name.

    The path of an empty name is the working directory.
    """
    return [Path(name)] if name and is_there(name) and Path(name).is_dir() else []


def _all_files(paths: Iterable[Path]) -> list[Path]:
    """The files among `paths` and in the folders among them, sorted."""
    return sorted(
        file
        for path in paths
        for file in (path.rglob("*") if path.is_dir() else [path])
        if file.is_file() and "__pycache__" not in file.parts
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _device(formats: Iterable[str]) -> str:
    """The kind of device that computes. On a CPU only its bfloat16 instructions change a result."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return "cpu, bfloat16" if "bfloat16" in formats and has_bfloat16_instructions() else "cpu"
