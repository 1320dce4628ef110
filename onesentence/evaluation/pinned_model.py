"""The pretrained models that metrics compute with: found, checked against a SHA-256, and run without noise.

`key` is the key of params.yaml that names the model, such as evaluate.bertscore_model. Errors name it.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from onesentence.core import machine_faults
from onesentence.core.errors import UserError
from onesentence.core.files import file_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

# They number positions from the padding token's id + 1, so they have fewer than their config says.
SHIFTED_POSITIONS = ("camembert", "data2vec-text", "longformer", "mpnet", "roberta", "xlm-roberta")
FILES = ("*.json", "*.txt", "*.model", "*.safetensors")  # no pickles, no code


def model_files(name: str, key: str, revision: str | None = None) -> Path:
    """Return the folder of a model: a local one, or a snapshot of a hub id (revision None: the newest)."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{key}: {name!r} is not a folder and could not be fetched from the hub "
            f"({type(error).__name__}); connect to a network, or put a copy of the model in the local cache"
        ) from error


def weights_sha256(folder: Path, name: str, key: str) -> str:
    """Return the SHA-256 of a model's safetensors file, or of the hashes of several files in name order."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{key}: {name!r} has no *.safetensors weights; use a model that has them")
    hashes = [file_sha256(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def require_weights(folder: Path, name: str, key: str, expected: str | None) -> str:
    """Return the SHA-256 of a model's weights. Raises UserError if it is not `expected`."""
    sha256 = weights_sha256(folder, name, key)
    if sha256 != expected:
        raise UserError(
            f"{key.removesuffix('model')}sha256: {name!r} has other weights (expected {expected}, found "
            f"{sha256}); to use them, set the key to their hash"
        )
    return sha256


@contextmanager
def loading(name: str, key: str, kind: str) -> Iterator[None]:
    """Inside, a model folder that cannot be loaded is a UserError. kind: what the metric needs.

    A fault of the machine, such as too little memory, says nothing about the model and stays as it is.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        if machine_faults.sentence_of(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{key}: {name!r} could not be loaded as {kind} ({reason}); copy the whole model, or use another"
        ) from error


def require_vocabulary(tokenizer: "PreTrainedTokenizerBase", name: str, key: str) -> None:
    """Raise a UserError where a tokenizer knows no word: what transformers makes of a folder without one."""
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise UserError(f"{key}: {name!r} has no tokenizer; copy the whole model (tokenizer.json, vocab.txt)")


def limit_length(tokenizer: "PreTrainedTokenizerBase", config: "PreTrainedConfig") -> int:
    """Return the most tokens that a model reads at once, and make its tokenizer end a text there.

    Some tokenizers declare no maximum length, or more than the model has positions for.
    """
    positions = getattr(config, "max_position_embeddings", None) or 0
    if config.model_type in SHIFTED_POSITIONS:
        positions -= config.pad_token_id + 1
    if positions > 0:  # 0 and -1: positions are relative and have no end
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return int(tokenizer.model_max_length)


def shown_name(name: str, folder: Path) -> str:
    """Return a model's name for a signature: a folder's own name, or the hub id.

    By its path, equal weights on two machines would seem to differ.
    """
    return folder.resolve().name if Path(name).is_dir() else name


def versions(*packages: str) -> str:
    """Return name:version of each package, for a signature.

    The label after "+" (torch 2.13.0+cpu) only names a build of the same sources.
    """
    return "|".join(f"{name}:{metadata.version(name).split('+')[0]}" for name in packages)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread inside the context.

    Two threads add numbers in a different order, so the last bits change. They save little on one sentence at
    a time (measured: a quarter of the time), and wait for each other on a busy machine.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
