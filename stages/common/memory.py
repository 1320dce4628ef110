"""How much memory a run takes, from the model's configuration alone: nothing is downloaded but that.

The model is built on the meta device, which has shapes and no data. What autograd keeps for the backward pass
is not guessed from a formula: a forward pass on the meta device tells every tensor that it would keep.
"""

from collections.abc import Callable
from dataclasses import dataclass

from stages.common.errors import UserError
from stages.common.modeling import device_name, fused, trainable
from stages.common.runtime import MAPPED_BYTES

KEPT_ATTENTION = "kept_shapes"
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# bitsandbytes: a 4-bit code, an 8-bit scale for 64 of them and a float32 scale for 256 scales; an 8-bit code
# and a float32 scale for each output row.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
INT8_BYTES = 1.0
HOLES = 2.3  # times what small blocks hold is what they take
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


def meta_model(config, dtype: str):
    """The architecture without data, in the format of its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(fused(config), dtype=getattr(torch, dtype)).eval()


def weight_bytes(model, dtype: str, quantization: str) -> int:
    """Bytes of the base's weights as they are held: linear layers quantized but for the output's."""
    import torch

    quantized = set()
    if quantization != "none":
        head = model.get_output_embeddings()
        quantized = {
            id(module.weight)
            for module in model.modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        }
    per_weight = {"nf4": NF4_BYTES, "int8": INT8_BYTES}.get(quantization, BYTES[dtype])
    total = 0.0
    for weight in model.parameters():
        total += weight.numel() * (per_weight if id(weight) in quantized else BYTES[dtype])
        if quantization == "int8" and id(weight) in quantized:
            total += 4 * weight.shape[0]
    return round(total)


def register_kept_attention() -> None:
    """Attention that keeps what the fused kernels keep; the meta device would take the unfused one, which
    keeps every score instead."""
    import torch
    from transformers import AttentionInterface

    class Kept(torch.autograd.Function):
        """Shapes alone: queries, keys, values, output and one number a query are kept."""

        @staticmethod
        def forward(ctx, query, key, value):
            output = torch.empty_like(query)
            ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1]))
            return output

    def attention(module, query, key, value, attention_mask, **kwargs):
        return Kept.apply(query, key, value).transpose(1, 2).contiguous(), None

    AttentionInterface.register(KEPT_ATTENTION, attention)


def kept_bytes(base, rows: int, length: int) -> list[int]:
    """Bytes of each tensor that autograd keeps of a forward pass over [rows, length] tokens, but weights.

    base: a model on the meta device, into which an adapter may have been put.
    """
    import torch

    register_kept_attention()
    base.config._attn_implementation = KEPT_ATTENTION
    own = {weight.untyped_storage()._cdata for weight in base.parameters()}
    kept = {}  # by storage: views of one tensor are kept once

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    ids = torch.zeros((rows, length), dtype=torch.long, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # Without logits: they are counted apart, at the few positions that have a label.
        output = base.base_model(input_ids=ids, use_cache=False)
    sizes = [storage.nbytes() for storage in kept.values()]
    del output
    return sizes


def held_bytes(sizes: list[int]) -> int:
    """Bytes that blocks of these sizes take with this machine's allocator.

    A GPU's reuses what is freed. glibc's leaves holes between blocks below MAPPED_BYTES (see
    `runtime.map_large_blocks`); HOLES is measured (benchmarks.memory).
    """
    if device_name() == "cuda":
        return sum(sizes)
    return round(sum(size if size >= MAPPED_BYTES else HOLES * size for size in sizes))


def training_memory(
    config, settings, lora, rows: int, length: int, kept: int, method: str = "lora"
) -> Training:
    """Bytes of a training step over `rows` padded to `length` tokens, with logits at `kept` positions.

    settings: params.yaml's `model` section; method: of `train`. What is trained is float32, with a gradient
    and two moments.
    """
    base = meta_model(config, settings.dtype)
    weights = weight_bytes(base, settings.dtype, settings.quantization)
    trainable(base.requires_grad_(False), lora, 0, method)
    if method != "full":
        if device_name() == "cpu":  # as the stage does; its masks take a quarter of torch's own
            from stages.common.dropout import use_few_draws

            use_few_draws(base)
    base.train()
    trained = sum(weight.numel() for weight in base.parameters() if weight.requires_grad)
    return Training(
        libraries=LIBRARIES if device_name() == "cpu" else 0,
        weights=weights,
        trained=0 if method == "full" else 4 * trained,
        gradients=4 * trained,
        optimizer=8 * trained,
        activations=held_bytes(kept_bytes(base, rows, length)),
        transient=passing_bytes(config, settings.dtype, rows, length, kept),
    )


def cache_bytes_per_token(config, dtype: str) -> int:
    """Bytes of one token's keys and values in every layer."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * width * BYTES[dtype]


def generation_memory(config, settings, generate, longest: int) -> dict[str, int]:
    """Bytes of generation by part: weights, cache (the whole budget of tokens), logits of all beams."""
    base = meta_model(config, settings.dtype)
    own = generate.num_beams * generate.max_new_tokens
    articles = max(1, generate.batch_tokens // (longest + own))
    return {
        "weights": weight_bytes(base, settings.dtype, settings.quantization),
        "cache": cache_bytes_per_token(config, settings.dtype) * articles * (longest + own),
        "logits": LOGIT_COPIES * articles * generate.num_beams * config.vocab_size * 4,
    }


def passing_bytes(config, dtype: str, rows: int, length: int, kept: int) -> int:
    """Bytes that are there for a moment, and all that measuring the loss takes: first the logits at `kept`
    positions, later the gradient of the widest activation of [rows, length] tokens."""
    widest = max(getattr(config, "intermediate_size", None) or 0, config.hidden_size)
    return max(
        LOGIT_COPIES * rows * kept * config.vocab_size * 4,
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
