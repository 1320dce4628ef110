"""Encodes many rows, a chunk at a time: what worker processes do for `tokenize`."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from onesentence.core.text import with_heading
from onesentence.model.encoding import encode_completion, encode_prompt
from onesentence.model.loading import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from onesentence.core.params import Model, Prompt

Row = tuple[str, str, str, str]  # id, heading, document, summary
IDS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt_ids", IDS),
        ("completion_ids", IDS),
        ("document_tokens", pa.int32()),
        ("document_tokens_cut", pa.int32()),
    ]
)


@dataclass(frozen=True)
class EncodedRows:
    """Token ids of rows: the ids of all rows one after the other (int32), and how many each row has."""

    names: list[str]
    prompt_ids: NDArray[np.int32]
    prompt_tokens: NDArray[np.int32]
    completion_ids: NDArray[np.int32]
    completion_tokens: NDArray[np.int32]
    document_tokens: NDArray[np.int32]
    document_tokens_cut: NDArray[np.int32]

    def table(self) -> pa.Table:
        """The rows as they are in data/tokenized."""
        columns = [
            pa.array(self.names, pa.string()),
            _lists(self.prompt_ids, self.prompt_tokens),
            _lists(self.completion_ids, self.completion_tokens),
            pa.array(self.document_tokens),
            pa.array(self.document_tokens_cut),
        ]
        return pa.Table.from_arrays(columns, schema=SCHEMA)


def _lists(ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> pa.ListArray:
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(starts), pa.array(ids), type=IDS)


def encode_rows(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, rows: Sequence[Row]) -> EncodedRows:
    """Fill the prompt with each row's article and encode it, and the row's summary.

    Raises a UserError if the template leaves no room for a token of the document.
    """
    prompts, completions, documents = [], [], []
    for _, heading, document, summary in rows:
        article = with_heading(heading, document)
        filled = encode_prompt(tokenizer, prompt.template, article, prompt.max_input_tokens)
        # int32 arrays take a tenth of the memory of lists of int.
        prompts.append(np.array(filled.ids, dtype=np.int32))
        completion = encode_completion(tokenizer, summary, prompt.template)
        completions.append(np.array(completion, dtype=np.int32))
        documents.append((filled.document_tokens, filled.document_tokens_cut))
    tokens = np.array(documents, dtype=np.int32).reshape(-1, 2)
    nothing = np.empty(0, dtype=np.int32)
    return EncodedRows(
        [name for name, *_ in rows],
        np.concatenate([*prompts, nothing]),
        np.array([len(ids) for ids in prompts], dtype=np.int32),
        np.concatenate([*completions, nothing]),
        np.array([len(ids) for ids in completions], dtype=np.int32),
        tokens[:, 0],
        tokens[:, 1],
    )


@lru_cache(maxsize=1)
def tokenizer_of(model: Model) -> PreTrainedTokenizerBase:
    """The tokenizer of params.yaml's `model` section, loaded once in each process."""
    if multiprocessing.parent_process() is not None:
        # transformers imports torch if it can. A worker only tokenizes: without torch it starts three times
        # as fast, in a third of the memory. None in sys.modules makes a module look as if not installed.
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # documented for None as well
        os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # it would print that torch is missing
    return load_tokenizer(model)


def encode_chunk(model: Model, prompt: Prompt, rows: Sequence[Row]) -> EncodedRows:
    """`encode_rows` with this process's tokenizer."""
    return encode_rows(tokenizer_of(model), prompt, rows)
