"""The training loss: cross-entropy on the summary and EOS; logits are computed for these tokens only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onesentence.model.encoding import IGNORED

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def completion_loss(
    model: PreTrainedModel, batch: dict[str, torch.Tensor], reduction: str = "mean"
) -> torch.Tensor:
    """Cross-entropy (nats) over the labelled tokens of a batch padded on the right.

    batch: input_ids and labels, each [rows, length]. The last layer's MLP (a twelfth of the products of a
    model of 6 layers) and the logits (51,200 floats for each position of Phi-2) are computed only where a
    label is predicted: about 12 of several hundred positions a row.
    """
    import torch

    labels = batch["labels"]
    rows, columns = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    # The logits at one position predict the token at the next. No mask is needed: padding is on the right.
    whole = getattr(model, "module", model)  # DistributedDataParallel hides the model's own methods
    with predicting_at(whole, rows * labels.shape[1] + columns):
        logits = model(input_ids=batch["input_ids"], use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels[rows, columns + 1], reduction=reduction
    )


def in_format(model: PreTrainedModel, autocast: str) -> torch.autocast:
    """A context in which the model's products are computed in the format of `train.autocast`."""
    import torch

    device = next(model.parameters()).device
    return torch.autocast(device.type, torch.bfloat16, enabled=autocast == "bfloat16")


@contextmanager
def predicting_at(model: PreTrainedModel, places: torch.Tensor) -> Iterator[None]:
    """Inside, the last MLP and the output layer compute only at `places`: logits are [1, places, vocabulary].

    places: indices into the rows x length positions of a batch. Elsewhere the MLP's output is 0, which
    nothing reads. The model's own `logits_to_keep` would select the same positions in every row, so this uses
    hooks. What a model does to its logits (scaling, soft-capping) still applies to each of them.
    """

    def select(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0].flatten(0, 1).index_select(0, places)[None], *inputs[1:])

    hooks = [model.get_output_embeddings().register_forward_pre_hook(select)]
    if (mlp := last_mlp(model)) is not None:
        shape: list[int] = []  # of the MLP's input, noted by one hook for the other

        def select_and_note(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            shape[:] = inputs[0].shape
            return select(module, inputs)

        def spread(module: torch.nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            flat = output.new_zeros(shape[0] * shape[1], output.shape[-1])
            return flat.index_copy(0, places, output[0]).view(*shape[:2], -1)

        hooks += [mlp.register_forward_pre_hook(select_and_note), mlp.register_forward_hook(spread)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def last_mlp(model: PreTrainedModel) -> torch.nn.Module | None:
    """The last layer's MLP if it treats each position by itself, else None.

    It does if it consists of linear layers and functions of single numbers. A mixture of experts, a state
    space and a layer that mixes neighbouring tokens have parts of other kinds. An MLP with a second argument
    (Bloom adds the residual itself) is not used either: that argument would not be reduced to `places`.
    """
    import inspect

    import torch

    stacks = [child for child in model.get_decoder().children() if isinstance(child, torch.nn.ModuleList)]
    mlp = getattr(stacks[0][-1], "mlp", None) if len(stacks) == 1 and len(stacks[0]) else None
    if mlp is None or any(isinstance(part, torch.nn.ModuleList) for part in mlp.modules()):
        return None
    if len(inspect.signature(mlp.forward).parameters) != 1:
        return None
    weights = {
        id(weight)
        for part in mlp.modules()
        if hasattr(part, "in_features") or hasattr(part, "nf")  # linear layers; nf: GPT-2's Conv1D
        for weight in part.parameters()
    }
    return mlp if all(id(weight) in weights for weight in mlp.parameters()) else None
