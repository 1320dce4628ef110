"""The training loss: cross-entropy on the summary and EOS, with logits nowhere else."""

from collections.abc import Iterator
from contextlib import contextmanager

from stages.common.encoding import IGNORED


def completion_loss(model, batch: dict, reduction: str = "mean"):
    """Cross-entropy (nats) over the labelled tokens of a batch padded on the right.

    batch: input_ids, labels, each [rows, length]. Logits are computed at the labels alone, some 12 of several
    hundred positions a row (a row of Phi-2's logits is 51,200 floats).
    """
    import torch

    labels = batch["labels"][:, 1:]
    chosen = (labels != IGNORED).flatten().nonzero().flatten()  # of rows x (length - 1) positions
    # The logit that predicts a token is one position before it. No mask: padding is on the right.
    with output_at(model, labels.shape, chosen):
        logits = model(input_ids=batch["input_ids"], use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten()[chosen], reduction=reduction
    )


@contextmanager
def output_at(model, shape, chosen) -> Iterator[None]:
    """Inside, the output layer sees `chosen` positions alone, as one row: logits are [1, chosen, vocabulary].

    shape: (rows, length - 1) that `chosen` counts through; the last position of a row predicts nothing.
    A hook and not the model's own `logits_to_keep`, which takes the same positions of every row, and which
    not every architecture has. What a model does to its logits (scaling, soft-capping) is done to each.
    """

    def select(module, inputs):
        states = inputs[0][:, : shape[1]].flatten(0, 1)
        return (states.index_select(0, chosen)[None], *inputs[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
