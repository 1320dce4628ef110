"""How much memory a run takes, from the model's configuration alone: nothing is downloaded but that.

The model is built without data: its tensors have a shape, a format and a device. What autograd keeps for the
backward pass is not guessed from a formula: a forward pass over such tensors takes the kernels that training
takes and lists every tensor that would be kept.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

from onesentence.core.errors import UserError
from onesentence.core.runtime import MAPPED_BYTES
from onesentence.model.adapters import trainable
from onesentence.model.loading import (
    device_name,
    with_fused_activation,
)
from onesentence.training.batches import EVAL_BATCH, batches_of, measured_batches, most_labels

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# bitsandbytes: a 4-bit code, an 8-bit scale for 64 of them and a float32 scale for 256 scales; an 8-bit code
# and a float32 scale for each output row.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
INT8_BYTES = 1.0
FRAGMENTATION = 2.3  # times what small blocks hold is what they take
LIBRARIES = 80_000_000  # bytes of code and buffers that come with the first step on a CPU
LOGIT_COPIES = 2  # of a step's logits, in float32: themselves and their softmax, later their gradient
WIDEST_COPIES = 2  # of the widest activation, while its gradient is computed


@dataclass(frozen=True)
class Training:
    """Bytes of one training step. libraries: theirs; activations: kept for the backward pass; transient:
    logits or the widest gradient, there for a moment."""

    libraries: int
    weights: int
    trained: int
    gradients: int
    optimizer: int
    activations: int
    transient: int

    @property
    def resident(self) -> int:
        """What is there throughout."""
        return self.libraries + self.weights + self.trained + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """Everything at once."""
        return self.resident + self.activations + self.transient


class NoEstimate(UserError):
    """The model's forward pass cannot be followed without data, so what it keeps is not known."""


def meta_model(config, dtype: str):
    """The architecture without data, in the format of its weights."""
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


def weight_bytes(model, dtype: str, quantization: str) -> int:
    """Bytes of the base's weights as they are held: linear layers quantized but for the output's."""
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


def quantized_layers(model) -> list:
    """The layers that bitsandbytes replaces: linear ones, GPT-2's Conv1D too, but not the output's."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return [
        module
        for module in model.modules()
        if type(module) in (torch.nn.Linear, Conv1D) and module is not head
    ]


def without_data(model, mode, precision=None) -> None:
    """Replace each weight of `model`, on the meta device, by a tensor without data on this machine's device.

    mode: the FakeTensorMode that they belong to; precision: of the layers that are quantized, where autocast
    multiplies in it (their weights are no operand of autocast).
    """
    import torch

    quantized = {id(layer.weight) for layer in quantized_layers(model)} if precision else set()
    made: dict[int, torch.Tensor] = {}  # by the identity of what it replaces: tied weights stay tied

    def copied(tensor):
        if id(tensor) not in made:
            frozen = id(tensor) in quantized and not tensor.requires_grad  # an adapter's own are not
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


def grouped_products_by_shape():
    """A mode in which the products of a mixture's experts, of one matrix each, have shapes alone.

    torch's own kernel takes float32 on a CPU; its description for tensors without data takes bfloat16 alone.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Product(torch.autograd.Function):
        """[rows, n] times a [n, m] for each expert: what each one's gradient needs is kept."""

        @staticmethod
        def forward(ctx, rows, weights):
            needs_rows, needs_weights = ctx.needs_input_grad
            ctx.save_for_backward(weights if needs_rows else None, rows if needs_weights else None)
            return rows.new_empty(rows.shape[0], weights.shape[-1])

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), options=None):
            if function in (torch.nn.functional.grouped_mm, torch._grouped_mm):
                return Product.apply(*arguments[:2])
            return function(*arguments, **(options or {}))

    return Mode()


@contextmanager
def one_sequence_a_row() -> Iterator[None]:
    """Inside, transformers does not look for several sequences in a row.

    It compares positions to find out, which it cannot without data; it would then build masks that training,
    with one sequence a row, does without.
    """
    from transformers import masking_utils

    searched = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = searched


def saved_bytes(
    base, rows: int, length: int, autocast: str = "none", quantization: str = "none"
) -> list[int]:
    """Bytes of each tensor that autograd keeps of a forward pass over [rows, length] tokens, but weights.

    base: a model on the meta device, into which an adapter may have been put; its weights are replaced.
    Raises NoEstimate for a model whose computation depends on the data.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    device, narrow = device_name(), autocast == "bfloat16"
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    without_data(base, mode, torch.bfloat16 if narrow and quantization != "none" else None)
    own = {weight.untyped_storage()._cdata for weight in base.parameters()}
    kept = {}  # by storage: views of one tensor are kept once

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
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
            # Without logits: they are counted apart, at the few positions that have a label.
            output = base.base_model(input_ids=ids, use_cache=False)
            sizes = [storage.nbytes() for storage in kept.values()]
            del output
    except Exception as error:  # whatever a model's own code raises where it looks at numbers
        raise NoEstimate(
            f"memory: no estimate for a model of type {base.config.model_type!r}, whose forward pass needs "
            f"real numbers ({type(error).__name__})"
        ) from error
    return sizes


def held_bytes(sizes: list[int]) -> int:
    """Bytes that blocks of these sizes take with this machine's allocator.

    A GPU's reuses what is freed. glibc's leaves holes between blocks below MAPPED_BYTES (see
    `runtime.map_large_blocks`); FRAGMENTATION is measured (benchmarks.memory).
    """
    if device_name() == "cuda":
        return sum(sizes)
    return round(sum(size if size >= MAPPED_BYTES else FRAGMENTATION * size for size in sizes))


def training_memory(
    config, settings, lora, rows: int, length: int, kept: int, method: str = "lora", autocast: str = "none"
) -> Training:
    """Bytes of a training step over `rows` padded to `length` tokens, with logits at `kept` of them in all.

    settings: params.yaml's `model` section; method, autocast: of `train`. What is trained is float32, with a
    gradient and two moments. Raises NoEstimate where the activations cannot be known beforehand.
    """
    from onesentence.training.fast import use_fast_parts

    base = meta_model(config, settings.dtype)
    weights = weight_bytes(base, settings.dtype, settings.quantization)
    trainable(base.requires_grad_(False), lora, 0, method)
    use_fast_parts(base, settings.dtype, autocast)  # as the stage does: other parts keep other tensors
    base.train()
    trained = sum(weight.numel() for weight in base.parameters() if weight.requires_grad)
    return Training(
        libraries=LIBRARIES if device_name() == "cpu" else 0,
        weights=weights,
        trained=0 if method == "full" else 4 * trained,
        gradients=4 * trained,
        optimizer=8 * trained,
        activations=held_bytes(saved_bytes(base, rows, length, autocast, settings.quantization)),
        transient=passing_bytes(config, settings.dtype, rows, length, kept),
    )


def cache_bytes_per_token(config, dtype: str) -> int:
    """Bytes of one token's keys and values in every layer."""
    config = config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * width * BYTES[dtype]


def generation_memory(config, settings, generate, longest: int) -> dict[str, int]:
    """Bytes of generation by part: weights, cache (the whole budget of tokens), logits of all beams."""
    base = meta_model(config, settings.dtype)
    own = generate.num_beams * generate.max_new_tokens
    articles = max(1, generate.max_batch_tokens // (longest + own))
    return {
        "weights": weight_bytes(base, settings.dtype, settings.quantization),
        "cache": cache_bytes_per_token(config, settings.dtype) * articles * (longest + own),
        "logits": LOGIT_COPIES * articles * generate.num_beams * config.get_text_config().vocab_size * 4,
    }


def passing_bytes(config, dtype: str, rows: int, length: int, kept: int) -> int:
    """Bytes that are there for a moment, and all that measuring the loss takes: first the logits at `kept`
    positions in all, later the gradient of the widest activation of [rows, length] tokens."""
    config = config.get_text_config()  # of a model that also sees, the part that reads
    widest = max(getattr(config, "intermediate_size", None) or 0, config.hidden_size)
    return max(
        LOGIT_COPIES * kept * config.vocab_size * 4,
        WIDEST_COPIES * rows * length * widest * BYTES[dtype],
    )


def free_bytes() -> int:
    """What is left for a run: of the GPU's memory where there is one, else of the machine's."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


def fitting_batch(needed: Callable[[int], int], batch_size: int, free: int) -> int | None:
    """The largest batch size, halving from `batch_size`, whose need (bytes of a batch size) is free."""
    while batch_size > 1:
        batch_size //= 2
        if needed(batch_size) <= free:
            return batch_size
    return None


def require_fit(needed: Callable[[int, str], int], p, free: int) -> int:
    """Bytes that training needs; a UserError with the settings that would fit where it is more than is free.

    needed: bytes of a batch size and a quantization; p: params.yaml's `model` and `train` sections.
    """
    batch_size, accumulation = p.train.batch_size, p.train.gradient_accumulation
    total = needed(batch_size, p.model.quantization)
    if total <= free:
        return total
    full = p.train.method == "full"
    for quantization in dict.fromkeys((p.model.quantization, p.model.quantization if full else "nf4")):
        smaller = fitting_batch(lambda size: needed(size, quantization), batch_size, free)  # noqa: B023
        if smaller:
            steps = accumulation * batch_size // smaller
            also = "" if quantization == p.model.quantization else f", model.quantization: {quantization}"
            advice = (
                f"these would fit: train.batch_size: {smaller}, train.gradient_accumulation: {steps}{also}"
            )
            break
    else:
        tried, instead = ("", "train.method: lora") if full else (", in nf4 neither", "a smaller base")
        advice = f"no batch size fits{tried}; lower prompt.max_input_tokens or use {instead}"
    raise UserError(
        f"train: will not fit: needs about {total / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; {advice}"
    )


def needed_bytes(p, config, rows: list, batch_size: int, quantization: str) -> int:
    """Bytes that training takes beyond this process's own, with the longest rows in one batch.

    Raises NoEstimate for a model whose activations cannot be known beforehand.
    """
    length = max(len(prompt) + len(completion) for prompt, completion in rows)
    settings = replace(p.train, batch_size=batch_size)
    batches = [[rows[i] for i in batch] for batch in batches_of(rows, settings, p.seed)]
    model = replace(p.model, quantization=quantization)
    training = training_memory(
        config, model, p.lora, batch_size, length, most_labels(batches), p.train.method, p.train.autocast
    )
    measuring = passing_bytes(config, model.dtype, EVAL_BATCH, length, most_labels(measured_batches(rows)))
    return training.resident + max(training.activations + training.transient, measuring)


def check_memory(p, config, rows: list) -> None:
    """Refuse a run that will not fit; where nobody can know beforehand, say so and go on."""
    try:
        needed = require_fit(partial(needed_bytes, p, config, rows), p, free_bytes())
    except NoEstimate as error:
        print(f"train: {error}; training starts without one")
        return
    print(
        f"train: needs about {needed / 1e9:.2f} GB for the model and a step, "
        f"{free_bytes() / 1e9:.1f} GB are free"
    )
