"""Write a model in CTranslate2's format, and decode with it.

CTranslate2's own converter expects the attributes of Phi's first, remote code and fails on the class that
transformers has had since 4.37 (OpenNMT/CTranslate2#1641). Phi and Llama are therefore written here, from the
model in memory. Every other architecture is left to CTranslate2's converter.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from onesentence.core.errors import UserError
from onesentence.core.files import write_text
from onesentence.model.model_files import read_object

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ACTIVATIONS = {"gelu_new": "GELUTanh", "gelu_pytorch_tanh": "GELUTanh", "gelu": "GELU", "relu": "RELU"}


def require_ctranslate2() -> str:
    """CTranslate2's version; a UserError if it is not installed."""
    try:
        import ctranslate2  # noqa: F401
    except ImportError as error:
        raise UserError(
            "export.target: ctranslate2 is not installed; pip install -r models/requirements.txt, or use "
            "merged"
        ) from error
    return version("ctranslate2")


def _fill(spec: Any, *modules: Any) -> None:
    """Weights and biases of linear layers or a layer norm, [outputs, inputs]; several are joined by rows.

    Queries, keys and values are one product there.
    """
    import torch

    weight = torch.cat([module.weight for module in modules]).float().numpy()
    biases = [module.bias for module in modules if getattr(module, "bias", None) is not None]
    bias = torch.cat(biases).float().numpy() if biases else None
    if hasattr(spec, "gamma"):
        spec.gamma = weight
        if bias is not None:
            spec.beta = bias
    else:
        spec.weight = weight
        if bias is not None:
            spec.bias = bias


def phi_spec(model: Any) -> Any:
    """CTranslate2's specification of a PhiForCausalLM, with its weights in float32.

    Raises UserError where the configuration asks for what is not carried over.
    """
    from ctranslate2.specs import common_spec, transformer_spec

    config = model.config
    rotary = config.rope_parameters
    if (
        config.model_type != "phi"
        or config.hidden_act not in ACTIVATIONS
        or config.qk_layernorm
        or rotary["rope_type"] != "default"
    ):
        raise UserError(
            "export.target: only a Phi without norms of queries and keys, with default positions and with "
            f"one of the activations {', '.join(ACTIVATIONS)} is converted to CTranslate2; use merged"
        )
    width = config.hidden_size // config.num_attention_heads
    grouped = config.num_key_value_heads != config.num_attention_heads
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_heads_kv=config.num_key_value_heads if grouped else None,
        activation=getattr(common_spec.Activation, ACTIVATIONS[config.hidden_act]),
        rotary_dim=int(width * rotary["partial_rotary_factor"]),
        rotary_interleave=False,
        rotary_base=rotary["rope_theta"],
        parallel_residual=True,
        shared_layer_norm=True,
    )
    spec.config.layer_norm_epsilon = config.layer_norm_eps
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = model.model.embed_tokens.weight.float().numpy()
    _fill(decoder.layer_norm, model.model.final_layernorm)
    _fill(decoder.projection, model.lm_head)
    for target, layer in zip(decoder.layer, model.model.layers, strict=True):
        attention = layer.self_attn
        _fill(target.shared_layer_norm, layer.input_layernorm)
        _fill(target.self_attention.linear[0], attention.q_proj, attention.k_proj, attention.v_proj)
        _fill(target.self_attention.linear[1], attention.dense)
        _fill(target.ffn.linear_0, layer.mlp.fc1)
        _fill(target.ffn.linear_1, layer.mlp.fc2)
    return spec


def llama_spec(model: Any) -> Any:
    """CTranslate2's specification of a LlamaForCausalLM, with its weights in float32.

    Raises UserError where the configuration asks for what is not carried over.
    """
    from ctranslate2.specs import common_spec, transformer_spec

    config = model.config
    rotary = config.rope_parameters
    if config.model_type != "llama" or config.hidden_act != "silu" or rotary["rope_type"] != "default":
        raise UserError(
            "export.target: only a Llama with SiLU and default positions is converted to CTranslate2; use "
            "merged"
        )
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_heads_kv=config.num_key_value_heads,
        activation=common_spec.Activation.SWISH,
        pre_norm=True,
        ffn_glu=True,
        rms_norm=True,
        rotary_dim=0,  # all of a head
        rotary_interleave=False,
        rotary_base=rotary["rope_theta"],
    )
    spec.config.layer_norm_epsilon = config.rms_norm_eps
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = model.model.embed_tokens.weight.float().numpy()
    _fill(decoder.layer_norm, model.model.norm)
    _fill(decoder.projection, model.lm_head)
    for target, layer in zip(decoder.layer, model.model.layers, strict=True):
        attention = layer.self_attn
        _fill(target.self_attention.layer_norm, layer.input_layernorm)
        _fill(target.self_attention.linear[0], attention.q_proj, attention.k_proj, attention.v_proj)
        _fill(target.self_attention.linear[1], attention.o_proj)
        _fill(target.ffn.layer_norm, layer.post_attention_layernorm)
        _fill(target.ffn.linear_0, layer.mlp.gate_proj)
        _fill(target.ffn.linear_0_noact, layer.mlp.up_proj)
        _fill(target.ffn.linear_1, layer.mlp.down_proj)
    return spec


SPECS = {"phi": phi_spec, "llama": llama_spec}


def write_spec(model: Any, folder: Path, names: Sequence[str], eos: str, quantization: str) -> None:
    """Write a Phi or Llama in memory to a folder in CTranslate2's format.

    names: of the vocabulary's ids; eos: the name that ends an output; quantization: float32 or int8.
    """
    import torch

    with torch.no_grad():
        spec = SPECS[model.config.model_type](model)
    spec.register_vocabulary(list(names))
    spec.config.unk_token = spec.config.bos_token = spec.config.eos_token = eos
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))


def vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> list[str]:
    """The tokens of a tokenizer by id; ids that only the model has get a name of their own."""
    names = tokenizer.convert_ids_to_tokens(list(range(min(size, len(tokenizer)))))
    return [
        *(name if name is not None else f"<unused_{k}>" for k, name in enumerate(names)),
        *(f"<unused_{k}>" for k in range(len(names), size)),
    ]


def write_model(
    model: PreTrainedModel, folder: Path, quantization: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Write a model to a folder in CTranslate2's format. quantization: float32 or int8.

    Raises UserError for an architecture that neither this module nor CTranslate2's converter knows.
    """
    require_ctranslate2()
    folder.mkdir(exist_ok=True)
    model = model.float().cpu()  # a GPU's memory has no arrays of numpy
    if model.config.model_type in SPECS:
        names = vocabulary(tokenizer, model.config.vocab_size)
        write_spec(model, folder, names, names[tokenizer.eos_token_id], quantization)
        return
    from ctranslate2.converters import TransformersConverter

    with TemporaryDirectory() as temporary:
        model.save_pretrained(temporary, safe_serialization=True)
        tokenizer.save_pretrained(temporary)
        try:
            TransformersConverter(temporary).convert(str(folder), quantization=quantization, force=True)
            _name_every_token(folder / "config.json", str(tokenizer.eos_token))
        except (ValueError, AttributeError, NotImplementedError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split()).partition(" (supported")[0]
            raise UserError(
                f"export.target: CTranslate2 {version('ctranslate2')} cannot convert this "
                f"{model.config.model_type} ({type(error).__name__}: {reason}); use merged"
            ) from error


def _name_every_token(path: Path, eos: str) -> None:
    """Name EOS for each special token that a tokenizer lacks: CTranslate2 writes null and cannot read it."""
    config = {
        key: eos if value is None and key.endswith("_token") else value
        for key, value in read_object(path).items()
    }
    write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def search(generator: Any, prompt: list[str], settings: Any, no_repeat_ngram_size: int = 0) -> list[int]:
    """New tokens of the best beam, up to and with EOS. prompt: the names of its tokens.

    One prompt at a time: unequal prompts of one batch are decoded under constraint, six times as slowly
    (OpenNMT/CTranslate2#1349). settings: num_beams, max_new_tokens, length_penalty, suppress_tokens (names)
    and eos_token_id. The ban on repeated n-grams covers the output alone, as the pipeline's does, but it
    comes before the softmax, so that a beam's score differs.
    """
    (result,) = generator.generate_batch(
        [prompt],
        beam_size=settings.num_beams,
        max_length=settings.max_new_tokens,
        length_penalty=settings.length_penalty,
        suppress_sequences=[[name] for name in settings.suppress_tokens or []],
        end_token=[settings.eos_token_id],
        return_end_token=True,
        include_prompt_in_result=False,
        no_repeat_ngram_size=no_repeat_ngram_size,
    )
    tokens: list[int] = result.sequences_ids[0]
    return tokens
