"""The training loss: cross-entropy on the summary and EOS, with logits nowhere else."""

from stages.common.encoding import IGNORED


def completion_loss(model, batch: dict, reduction: str = "mean"):
    """Cross-entropy (nats) over the labelled tokens of a left-padded batch.

    batch: input_ids, attention_mask, position_ids, labels, each [rows, length]. Left padding puts every
    summary at the end, so logits are computed for the last `kept` positions alone, where kept covers
    the longest summary: about 25 of several hundred (a row of Phi-2's logits is 51,200 floats).
    """
    import torch

    labels = batch["labels"]
    labelled = (labels != IGNORED).sum(dim=1).max().item()
    # The logit that predicts a token stands one position before it.
    kept = min(labelled + 1, labels.shape[1])
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        use_cache=False,
        logits_to_keep=kept,
    ).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1),  # [rows * (kept - 1), vocabulary]
        labels[:, labels.shape[1] - kept + 1 :].flatten(),
        ignore_index=IGNORED,
        reduction=reduction,
    )
