"""Loading the base model, its tokenizer, and what was trained: one loader for every stage.

Safetensors only, no remote code. What params.yaml asks for is what is loaded, or an error.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

from stages.common.errors import UserError
from stages.common.files import read_json, write_json
from stages.common.runtime import cpu_info, quiet_libraries

FLOAT32_ATTENTION = "float32_sdpa"
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
# The same function in one kernel instead of eight passes over the widest tensor of the model.
FUSED_ACTIVATIONS = {"gelu_new": "gelu_pytorch_tanh"}
METHODS = ("lora", "rslora", "dora", "full")
TUNING = "tuning.json"  # in the folder of a tuned model: how it was trained


def device_name() -> str:
    """cuda where there is one, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def has_bfloat16() -> bool:
    """Whether this machine computes in bfloat16 by itself.

    Emulated, it is slower and no better than what it replaces: a T4, a CPU without AVX512-BF16 or AMX.
    """
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(BFLOAT16_FLAGS & set(cpu_info().get("flags", "").split()))


def require_bfloat16(key: str, instead: str) -> None:
    """Raise a UserError that names the key of params.yaml unless this machine computes in bfloat16."""
    if not has_bfloat16():
        what = "GPU" if device_name() == "cuda" else "CPU"
        raise UserError(f"{key}: bfloat16 was requested but this {what} does not have it; use {instead}")


def check_dtype(dtype: str) -> None:
    """Refuse a number format that this GPU does not compute in; a CPU may be slow in one."""
    import torch

    if dtype == "bfloat16" and torch.cuda.is_available():
        require_bfloat16("model.dtype", "float16 (presets/phi2-xsum-t4.yaml) or float32")


def _float32_attention(module, query, key, value, attention_mask, **kwargs):
    """Scaled dot-product attention computed in float32, whatever the model's format.

    In float16 Phi's attention scores overflow and the logits are NaN (transformers#28163).
    query, key, value: [batch, heads, tokens, head_dim]; the result is [batch, tokens, heads, head_dim].
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast(query.device.type, enabled=False):
        output, weights = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **kwargs
        )
    return output.to(query.dtype), weights


def register_float32_attention() -> None:
    """Make FLOAT32_ATTENTION known to transformers."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(FLOAT32_ATTENTION, _float32_attention)
    AttentionMaskInterface.register(FLOAT32_ATTENTION, sdpa_mask)


def _where(model) -> str:
    return f"model.name: {model.name!r}" + (f" at revision {model.revision!r}" if model.revision else "")


def load_tokenizer(model):
    """The tokenizer of params.yaml's `model` section. Padding is on the left.

    Where the tokenizer has no pad token, pad is eos; no label rule looks at pad ids.
    """
    from transformers import AutoTokenizer

    quiet_libraries()
    check_folder(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model.name, revision=model.revision or "main")
    except (OSError, ValueError) as error:
        raise UserError(_cannot_load(model, "tokenizer", error)) from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"{_where(model)}: the tokenizer has no eos token, so no summary could end")
    if not tokenizer.is_fast:
        raise UserError(f"{_where(model)}: needs a fast tokenizer (tokenizer.json) to know where a cut falls")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    tokenizer.model_max_length = 10**9  # the cut is ours; a long document is no warning
    return tokenizer


def check_folder(model) -> None:
    """A local model folder must hold a config and safetensors weights."""
    folder = Path(model.name)
    if model.path != model.name and not folder.exists():
        return  # a hub id
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not list(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        raise UserError(
            f"{_where(model)}: not a model folder, {' and '.join(missing)} not found; "
            "expected the layout that save_pretrained writes"
        )


def _cannot_load(model, what: str, error: Exception) -> str:
    return (
        f"{_where(model)}: its {what} could not be loaded ({type(error).__name__}); a hub model needs a "
        "network connection or a copy in the local cache. Check the name and the revision, or use a folder"
    )


def load_config(model):
    """The configuration of the base model."""
    from transformers import AutoConfig

    check_folder(model)
    try:
        return AutoConfig.from_pretrained(model.name, revision=model.revision or "main")
    except (OSError, ValueError) as error:
        raise UserError(_cannot_load(model, "configuration", error)) from error


def fused(config):
    """`config` with an activation function that is one kernel, where it names the same one in parts."""
    if getattr(config, "hidden_act", None) in FUSED_ACTIVATIONS:
        config.hidden_act = FUSED_ACTIVATIONS[config.hidden_act]
    return config


def load_base(model):
    """The base model on its device, in eval mode, frozen, in the dtype and quantization asked for."""
    import torch
    from transformers import AutoModelForCausalLM

    check_dtype(model.dtype)
    check_folder(model)
    dtype = getattr(torch, model.dtype)
    options = {"dtype": dtype, "use_safetensors": True, "revision": model.revision or "main"}
    if model.dtype == "float16":
        register_float32_attention()
        options["attn_implementation"] = FLOAT32_ATTENTION
    if model.quantization != "none":
        options["quantization_config"] = quantization_config(model.quantization, dtype)
        options["device_map"] = {"": device_name()}
    config = fused(load_config(model))
    try:
        base = AutoModelForCausalLM.from_pretrained(model.name, config=config, **options)
    except (OSError, ValueError) as error:
        raise UserError(_cannot_load(model, "weights", error)) from error
    if model.quantization == "none":
        base.to(device_name())
    keep_quantized_layers_trainable(base)
    base.requires_grad_(False)
    return base.eval()


def keep_quantized_layers_trainable(base) -> None:
    """Stop 4-bit layers from repacking themselves for inference on CPUs with AVX512-BF16.

    bitsandbytes 0.50.2 does so at the first forward in eval mode and never goes back, and its kernel
    for the packed layout has no gradient: a model that has generated or been evaluated once could not
    be trained any more. Other CPUs and GPUs take the path that is kept here.
    """
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def quantization_config(quantization: str, dtype):
    """bitsandbytes' configuration of nf4 (double quantization) or int8."""
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def check_targets(base, target_modules: list[str]) -> None:
    """Every named module must match at least one linear layer (peft passes over a wrong one)."""
    ends = {
        name.rsplit(".", 1)[-1] for name, module in base.named_modules() if hasattr(module, "in_features")
    }
    unmatched = [name for name in target_modules if name not in ends]
    if unmatched:
        raise UserError(
            f"lora.target_modules: {', '.join(unmatched)} matches no module of the base model; "
            f"it has {', '.join(sorted(ends))}"
        )


def add_adapter(base, lora, seed: int, method: str = "lora"):
    """A fresh adapter on `base`: its update is zero until trained (B = 0).

    method: lora (Hu et al. 2021: the update is alpha / rank x BA), rslora (Kalajdzievski 2023: alpha /
    sqrt(rank)) or dora (Liu et al. 2024: the length of each column is trained apart from its direction).
    Adapter weights are float32 whatever the base's dtype.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    check_targets(base, lora.target_modules)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha if lora.alpha is not None else 2 * lora.rank,
        lora_dropout=lora.dropout,
        target_modules=sorted(lora.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
        use_rslora=method == "rslora",
        use_dora=method == "dora",
    )
    return get_peft_model(base, config)


def trainable(base, lora, seed: int, method: str):
    """`base` ready to be trained: with a fresh adapter on it, or with every weight free (full)."""
    if method == "full":
        return base.requires_grad_(True)
    return add_adapter(base, lora, seed, method)


def load_tuned(settings, folder: Path):
    """The model that `train` wrote to `folder`, in eval mode, its adapter merged where that loses nothing.

    settings: params.yaml's `model` section, the base that it was trained on.
    """
    from peft import PeftModel

    if not (folder / TUNING).is_file():
        raise UserError(f"{folder}: no {TUNING} there; run `dvc repro` to train a model")
    if read_json(folder / TUNING)["method"] == "full":
        return load_base(SimpleNamespace(**{**vars(settings), "name": str(folder), "path": str(folder)}))
    return merged(PeftModel.from_pretrained(load_base(settings), folder).eval(), settings)


def merged(model, settings):
    """`model` with its adapter's update added to the base's weights, where that loses nothing.

    settings: params.yaml's `model` section. Only in float32: a 16-bit weight rounds most of a small update
    away, and merging into 4-bit weights degrades outputs (peft#2321). There the adapter stays beside them.
    """
    if settings.quantization != "none" or settings.dtype != "float32":
        return model
    return model.merge_and_unload()


def save_tuned(model, folder: Path, base_name: str, method: str) -> None:
    """Write what was trained, and how, the same bytes on every run.

    An adapter: adapter_model.safetensors and adapter_config.json; peft writes sets in hash order, the base's
    path as it was resolved, and a README with both. All weights: model.safetensors and config.json.
    """
    model.save_pretrained(folder, safe_serialization=True)
    path = folder / "adapter_config.json"
    if method != "full":
        config = json.loads(path.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = base_name
        config["target_modules"].sort()
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for extra in folder.iterdir():
        if extra.suffix not in (".safetensors", ".json"):
            shutil.rmtree(extra) if extra.is_dir() else extra.unlink()
    write_json(folder / TUNING, {"method": method, "base": base_name})


def parameter_counts(config, lora, method: str) -> tuple[int, int]:
    """(trained, all with those of an adapter) parameters of a configuration, counted on the meta device."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model = trainable(base, lora, 0, method)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return trained, sum(weight.numel() for weight in model.parameters())
