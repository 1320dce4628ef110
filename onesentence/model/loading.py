"""Load the base model and its tokenizer: one loader for every stage.

It reads safetensors only and runs no remote code. It loads what params.yaml names, or raises an error.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onesentence.core import processes, recorded
from onesentence.core.errors import UserError
from onesentence.core.runtime import has_bfloat16_instructions, quiet_libraries
from onesentence.model.model_files import check_model_folder, check_vocabulary, listed

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from onesentence.core.params import Model

FLOAT32_ATTENTION = "float32_sdpa"
# What transformers raises of values in a model's files that no model has. tokenizers raises Exception itself.
DAMAGED = (
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    RecursionError,
    NotImplementedError,
    MemoryError,
    RuntimeError,
)
# The same function as one kernel, instead of eight passes over the widest tensor of the model.
FUSED_ACTIVATIONS = {"gelu_new": "gelu_pytorch_tanh"}


def device_name() -> str:
    """cuda if this machine has a CUDA GPU, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def has_bfloat16() -> bool:
    """Whether this machine has bfloat16 instructions.

    Without them (a T4, a CPU without AVX512-BF16) bfloat16 is emulated: slower, and no better than what it
    replaces.
    """
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return has_bfloat16_instructions()


def require_bfloat16(key: str, instead: str) -> None:
    """Raise a UserError unless this machine has bfloat16 instructions.

    key: the key of params.yaml that asks for them; instead: the value to use otherwise.
    """
    if not has_bfloat16():
        what = "GPU" if device_name() == "cuda" else "CPU"
        raise UserError(f"{key}: bfloat16 was requested but this {what} does not have it; use {instead}")


def check_dtype(dtype: str) -> None:
    """Raise a UserError for a number format that this GPU does not have; a CPU only computes it slowly."""
    import torch

    if dtype == "bfloat16" and torch.cuda.is_available():
        require_bfloat16("model.dtype", "float16 (presets/phi2-xsum-t4.yaml) or float32")


def _float32_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scaled dot-product attention, computed in float32 whatever the model's format.

    In float16 Phi's attention scores overflow, and the logits are NaN (transformers#28163).
    query, key, value: [batch, heads, tokens, head_dim]; the result is [batch, tokens, heads, head_dim].
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast(query.device.type, enabled=False):  # it would cast the products back
        output, weights = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **kwargs
        )
    return output.to(query.dtype), weights


def register_float32_attention() -> None:
    """Register FLOAT32_ATTENTION with transformers."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(FLOAT32_ATTENTION, _float32_attention)
    AttentionMaskInterface.register(FLOAT32_ATTENTION, sdpa_mask)


def require_replaceable_attention(model: Model, config: PreTrainedConfig) -> None:
    """Raise a UserError if transformers cannot give this type of model the attention that float16 needs.

    Both models are built without weights. One that cannot be built with its own attention has another fault,
    which loading names.
    """
    import torch
    from transformers import AutoModelForCausalLM

    def can_be_built(**options: str) -> bool:
        try:
            with torch.device("meta"):
                AutoModelForCausalLM.from_config(copy.deepcopy(config), **options)
        except (ValueError, ImportError, *DAMAGED):
            return False
        return True

    if can_be_built() and not can_be_built(attn_implementation=FLOAT32_ATTENTION):
        raise UserError(
            "model.dtype: float16 computes attention in float32, and transformers cannot replace the "
            f"attention of a {config.model_type} model ({_where(model)}); use bfloat16 or float32"
        )


def _where(model: Model) -> str:
    return f"model.name: {model.name!r}" + (f" at revision {model.revision!r}" if model.revision else "")


def load_tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """The tokenizer of params.yaml's `model` section; it pads on the left.

    A tokenizer without a pad token gets eos as pad. That is safe: labels do not depend on pad ids.
    """
    from transformers import AutoTokenizer

    quiet_libraries()
    if is_folder(model):
        check_folder(model)
        check_vocabulary(Path(model.name), _where(model))
    with readable_errors(model, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            model.name, revision=model.revision or "main", trust_remote_code=False
        )
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{_where(model)}: the tokenizer has no eos token, so no summary could end; use another model"
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"{_where(model)}: expected a fast tokenizer (tokenizer.json), which knows the span of each "
            "token; use another model"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    tokenizer.model_max_length = 10**9  # `encoding` cuts long documents; transformers need not warn
    return tokenizer


def is_folder(model: Model) -> bool:
    """Whether params.yaml's `model` section names a folder, and not a model on the hub."""
    name = model.name
    # A hub id is NAME or OWNER/NAME. A mistyped path must not become a question to the hub.
    no_hub_id = name.count("/") > 1 or name.startswith((".", "/", "~")) or name.endswith("/")
    return model.watch == name or no_hub_id or Path(name).exists()


def check_folder(model: Model) -> None:
    """Raise a UserError unless a local model folder holds a config and whole safetensors weights."""
    if is_folder(model):
        check_model_folder(Path(model.name), _where(model))
        recorded.require_folder(Path(model.name))


@contextmanager
def readable_errors(model: Model, what: str) -> Iterator[None]:
    """Inside, an error that transformers raises while it loads `what` becomes a UserError of one sentence."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, ArithmeticError, SafetensorError, StrictDataclassError) as error:
        raise UserError(f"{_where(model)}: its {what} {_reason(model, error)}") from error
    except BaseException as error:
        if isinstance(error, RuntimeError) and "conversion of the weights" in str(error):
            # transformers joins stored parts, such as a layer's experts, while it loads.
            raise UserError(
                f"{_where(model)}: its {what} lack parts of a layer (such as one of its experts), or hold "
                "them in another shape than config.json says; copy the whole model, or use its own config"
            ) from error
        if not isinstance(error, DAMAGED) and type(error) is not Exception and not _is_panic(error):
            raise
        raise UserError(
            f"{_where(model)}: its {what} could not be loaded ({type(error).__name__}: "
            f"{_first_sentence(error):.200}); it needs more memory than there is, or its files contradict "
            "each other: then copy the whole model again"
        ) from error


def _is_panic(error: BaseException) -> bool:
    """Whether an error is a panic of Rust code (tokenizers, safetensors), which no class can name."""
    return type(error).__name__ == "PanicException"


def _reason(model: Model, error: Exception) -> str:
    """Why a model could not be loaded, and what to do: the predicate of the error's sentence."""
    from huggingface_hub import errors as hub

    text = _first_sentence(error)
    if "trust_remote_code" in text or "custom code" in text:
        return (
            "needs Python code of its own (auto_map), which is never run here; use a model that transformers "
            "itself implements"
        )
    kind = type(error).__name__
    if is_folder(model):
        return f"could not be loaded from this folder ({kind}: {text})"
    # huggingface_hub's error is the cause of the one that transformers raises, sometimes several steps away.
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    for class_, words in (
        (hub.GatedRepoError, "is gated on the hub; log in there, or use a folder"),
        (hub.RevisionNotFoundError, "has no such revision on the hub; check model.revision"),
        (hub.RepositoryNotFoundError, "is not on the hub, and no folder has this name; check model.name"),
        (
            (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError),
            "is not in the local cache and needs a network connection; connect, or use a folder",
        ),
    ):
        if any(isinstance(cause, class_) for cause in causes):
            return words
    if "safetensors" in text:
        return "has no safetensors weights on the hub, and pickled ones can run code; use another model"
    return f"could not be loaded ({kind}: {text})"


def _first_sentence(error: BaseException) -> str:
    """The first sentence of an error, on one line."""
    return " ".join(str(error).split()).split(". ")[0]


def load_config(model: Model) -> PreTrainedConfig:
    """The configuration of the base model; a UserError unless it is a decoder-only model of transformers."""
    from transformers import AutoConfig

    quiet_libraries()
    check_folder(model)
    with readable_errors(model, "configuration"):
        config = AutoConfig.from_pretrained(
            model.name, revision=model.revision or "main", trust_remote_code=False
        )
    check_architecture(model, config)
    return config


def check_architecture(model: Model, config: PreTrainedConfig) -> None:
    """Raise a UserError if the configuration shows that the model is no decoder-only language model.

    Some encoders have a causal class too (BertLMHeadModel); `base_check.check_causal` tries the weights.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    named = getattr(config, "architectures", None)
    architectures = [str(known) for known in named] if isinstance(named, list | tuple) else []
    name = f"{architectures[0] if architectures else type(config).__name__} (model_type {config.model_type})"
    reason = None
    if getattr(config, "is_encoder_decoder", False):
        reason = "an encoder-decoder, which reads the article and writes the summary in two parts"
    elif config.get_text_config() is not config:  # its text part has a configuration of its own
        reason = "a multimodal model, with parts for more than text"
    elif not getattr(config, "is_decoder", False) and any("MaskedLM" in known for known in architectures):
        reason = "an encoder, whose tokens read those after them: training would see the answer"
    elif type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        reason = "not a causal language model of transformers"
    if reason:
        raise UserError(f"{_where(model)}: {name} is {reason}; use a decoder-only causal language model")
    quantized = getattr(config, "quantization_config", None)
    if quantized:
        method = dict(quantized).get("quant_method", "unknown") if isinstance(quantized, dict) else quantized
        raise UserError(
            f"{_where(model)}: its weights are quantized already ({method}); use the unquantized model, and "
            "model.quantization"
        )


def check_loaded(model: Model, base: PreTrainedModel, info: dict[str, Any]) -> None:
    """Raise a UserError unless every weight of the base was read, and every weight of its layers was used.

    info: from_pretrained's output_loading_info. transformers gives a missing weight random values.
    """
    where = _where(model)
    if info["mismatched_keys"]:
        name, stored, wanted = min(info["mismatched_keys"])
        raise UserError(
            f"{where}: {len(info['mismatched_keys'])} of its tensors have another shape than config.json "
            f"says, first {name}: {list(stored)} instead of {list(wanted)}; use the config of these weights"
        )
    if info["missing_keys"]:
        raise UserError(
            f"{where}: its weights lack {listed(info['missing_keys'])}, which config.json asks for (random "
            "values would replace them); copy the whole model, or use the config of these weights"
        )
    # A vision tower or the head of another task may be left out. Without a bias or a layer, however, it is
    # another model. Names are compared without the layers' numbers, so that whole layers count too.
    owners = {_numberless(name.rpartition(".")[0]) for name, _ in base.named_parameters()}
    dropped = [name for name in info["unexpected_keys"] if _numberless(name.rpartition(".")[0]) in owners]
    if dropped:
        raise UserError(
            f"{where}: its weights hold {listed(dropped)}, for which config.json has no place; "
            "use the config of these weights"
        )


def _numberless(name: str) -> str:
    """A module's name with N in place of every number: `model.layers.3.mlp` is `model.layers.N.mlp`."""
    return ".".join("N" if part.isdigit() else part for part in name.split("."))


def with_fused_activation(config: PreTrainedConfig) -> PreTrainedConfig:
    """`config`; its activation function is replaced by the same one as a single kernel, if there is one."""
    if getattr(config, "hidden_act", None) in FUSED_ACTIVATIONS:
        config.hidden_act = FUSED_ACTIVATIONS[config.hidden_act]
    return config


def load_base(model: Model) -> PreTrainedModel:
    """The base model on its device, frozen, in eval mode, in the dtype and quantization of params.yaml.

    Under FSDP it stays in the CPU's memory until the Trainer has distributed it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    check_dtype(model.dtype)
    check_folder(model)
    dtype = getattr(torch, model.dtype)
    config = with_fused_activation(load_config(model))
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "revision": model.revision or "main"}
    if model.dtype == "float16":
        register_float32_attention()
        options["attn_implementation"] = FLOAT32_ATTENTION
        require_replaceable_attention(model, config)
    if model.quantization != "none":
        options["quantization_config"] = quantization_config(model.quantization, dtype)
        options["device_map"] = {"": device_name()}  # bitsandbytes quantizes weights where they are placed
    if getattr(config, "auto_map", None):
        print(f"{_where(model)}: its own Python code is not run; transformers' {config.model_type} is used")
    with readable_errors(model, "weights"):
        base, info = AutoModelForCausalLM.from_pretrained(
            model.name,
            config=config,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `check_loaded` names them
            **options,
        )
    check_loaded(model, base, info)
    if model.quantization != "none":
        check_quantized(model, base)
    if model.quantization == "none" and not processes.sharded():  # a device may hold only a part of it
        base.to(device_name())
    keep_quantized_layers_trainable(base)
    base.requires_grad_(False)
    return base.eval()


def check_quantized(model: Model, base: PreTrainedModel) -> None:
    """Raise a UserError where no layer was quantized; say so where most weights were not.

    transformers replaces layers that are torch's Linear and nothing derived from it. Falcon has a class of
    its own; mixtures of experts keep theirs in one tensor.
    """
    replaced = [m for m in base.modules() if type(m).__name__ in ("Linear4bit", "Linear8bitLt")]
    count = sum(module.in_features * module.out_features for module in replaced)
    kept = {id(module.weight) for module in (*replaced, *embeddings(base))}
    others = sum(p.numel() for p in base.parameters() if p.dim() > 1 and id(p) not in kept)
    kind = f"quantization: {model.quantization}: bitsandbytes quantizes"
    if not count:
        raise UserError(f"{_where(model)}: {kind} no layer of {base.config.model_type}; set it to none")
    if count < others:
        print(
            f"{_where(model)}: {kind} {count / (count + others):.0%} of the matrices of "
            f"{base.config.model_type}; the others keep {str(base.dtype).removeprefix('torch.')}",
            flush=True,
        )


def embeddings(base: PreTrainedModel) -> list[torch.nn.Module]:
    """The layers of a model that stay as they are in every format: embeddings and the output layer."""
    layers = (base.get_input_embeddings(), base.get_output_embeddings())
    return [layer for layer in layers if layer is not None]


def keep_quantized_layers_trainable(base: PreTrainedModel) -> None:
    """Stop 4-bit layers from repacking their weights for inference on CPUs with AVX512-BF16.

    bitsandbytes 0.50.2 repacks at the first forward pass in eval mode, and never undoes it. Its kernel for
    the packed layout has no gradient, so a model that has generated once could not be trained any more.
    Other CPUs and GPUs never repack.
    """
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def quantization_config(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """The configuration of bitsandbytes for nf4 (with double quantization) or int8."""
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
