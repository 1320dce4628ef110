"""The training loss: cross-entropy on the summary and EOS, with logits nowhere else."""

from stages.common.encoding import IGNORED


def completion_loss(model, batch: dict, reduction: str = "mean"):
    """Cross-entropy (nats) over the labelled tokens of a batch padded on the right.

    batch: input_ids, labels, each [rows, length]. Logits are computed where any row of the batch has a
    label, some 30 of several hundred positions (a row of Phi-2's logits is 51,200 floats). Rows of similar
    length share a batch, so that these positions are few.
    """
    import torch

    labels = batch["labels"]
    labelled = (labels != IGNORED).any(dim=0).nonzero().flatten()
    first, last = labelled[0].item(), labelled[-1].item()
    # The logit that predicts a token stands one position before it. No mask: padding is on the right.
    logits = model(
        input_ids=batch["input_ids"],
        use_cache=False,
        logits_to_keep=torch.arange(first - 1, last, device=labels.device),
    ).logits
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1),  # [rows * (last - first + 1), vocabulary]
        labels[:, first : last + 1].flatten(),
        ignore_index=IGNORED,
        reduction=reduction,
    )
