"""The loss: the same number as with logits everywhere, from a fraction of them."""

import torch

from stages.common.encoding import IGNORED, training_batch
from stages.common.losses import completion_loss

ROWS = [(list(range(5, 45)), [50, 51, 52, 0]), ([9, 8], [60, 0]), (list(range(100, 110)), [0])]


def test_it_is_the_librarys_loss_on_the_same_labels(base):
    batch = training_batch(ROWS, pad_id=1)
    ours = completion_loss(base, batch)
    library = base(**batch).loss
    torch.testing.assert_close(ours, library)


def test_sum_and_mean_differ_by_the_label_count(base):
    batch = training_batch(ROWS, pad_id=1)
    labels = int((batch["labels"] != IGNORED).sum())
    assert labels == 4 + 2 + 1
    torch.testing.assert_close(
        completion_loss(base, batch, reduction="sum") / labels, completion_loss(base, batch)
    )


def test_padding_does_not_change_a_rows_loss(base):
    alone = completion_loss(base, training_batch(ROWS[1:2], pad_id=1), reduction="sum")
    total = completion_loss(base, training_batch(ROWS, pad_id=1), reduction="sum")
    others = completion_loss(base, training_batch([ROWS[0], ROWS[2]], pad_id=1), reduction="sum")
    torch.testing.assert_close(total - others, alone, rtol=1e-4, atol=1e-4)


def test_logits_are_computed_where_a_row_has_a_label_alone(base):
    seen = []
    base.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    similar = [(list(range(5, 45)), [50, 51, 52, 0]), (list(range(7, 46)), [60, 0])]
    completion_loss(base, training_batch(similar, pad_id=1))
    assert seen == [5]  # labels at 39 to 43, predicted one position before


def test_what_stands_in_the_padding_does_not_matter(base):
    batch = training_batch(ROWS, pad_id=1)
    loss = completion_loss(base, batch)
    batch["input_ids"][1, 4:] = 77
    assert torch.equal(completion_loss(base, batch), loss)
