"""Check the files of a model's folder without loading the model: each is whole and has the right format.

A safetensors file begins with 8 bytes, the length N of its header (little-endian). N bytes of JSON follow,
with the dtype, the shape, and the first and last byte of each tensor. The tensors follow, and nothing else.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from onesentence.core.errors import UserError
from onesentence.core.files import parse_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of weights in several files: {"weight_map": {tensor: file}}
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "*.tiktoken")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
GIT_LFS = b"version https://git-lfs"
LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
NAMES_IN_ERROR = 3  # names that an error lists


def listed(names: Iterable[str]) -> str:
    """The first names in alphabetical order, and the number of the others: "a, b, c and 5 more"."""
    names = sorted(names)
    more = f" and {len(names) - NAMES_IN_ERROR} more" if len(names) > NAMES_IN_ERROR else ""
    return ", ".join(names[:NAMES_IN_ERROR]) + more


def require_whole(path: Path) -> None:
    """Raise a UserError for an empty file, and for a pointer that git-lfs has not replaced by its file."""
    with path.open("rb") as file:
        start = file.read(len(GIT_LFS))
    if not start:
        raise UserError(f"{path}: the file is empty; copy it again")
    if start == GIT_LFS:
        raise UserError(f"{path}: holds a git-lfs pointer, not the file itself; run `git lfs pull` there")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model's folder."""
    require_whole(path)
    try:
        value = parse_json(path.read_bytes(), path, "copy the file again")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); copy the file again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def tensors_of(path: Path) -> set[str]:
    """Names of the tensors in a safetensors file; a UserError unless its size agrees with its header."""
    require_whole(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= LONGEST_HEADER:
            raise UserError(f"{path}: not a safetensors file (its header has no valid length); copy it again")
        if size < 8 + length:
            raise UserError(f"{path}: cut off inside its header ({size:,} bytes); copy it again")
        try:
            header = json.loads(file.read(length))  # only the header: the tensors may take many GB
            header.pop("__metadata__", None)
            expected = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
            named = all(isinstance(entry["data_offsets"][1], int) for entry in header.values())
            if not named:
                raise TypeError("an offset that is no whole number")
        except (ValueError, AttributeError, LookupError, TypeError, RecursionError) as error:
            raise UserError(
                f"{path}: not a safetensors file (its header cannot be read); copy it again"
            ) from error
    if size != expected:
        raise UserError(
            f"{path}: its size differs from its header (expected {expected:,} bytes, found {size:,}); "
            "copy it again"
        )
    return set(header)


def check_weights(folder: Path) -> None:
    """Raise a UserError unless the weights are one whole file, or all the files that an index names."""
    if (folder / WEIGHTS).is_file():  # transformers loads it even if there is an index
        tensors_of(folder / WEIGHTS)
        return
    index = folder / INDEX
    if not index.is_file():
        raise UserError(
            f"{folder}: its weights have other names (expected {WEIGHTS}, or several files and {INDEX}; "
            f"found {listed(path.name for path in folder.glob('*.safetensors'))}); copy the whole model"
        )
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{index}: expected a weight_map from tensor to file; copy it again")
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise UserError(
                f"{index}: weight_map: {name!r} leaves the model's folder; copy the whole model again"
            )
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: not found, though {INDEX} names it; copy it into the folder")
        lacking = {tensor for tensor, file in places.items() if file == name} - tensors_of(folder / name)
        if lacking:
            raise UserError(
                f"{folder / name}: lacks {listed(lacking)}, which {INDEX} expects in this file; copy the "
                "files and the index from one model"
            )


def check_model_folder(folder: Path, where: str) -> None:
    """Raise a UserError unless a folder holds a config and whole safetensors weights, and no adapter.

    where: the start of the error, which names the key of params.yaml.
    """
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{where}: holds an adapter (adapter_config.json), not a base model; use a folder without one, "
            "or merge the adapter into its base and save that"
        )
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not list(folder.glob("*.safetensors")) and not (folder / INDEX).is_file():
        missing.append("*.safetensors")
    if missing:
        pickled = [path.name for pattern in PICKLED for path in folder.glob(pattern)]
        advice = (
            f". Its weights are pickled ({listed(pickled)}), and a pickle can run code when it is read; "
            "save them again with save_pretrained"
            if pickled and "*.safetensors" in missing
            else "; use a folder that save_pretrained wrote"
        )
        raise UserError(f"{where}: not a model folder, {' and '.join(missing)} not found{advice}")
    read_object(folder / "config.json")
    check_weights(folder)


def check_vocabulary(folder: Path, where: str) -> None:
    """Raise a UserError unless a model folder holds a vocabulary: transformers would use an empty one."""
    present = [path for pattern in VOCABULARIES for path in folder.glob(pattern)]
    if not present:
        raise UserError(f"{where}: has no tokenizer; copy tokenizer.json beside config.json")
    for path in present:
        require_whole(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            read_object(folder / name)
