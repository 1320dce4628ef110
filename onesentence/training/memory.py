"""Estimate the memory of a run from the model's configuration; nothing else is downloaded.

The model is built without data: its tensors have a shape, a format and a device. What autograd keeps for the
backward pass is not guessed by a formula. A forward pass over such tensors uses the kernels of training, and
lists every tensor that autograd would keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from onesentence.core import processes
from onesentence.core.errors import UserError
from onesentence.core.runtime import MAPPED_BYTES
from onesentence.model.adapters import trainable
from onesentence.model.loading import device_name, with_fused_activation
from onesentence.training.batches import EVAL_BATCH, Row, batches_of, measured_batches, most_labels

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.overrides import TorchFunctionMode
    from transformers import PreTrainedConfig, PreTrainedModel

    from onesentence.core.params import Generate, Lora, Model, Params

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bytes of a weight in bitsandbytes' formats. nf4: a code of 4 bits, a scale of 8 bits for 64 codes, a float32
# scale for 256 scales. int8: a code of 8 bits; `weight_bytes` adds a float32 scale for each output row.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
INT8_BYTES = 1.0
FRAGMENTATION = 2.3  # small blocks take this many times the bytes that they hold
LIBRARIES = 80_000_000  # bytes of code and buffers that the first step on a CPU loads
LOGIT_COPIES = 2  # of a step's logits, in float32: the logits and their softmax, later their gradient
WIDEST_COPIES = 2  # of the widest activation, while its gradient is computed


@dataclass(frozen=True)
class Training:
    """Bytes of one training step, by what they hold.

    activations: what autograd keeps for the backward pass; transient: the logits, or the widest gradient.
    """

    libraries: int
    weights: int
    trained: int
    gradients: int
    optimizer: int
    activations: int
    transient: int

    @property
    def resident(self) -> int:
        """Bytes that are held for the whole run."""
        return self.libraries + self.weights + self.trained + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """The peak: all parts at once."""
        return self.resident + self.activations + self.transient


# The width of the layers between two blocks of attention, by family.
MLP_WIDTHS = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")


class NoEstimate(UserError):
    """No estimate is possible: the model's forward pass needs data."""


def meta_model(config: PreTrainedConfig, dtype: str) -> PreTrainedModel:
    """A model of this configuration on the meta device (no data), in the format of its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                with_fused_activation(deepcopy(config)), dtype=getattr(torch, dtype)
            )
    except ValueError as error:
        raise NoEstimate(
            f"memory: no estimate for a model of type {config.model_type!r}, which transformers does not "
            "know as a causal language model"
        ) from error
    return model.eval()


def weight_bytes(model: PreTrainedModel, dtype: str, quantization: str) -> int:
    """Bytes of the base's weights in memory; all linear layers except the output layer are quantized."""
    quantized = (
        {id(layer.weight): layer for layer in quantized_layers(model)} if quantization != "none" else {}
    )
    per_weight = {"nf4": NF4_BYTES, "int8": INT8_BYTES}.get(quantization, BYTES[dtype])
    total = 0.0
    for weight in model.parameters():
        total += weight.numel() * (per_weight if id(weight) in quantized else BYTES[dtype])
    if quantization == "int8":
        total += 4 * sum(getattr(layer, "out_features", None) or layer.nf for layer in quantized.values())
    return round(total)


def quantized_layers(model: PreTrainedModel) -> list[Any]:
    """The layers that bitsandbytes replaces: Linear and GPT-2's Conv1D, except the output layer."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return [
        module
        for module in model.modules()
        if type(module) in (torch.nn.Linear, Conv1D) and module is not head
    ]


def without_data(
    model: PreTrainedModel | PeftModel, mode: FakeTensorMode, precision: torch.dtype | None = None
) -> None:
    """Replace each weight of `model`, on the meta device, by a tensor without data on this machine's device.

    mode: the FakeTensorMode of the new tensors; precision: the format of quantized layers under autocast,
    which then keeps no cast copy of their weights.
    """
    import torch

    quantized = {id(layer.weight) for layer in quantized_layers(model)} if precision else set()
    made: dict[int, torch.Tensor] = {}  # by the id of the replaced tensor, so that tied weights stay tied

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            frozen = id(tensor) in quantized and not tensor.requires_grad  # an adapter's weights are trained
            dtype = precision if frozen else tensor.dtype
            with mode:
                made[id(tensor)] = torch.empty(tensor.shape, dtype=dtype, device=device_name())
        return made[id(tensor)]

    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = torch.nn.Parameter(copied(weight), weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = copied(buffer)


def grouped_products_by_shape() -> TorchFunctionMode:
    """A mode in which torch's grouped products (of a mixture's experts) compute shapes only.

    torch's kernel computes float32 on a CPU, but its version for tensors without data accepts bfloat16 only.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Product(torch.autograd.Function):
        """[rows, n] times one [n, m] for each expert; keeps what the gradients need."""

        @staticmethod
        def forward(ctx: Any, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            needs_rows, needs_weights = ctx.needs_input_grad
            ctx.save_for_backward(weights if needs_rows else None, rows if needs_weights else None)
            return rows.new_empty(rows.shape[0], weights.shape[-1])

    class Mode(TorchFunctionMode):
        def __torch_function__(
            self,
            function: Callable[..., Any],
            types: Any,
            arguments: Sequence[Any] = (),
            options: dict[str, Any] | None = None,
        ) -> Any:
            if function in (torch.nn.functional.grouped_mm, torch._grouped_mm):
                return Product.apply(*arguments[:2])  # type: ignore[no-untyped-call]  # untyped in torch
            return function(*arguments, **(options or {}))

    return Mode()


@contextmanager
def one_sequence_a_row() -> Iterator[None]:
    """Inside, transformers assumes one sequence a row.

    Otherwise it compares positions to detect several, which is impossible without data. It would then build
    masks that training, with one sequence a row, does not need.
    """
    from transformers import masking_utils

    original = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = original


def saved_bytes(
    base: PreTrainedModel | PeftModel,
    rows: int,
    length: int,
    autocast: str = "none",
    quantization: str = "none",
) -> list[int]:
    """Bytes of each tensor except weights that autograd keeps of a forward pass over [rows, length] tokens.

    base: a model on the meta device, with or without an adapter; its weights are replaced. Raises NoEstimate
    for a model whose computation depends on the data.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    device, narrow = device_name(), autocast == "bfloat16"
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    without_data(base, mode, torch.bfloat16 if narrow and quantization != "none" else None)
    own = {weight.untyped_storage()._cdata for weight in base.parameters()}
    # By address, so that several views of one tensor count once.
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            storages[storage._cdata] = storage
        return tensor

    try:
        with (
            mode,
            one_sequence_a_row(),
            grouped_products_by_shape(),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast(device, torch.bfloat16, enabled=narrow),
        ):
            ids = torch.zeros((rows, length), dtype=torch.long, device=device)
            # Without logits: `passing_bytes` counts them, at the few positions that have a label.
            output = base.base_model(input_ids=ids, use_cache=False)
            sizes = [storage.nbytes() for storage in storages.values()]
            del output
    except Exception as error:  # a model's code may raise anything when it reads numbers that do not exist
        raise NoEstimate(
            f"memory: no estimate for a model of type {base.config.model_type!r}, whose forward pass needs "
            f"real numbers ({type(error).__name__})"
        ) from error
    return sizes


def held_bytes(sizes: list[int]) -> int:
    """Bytes that blocks of these sizes take from this machine's allocator.

    A GPU's allocator reuses freed blocks. glibc's leaves holes between blocks below MAPPED_BYTES (see
    `runtime.map_large_blocks`); FRAGMENTATION is measured (benchmarks.memory).
    """
    if device_name() == "cuda":
        return sum(sizes)
    return round(sum(size if size >= MAPPED_BYTES else FRAGMENTATION * size for size in sizes))


def training_memory(
    config: PreTrainedConfig,
    settings: Model,
    lora: Lora,
    rows: int,
    length: int,
    labels: int,
    method: str = "lora",
    autocast: str = "none",
) -> Training:
    """Bytes of a training step over `rows` padded to `length` tokens, with `labels` labels in all.

    settings: params.yaml's `model` section; method, autocast: of its `train` section. Trained weights are
    float32, each with a gradient and two moments. Raises NoEstimate if the activations cannot be predicted.
    """
    from onesentence.training.fast import use_fast_parts

    base = meta_model(config, settings.dtype)
    weights = weight_bytes(base, settings.dtype, settings.quantization)
    trainable(base.requires_grad_(False), lora, 0, method)
    use_fast_parts(base, settings.dtype, autocast)  # as stage `train` does: other parts keep other tensors
    base.train()
    trained = sum(weight.numel() for weight in base.parameters() if weight.requires_grad)
    return Training(
        libraries=LIBRARIES if device_name() == "cpu" else 0,
        weights=weights,
        trained=0 if method == "full" else 4 * trained,  # in full fine-tuning they are the weights
        gradients=4 * trained,
        optimizer=8 * trained,
        activations=held_bytes(saved_bytes(base, rows, length, autocast, settings.quantization)),
        transient=passing_bytes(config, settings.dtype, rows, length, labels),
    )


def divided(training: Training, config: PreTrainedConfig, dtype: str, count: int) -> Training:
    """The bytes of one of `count` processes that divide the model (FSDP).

    Beside its part, a process holds the gathered weights of two layers (the next one comes while one is
    computed), and of what belongs to no layer, such as the embeddings.
    """
    base = meta_model(config, dtype)
    stacks = [child for child in base.get_decoder().children() if hasattr(child, "__getitem__")]
    layers = [sum(weight.numel() for weight in layer.parameters()) for stack in stacks for layer in stack]
    other = sum(weight.numel() for weight in base.parameters()) - sum(layers)
    return replace(
        training,
        weights=-(-training.weights // count) + BYTES[dtype] * (2 * max(layers, default=0) + other),
        trained=-(-training.trained // count),
        gradients=-(-training.gradients // count),
        optimizer=-(-training.optimizer // count),
    )


def cache_bytes_per_token(config: PreTrainedConfig, dtype: str) -> int:
    """Bytes of one token's keys and values in every layer."""
    config = config.get_text_config()
    count = getattr(config, "num_attention_heads", None)
    if not count:
        raise NoEstimate(f"generation: no estimate: a {config.model_type} model keeps no keys and values")
    named = (getattr(config, name, None) for name in ("num_key_value_heads", "num_kv_heads"))
    heads = next(filter(None, named), count)
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
        heads = 1  # of Falcon and GPT-BigCode
    width = getattr(config, "head_dim", None) or config.hidden_size // count
    numbers: int = 2 * config.num_hidden_layers * heads * width  # 2: keys and values
    return numbers * BYTES[dtype]


def generation_memory(
    config: PreTrainedConfig, settings: Model, generate: Generate, longest: int
) -> dict[str, int]:
    """Bytes of generation by part: weights, cache (of the whole token budget), logits of all beams."""
    base = meta_model(config, settings.dtype)
    own = generate.num_beams * generate.max_new_tokens
    articles = max(1, generate.max_batch_tokens // (longest + own))
    return {
        "weights": weight_bytes(base, settings.dtype, settings.quantization),
        "cache": cache_bytes_per_token(config, settings.dtype) * articles * (longest + own),
        "logits": LOGIT_COPIES * articles * generate.num_beams * config.get_text_config().vocab_size * 4,
    }


def passing_bytes(config: PreTrainedConfig, dtype: str, rows: int, length: int, labels: int) -> int:
    """Bytes that are held only for a moment; measuring a loss takes no others.

    First they are the logits of all `labels`, later the gradient of the widest activation of [rows, length]
    tokens; the larger of the two counts.
    """
    config = config.get_text_config()  # the text part of a multimodal model
    # Families call it differently, and those that do not name it have four times the hidden size.
    named = (getattr(config, name, None) for name in MLP_WIDTHS)
    widest = max(next(filter(None, named), 4 * config.hidden_size), config.hidden_size)
    peak: int = max(
        LOGIT_COPIES * labels * config.vocab_size * 4,
        WIDEST_COPIES * rows * length * widest * BYTES[dtype],
    )
    return peak


def free_bytes() -> int:
    """Free bytes for a run: of the GPU's memory if there is a GPU, else of the machine's."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    available: int = psutil.virtual_memory().available
    return available


def fitting_batch(needed: Callable[[int], int], batch_size: int, free: int) -> int | None:
    """The largest batch size that fits in `free` bytes, halving from `batch_size`; None if none fits.

    needed: bytes that a batch size needs.
    """
    while batch_size > 1:
        batch_size //= 2
        if needed(batch_size) <= free:
            return batch_size
    return None


def require_fit(needed: Callable[[int, str], int], p: Params, free: int) -> int:
    """Bytes that training needs; a UserError with settings that would fit if more than `free` are needed.

    needed: bytes that a batch size and a quantization need; p: params.yaml's `model` and `train` sections.
    """
    batch_size, accumulation = p.train.batch_size, p.train.gradient_accumulation
    total = needed(batch_size, p.model.quantization)
    if total <= free:
        return total
    full = p.train.method == "full"
    # First as set, then in nf4, which full fine-tuning cannot train.
    for quantization in dict.fromkeys((p.model.quantization, p.model.quantization if full else "nf4")):
        smaller = fitting_batch(lambda size: needed(size, quantization), batch_size, free)  # noqa: B023
        if smaller:
            steps = accumulation * batch_size // smaller  # as many rows a step as before
            also = "" if quantization == p.model.quantization else f", model.quantization: {quantization}"
            advice = (
                f"these would fit: train.batch_size: {smaller}, train.gradient_accumulation: {steps}{also}"
            )
            break
    else:
        tried, instead = ("", "train.method: lora") if full else (", not even in nf4", "a smaller base")
        advice = f"no batch size fits{tried}; lower prompt.max_input_tokens or use {instead}"
    raise UserError(
        f"train: will not fit: needs about {total / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; {advice}"
    )


def needed_bytes(
    p: Params,
    config: PreTrainedConfig,
    rows: Sequence[Row],
    batch_size: int,
    quantization: str,
    several: tuple[int, bool] | None = None,
) -> int:
    """Bytes that training adds to a process, with the longest rows in one batch.

    p: the sections `model`, `lora`, `train` and `seed`; rows: (prompt ids, completion ids); several: the
    number of processes that share a batch, and whether they divide the model (FSDP); None is this run's.
    Raises NoEstimate for a model whose activations cannot be predicted.
    """
    count, sharded = several or (processes.count(), processes.sharded())
    length = max(len(prompt) + len(completion) for prompt, completion in rows)
    settings = replace(p.train, batch_size=batch_size)
    batches = [[rows[i] for i in batch[::count]] for batch in batches_of(rows, settings, p.seed)]
    model = replace(p.model, quantization=quantization)
    training = training_memory(
        config,
        model,
        p.lora,
        -(-batch_size // count),
        length,
        most_labels(batches),
        p.train.method,
        p.train.autocast,
    )
    if sharded:
        training = divided(training, config, model.dtype, count)
    measuring = passing_bytes(config, model.dtype, EVAL_BATCH, length, most_labels(measured_batches(rows)))
    return training.resident + max(training.activations + training.transient, measuring)


def check_memory(p: Params, config: PreTrainedConfig, rows: Sequence[Row]) -> None:
    """Raise a UserError if training will not fit in memory; without an estimate, say so and continue."""
    try:
        needed = require_fit(
            partial(needed_bytes, p, config, rows), p, free_bytes() // processes.neighbours()
        )
    except NoEstimate as error:
        print(f"train: {error}; training starts without one")
        return
    print(
        f"train: needs about {needed / 1e9:.2f} GB for the model and a step, "
        f"{free_bytes() / 1e9:.1f} GB are free"
    )
