"""The loss from the logits at the labels equals the loss from all logits."""

from types import SimpleNamespace

import pytest
import torch

from onesentence.model.adapters import add_adapter
from onesentence.model.encoding import IGNORED, training_batch
from onesentence.training.loss import completion_loss, last_mlp

ROWS = [(list(range(5, 45)), [50, 51, 52, 0]), ([9, 8], [60, 0]), (list(range(100, 110)), [0])]


def test_it_equals_transformers_loss_on_the_same_labels(base):
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


def test_logits_are_computed_only_at_the_labels(base):
    seen = []
    base.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    completion_loss(base, training_batch(ROWS, pad_id=1))
    base(input_ids=training_batch(ROWS, pad_id=1)["input_ids"])
    assert seen == [(1, 4 + 2 + 1, base.config.vocab_size), (3, 44, base.config.vocab_size)]


SIZE = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GATED = SIZE | {"intermediate_size": 48, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("gpt2", {"vocab_size": 90, "n_embd": 32, "n_layer": 2, "n_head": 4}),
        ("gemma2", GATED | {"head_dim": 8}),  # soft-capped logits
        ("granite", GATED | {"logits_scaling": 3.0}),
        ("mixtral", GATED | {"num_local_experts": 4}),
        ("mamba", {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
        ("opt", SIZE | {"ffn_dim": 48, "word_embed_proj_dim": 16}),
    ],
)
def test_the_loss_and_its_gradients_equal_transformers_for_other_architectures(family, shape):
    """Gemma 2 and Granite change their logits after the output layer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape)).eval()
    rows = [([5, 6, 7, 8, 9, 10], [11, 12, 0]), ([9, 8], [60, 0])]
    batch = training_batch(rows, pad_id=1)
    logits = model(input_ids=batch["input_ids"]).logits.float()
    wanted = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    # Zeros instead of None, so that weights without a gradient are compared too.
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    before = torch.autograd.grad(wanted, weights, allow_unused=True, materialize_grads=True)
    loss = completion_loss(model, batch)
    torch.testing.assert_close(loss, wanted)
    after = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    for left, right in zip(before, after, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


def test_the_last_mlp_computes_only_at_the_labels_and_adapters_get_the_same_gradients(base):
    lora = SimpleNamespace(rank=4, alpha=None, dropout=0.0, target_modules=["q_proj", "fc1", "fc2"])
    model = add_adapter(base, lora, seed=0).train()
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    batch = training_batch(ROWS, pad_id=1)
    wanted = torch.autograd.grad(model(**batch).loss, trained)
    seen = []
    for layer in base.model.layers:
        layer.mlp.fc1.register_forward_hook(
            lambda module, inputs, output: seen.append(tuple(output.shape[:2]))
        )
    ours = torch.autograd.grad(completion_loss(model, batch), trained)
    assert seen == [(3, 44), (1, 4 + 2 + 1)]
    for left, right in zip(wanted, ours, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)
    assert last_mlp(model) is base.model.layers[-1].mlp


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("mixtral", GATED | {"num_local_experts": 4}),
        ("mamba", {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
        ("rwkv", {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}),
    ],
)
def test_layers_other_than_a_plain_mlp_stay_as_they_are(family, shape):
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape))
    assert last_mlp(model) is None


def test_the_ids_of_the_padding_do_not_matter(base):
    batch = training_batch(ROWS, pad_id=1)
    loss = completion_loss(base, batch)
    batch["input_ids"][1, 4:] = 77
    assert torch.equal(completion_loss(base, batch), loss)
