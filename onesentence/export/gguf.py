"""Write a model as one GGUF file, the format of llama.cpp.

The file holds weights, tokenizer, settings and chat template. The names of tensors and keys are those of the
package `gguf`, which llama.cpp's own converter uses; that converter is no part of the package. What llama.cpp
computes otherwise is refused by name: it would run, and write other summaries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onesentence.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from gguf import GGUFWriter
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FILE = "model.gguf"
# transformers' model_type: llama.cpp's architecture.
ARCHITECTURES = {"llama": "LLAMA", "mistral": "LLAMA", "phi": "PHI2", "qwen2": "QWEN2"}
# Formats of matrices. Vectors (norms, biases) are always float32, as llama.cpp expects them.
WEIGHTS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}
# llama.cpp names the rules by which a text is split before BPE, and has each of them in its code.
GPT2_SPLIT = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
SPLITS: dict[str, list[dict[str, Any]]] = {"gpt-2": [GPT2_SPLIT], "smollm": [DIGITS, GPT2_SPLIT]}
PATTERNS = {  # of tokenizers that split by a pattern of their own
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+": "qwen2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+": "llama-bpe",
}


def refused(reason: str) -> UserError:
    """The error for a model that GGUF cannot hold."""
    return UserError(f"export.target: gguf: {reason}; use another target, such as merged")


def require_architecture(config: Any) -> str:
    """llama.cpp's architecture of a transformers configuration.

    Raises a UserError for one that is not converted, or whose settings llama.cpp would not follow.
    """
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise refused(f"{kind} is not converted (expected one of {', '.join(ARCHITECTURES)})")
    activation = {"phi": "gelu_new"}.get(kind, "silu")
    if config.hidden_act != activation:
        raise refused(f"llama.cpp computes {kind} with {activation}, not {config.hidden_act}")
    rotary = config.rope_parameters["rope_type"]
    if rotary != "default":
        raise refused(f"positions of kind {rotary!r} are not converted (expected 'default')")
    if getattr(config, "qk_layernorm", False):
        raise refused("norms of queries and keys are not converted")
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True):
        raise refused(f"attention to a window of {window} tokens is not converted")
    return ARCHITECTURES[kind]


def pre_tokenizer_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """llama.cpp's name of the rule by which a byte-level BPE tokenizer splits a text.

    Raises a UserError if it has no such rule, or if the text is normalized first.
    """
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    if parts["model"]["type"] != "BPE" or parts["model"].get("byte_fallback"):
        raise refused("the tokenizer is not byte-level BPE")
    normalizer = (parts["normalizer"] or {"type": None})["type"]
    if normalizer not in (None, "NFC"):
        raise refused(f"the tokenizer changes the text first ({normalizer})")
    outer = parts["pre_tokenizer"] or {"type": None}
    steps = outer["pretokenizers"] if outer["type"] == "Sequence" else [outer]
    for name, wanted in SPLITS.items():
        if len(steps) == len(wanted) and all(
            w.items() <= s.items() for w, s in zip(wanted, steps, strict=True)
        ):
            return name
    pattern = steps[0].get("pattern", {}).get("Regex")
    if len(steps) == 2 and steps[1]["type"] == "ByteLevel" and pattern in PATTERNS:
        return PATTERNS[pattern]
    raise refused("the tokenizer splits texts by a rule that llama.cpp has no name for")


def add_tokenizer(
    writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, vocabulary: int, chat_template: str
) -> None:
    """Write the tokenizer: tokens with their kinds, merges, ids of special tokens, and the chat template.

    vocabulary: number of the model's ids; those that the tokenizer lacks become unused tokens.
    """
    from gguf import TokenType

    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = [f"[unused {number}]" for number in range(vocabulary)]
    kinds = [int(TokenType.UNUSED)] * vocabulary
    for text, number in parts["model"]["vocab"].items():
        tokens[number], kinds[number] = text, int(TokenType.NORMAL)
    for number, added in tokenizer.added_tokens_decoder.items():
        tokens[number] = added.content
        kinds[number] = int(TokenType.CONTROL if added.special else TokenType.USER_DEFINED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer_of(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    # Pairs in newer files, "a b" in older ones. No byte-level token holds a blank.
    merges = parts["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    begins = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    writer.add_add_bos_token(begins)
    writer.add_add_eos_token(False)
    writer.add_chat_template(chat_template)


def add_settings(writer: GGUFWriter, config: Any) -> None:
    """Write the sizes and settings of the network."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rotary = config.rope_parameters
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_freq_base(rotary["rope_theta"])
    writer.add_rope_dimension_count(int(width * rotary.get("partial_rotary_factor", 1.0)))
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "phi":
        writer.add_layer_norm_eps(config.layer_norm_eps)
    else:
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def interleaved(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of a query or key matrix in the order in which llama.cpp's Llama rotates them.

    weight: [heads x width, inputs] or a bias [heads x width]. transformers pairs row i of a head with row
    i + width / 2, llama.cpp pairs neighbours.
    """
    shape = weight.shape
    return weight.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def tensors(model: PreTrainedModel, architecture: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """(llama.cpp's name, weight) of every tensor, in float32, ordered by transformers' name."""
    import gguf

    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture], config.num_hidden_layers)
    state: dict[str, torch.Tensor] = dict(model.state_dict())
    if architecture == "PHI2":  # llama.cpp reads an output matrix and a bias of its own, tied or not
        state.setdefault("lm_head.bias", state["lm_head.weight"].new_zeros(config.vocab_size))
    elif config.tie_word_embeddings:  # llama.cpp takes the embeddings where the output matrix is missing
        state.pop("lm_head.weight", None)
    for name, weight in sorted(state.items()):
        values = weight.detach().float().cpu().numpy()
        if architecture == "LLAMA" and ".q_proj." in name:
            values = interleaved(values, config.num_attention_heads)
        if architecture == "LLAMA" and ".k_proj." in name:
            values = interleaved(values, config.num_key_value_heads)
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise refused(f"the weight {name} has no place in llama.cpp's {architecture.lower()}")
        yield known, values


def write_gguf(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    weights: str,
    chat_template: str,
) -> None:
    """Write `model` to a GGUF file; the same model gives the same bytes.

    weights: a key of WEIGHTS, the format of matrices. A matrix whose rows do not fill q8_0's blocks of 32
    stays in float16. chat_template: Jinja, as in the tokenizer's chat_template.jinja.
    """
    import gguf

    architecture = require_architecture(model.config)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH[architecture]])
    add_settings(writer, model.config)
    add_tokenizer(writer, tokenizer, model.config.vocab_size, chat_template)
    wanted = gguf.GGMLQuantizationType[WEIGHTS[weights]]
    for name, values in tensors(model, architecture):
        kind = wanted if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        if kind == gguf.GGMLQuantizationType.Q8_0 and values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = gguf.GGMLQuantizationType.F16
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
