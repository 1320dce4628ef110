"""Add, save and load what is trained: an adapter on the base model (LoRA, rsLoRA, DoRA), or every weight."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onesentence.core import recorded
from onesentence.core.errors import UserError
from onesentence.core.files import read_json, write_json
from onesentence.model.loading import _first_sentence, load_base
from onesentence.model.model_files import listed, read_object, tensors_of

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel

    from onesentence.core.params import Lora, Model

ADAPTER = "adapter_config.json"  # of peft
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TUNING = "tuning.json"  # in the folder of a tuned model: how it was trained
# Merging adds the update to the weights in another order of float32 sums: 1e-5 of the logits' standard
# deviation on models/phi-tiny (measured), where a merge into tied embeddings is off by 0.4.
MERGE_TOLERANCE = 1e-3


def adaptable(module: torch.nn.Module) -> bool:
    """Whether peft has a LoRA layer for this kind of module."""
    import torch
    from transformers.pytorch_utils import Conv1D  # a linear layer whose weight is [in, out]: GPT-2

    kinds = (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv1d, torch.nn.Conv2d, Conv1D)
    return isinstance(module, kinds)  # bitsandbytes' layers are Linear too


def check_targets(base: PreTrainedModel, target_modules: list[str]) -> None:
    """Raise a UserError unless every name matches a layer, and only layers that peft can adapt.

    peft skips a name that matches nothing, as long as another one matches. A name matches as in peft: it is
    a module's whole name, or the end of one after a dot.
    """
    modules = dict(base.named_modules())
    known = sorted({name.rsplit(".", 1)[-1] for name, module in modules.items() if adaptable(module)})
    for target in target_modules:
        matches = [module for name, module in modules.items() if f".{name}".endswith(f".{target}")]
        other = next((module for module in matches if not adaptable(module)), None)
        if not matches or other is not None:
            what = f"a {type(other).__name__}, which takes no adapter" if matches else "no module"
            raise UserError(
                f"lora.target_modules: {target} matches {what} of the base model; use some of "
                f"{', '.join(known)}"
            )


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Inside, peft does not warn about Conv1D, which it corrects, or tied weights, which `merged` handles."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out")
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings")
        yield


def add_adapter(base: PreTrainedModel, lora: Lora, seed: int, method: str = "lora") -> PeftModel:
    """`base` with a new adapter, whose update is zero until it is trained (B = 0).

    method: lora (Hu et al. 2021: the update is alpha / rank x BA), rslora (Kalajdzievski 2023: alpha /
    sqrt(rank)) or dora (Liu et al. 2024: the length of each column is trained apart from its direction).
    Adapter weights are float32, whatever the dtype of the base.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    check_targets(base, lora.target_modules)
    torch.manual_seed(seed)  # A starts from random numbers
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha if lora.alpha is not None else 2 * lora.rank,
        lora_dropout=lora.dropout,
        target_modules=sorted(lora.target_modules),  # so that the order in params.yaml changes no byte
        bias="none",
        task_type="CAUSAL_LM",
        use_rslora=method == "rslora",
        use_dora=method == "dora",
    )
    try:
        with quiet_peft():
            return get_peft_model(base, config)
    except ValueError as error:  # e.g. Mamba reads the weight of out_proj without calling the layer
        raise UserError(
            f"lora.target_modules: peft cannot adapt {', '.join(lora.target_modules)} of this model: "
            f"{_first_sentence(error)}; use other modules"
        ) from error


def trainable(base: PreTrainedModel, lora: Lora, seed: int, method: str) -> PreTrainedModel | PeftModel:
    """`base`, ready for training: with a new adapter, or with every weight trainable (method full)."""
    if method == "full":
        return base.requires_grad_(True)
    return add_adapter(base, lora, seed, method)


def load_tuned(settings: Model, folder: Path) -> PreTrainedModel | PeftModel:
    """The model that stage `train` wrote to `folder`, in eval mode; its adapter is merged where `merged` can.

    settings: params.yaml's `model` section, which names the base.
    """
    from peft import PeftModel

    if not (folder / TUNING).is_file():
        raise UserError(f"{folder}: {TUNING} not found; run `dvc repro` to train a model")
    recorded.require_folder(folder)
    if read_json(folder / TUNING)["method"] == "full":
        return load_base(replace(settings, name=str(folder), watch=str(folder)))

    check_adapter(folder)

    def adapted() -> PeftModel:
        with quiet_peft():
            return PeftModel.from_pretrained(load_base(settings), folder).eval()

    return merged(adapted, settings)


def check_adapter(folder: Path) -> None:
    """Raise a UserError unless a folder holds a whole LoRA adapter of peft, in safetensors.

    peft would read a pickle where there are no safetensors, and for other kinds of adapters (XLORA) load
    what their configuration names.
    """
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(
            f"{folder}: {ADAPTER_WEIGHTS} not found; save the adapter as safetensors (a pickle can run code)"
        )
    tensors_of(folder / ADAPTER_WEIGHTS)
    kind = read_object(folder / ADAPTER).get("peft_type")
    if kind != "LORA":
        raise UserError(
            f"{folder / ADAPTER}: peft_type: expected 'LORA', found {kind!r:.80}; use another adapter"
        )


def merged(adapted: Callable[[], PeftModel], settings: Model) -> PreTrainedModel | PeftModel:
    """The model that `adapted()` loads, its adapter merged into the weights where that changes no output.

    settings: params.yaml's `model` section. The adapter stays separate in three cases. In other formats than
    float32, a weight of 16 bits rounds most of a small update away, and merging into 4-bit weights degrades
    outputs (peft#2321). Where two layers share an adapted weight (tied embeddings), the update would change
    both. And where the merged model has other logits.
    """
    model = adapted()
    if settings.quantization != "none" or settings.dtype != "float32":
        return model
    if shared_targets(model):
        print(f"the adapter is not merged: {listed(shared_targets(model))} shares its weights")
        return model
    wanted = probe_logits(model)
    model = model.merge_and_unload()
    if (probe_logits(model) - wanted).abs().max() <= MERGE_TOLERANCE * wanted.std():
        return model
    print("the adapter is not merged: merging would change the logits")
    del model  # so that only one is in memory
    return adapted()  # merging cannot be undone exactly


def shared_targets(model: PeftModel) -> list[str]:
    """Names of the adapted layers that share their weight with another module."""
    holders: dict[int, set[int]] = {}  # by the identity of a weight: the modules that hold it
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            holders.setdefault(id(weight), set()).add(id(module))
    return [
        name.removeprefix("base_model.model.")
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and len(holders.get(id(module.get_base_layer().weight), ())) > 1
    ]


def probe_logits(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    """Logits [1, 64, vocabulary] for ids spread over the vocabulary."""
    import torch

    table = model.get_input_embeddings().weight
    ids = torch.linspace(0, len(table) - 1, 64, device=table.device).long()[None]
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits.float()
    return logits


def whole_weights(model: PreTrainedModel | PeftModel) -> dict[str, torch.Tensor] | None:
    """The trained weights by name, on the CPU, if processes hold parts of them (FSDP); else None.

    Every process must call it, since they exchange their parts.
    """
    from torch.distributed.tensor import DTensor

    state = model.state_dict()
    if not any(isinstance(weight, DTensor) for weight in state.values()):
        return None
    weights = dict(model.named_parameters())  # a weight that two layers share has one name here
    wanted = {name for name, weight in weights.items() if weight.requires_grad}
    if len(wanted) == len(weights):  # all of the model: its buffers too
        wanted |= state.keys() - {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).cpu()
        for name, value in state.items()
        if name in wanted
    }


def save_tuned(
    model: PreTrainedModel | PeftModel,
    folder: Path,
    base_name: str,
    method: str,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write what was trained, and how (tuning.json); every run writes the same bytes.

    weights: of `whole_weights`; None where the model holds them itself.

    An adapter is adapter_model.safetensors and adapter_config.json. All weights are model.safetensors and
    config.json. What peft writes differs between runs, so it is corrected here: sets in hash order, the
    resolved path of the base, and a README with both.
    """
    # By default peft copies adapted embeddings into the adapter, and asks the hub whether it should.
    options: dict[str, Any] = {} if method == "full" else {"save_embedding_layers": False}
    if weights is not None:
        options["state_dict"] = weights
    model.save_pretrained(folder, safe_serialization=True, **options)
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


def parameter_counts(config: PreTrainedConfig, lora: Lora, method: str) -> tuple[int, int]:
    """(trained parameters, all parameters with the adapter's) of a model of this configuration."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):  # shapes without data: Phi-2 is counted in no memory
        base = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model = trainable(base, lora, 0, method)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return trained, sum(weight.numel() for weight in model.parameters())
