"""Memory from the configuration alone, against what is really allocated and kept."""

from types import SimpleNamespace

import pytest
import torch

from stages.common import memory
from stages.common.encoding import training_batch
from stages.common.errors import UserError
from stages.common.memory import (
    cache_bytes_per_token,
    fitting_batch,
    generation_memory,
    kept_bytes,
    meta_model,
    passing_bytes,
    require_fit,
    training_memory,
    weight_bytes,
)
from stages.common.modeling import add_adapter, load_base, load_config

LORA = SimpleNamespace(rank=4, alpha=None, dropout=0.1, target_modules=["q_proj", "v_proj"])


def really_kept(model, rows: int, length: int) -> int:
    """Bytes that autograd holds after a real forward pass of the same form."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no address is used again
        return tensor

    batch = training_batch([([5] * (length - 4), [6, 7, 8, 0])] * rows, 1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.get_base_model().model(input_ids=batch["input_ids"], use_cache=False)
    total = sum(storage.nbytes() for storage in kept.values())
    assert output is not None
    return total


@pytest.mark.parametrize(("rows", "length"), [(1, 16), (3, 40), (8, 100)])
def test_what_is_kept_on_the_meta_device_is_what_is_really_kept(base, tiny_settings, rows, length):
    model = add_adapter(base, LORA, seed=0).train()
    found = meta_model(load_config(tiny_settings), "float32")
    add_adapter(found, LORA, seed=0).train()
    assert sum(kept_bytes(found, rows, length)) == pytest.approx(really_kept(model, rows, length), rel=0.02)


def test_small_blocks_leave_holes(monkeypatch):
    large = memory.MAPPED_BYTES
    assert memory.held_bytes([large, 100, 100]) == large + round(200 * memory.HOLES)
    monkeypatch.setattr(memory, "device_name", lambda: "cuda")
    assert memory.held_bytes([large, 100, 100]) == large + 200


def test_weights_are_counted_as_they_are_held(base, tiny_settings):
    config = load_config(tiny_settings)
    counted = weight_bytes(meta_model(config, "float32"), "float32", "none")
    assert counted == sum(weight.numel() * 4 for weight in base.parameters())
    assert weight_bytes(meta_model(config, "bfloat16"), "bfloat16", "none") * 2 == counted
    for quantization in ("int8", "nf4"):
        real = load_base(SimpleNamespace(**{**vars(tiny_settings), "quantization": quantization}))
        counted = weight_bytes(meta_model(config, "float32"), "float32", quantization)
        assert counted == pytest.approx(real.get_memory_footprint(), rel=0.1)


def test_the_parts_of_a_step(tiny_settings):
    config = load_config(tiny_settings)
    lora = training_memory(config, tiny_settings, LORA, rows=2, length=32, kept=6)
    trained = 2 * 2 * 2 * 64 * 4  # layers x modules x (A and B) x width x rank
    assert lora.trained == lora.gradients == 4 * trained
    assert lora.optimizer == 8 * trained  # two moments in float32
    assert lora.total == lora.resident + lora.activations + lora.transient
    full = training_memory(config, tiny_settings, LORA, 2, 32, 6, method="full")
    assert full.trained == 0 and full.gradients == full.weights and full.optimizer == 2 * full.weights
    assert full.activations > lora.activations * 0.9
    more = training_memory(config, tiny_settings, LORA, rows=4, length=32, kept=6)
    assert more.activations == pytest.approx(2 * lora.activations, rel=0.02)
    assert more.resident == lora.resident


def test_the_cache_is_what_generation_fills(base, tiny_settings):
    config = load_config(tiny_settings)
    ids = torch.randint(2, 500, (3, 20))
    with torch.inference_mode():
        layers = base(input_ids=ids, use_cache=True).past_key_values.layers
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    assert cache_bytes_per_token(config, "float32") * 3 * 20 == real
    generate = SimpleNamespace(
        num_beams=4, max_new_tokens=5, batch_tokens=400, length_penalty=1.0, no_repeat_ngram=0
    )
    found = generation_memory(config, tiny_settings, generate, longest=20)
    assert found["cache"] == cache_bytes_per_token(config, "float32") * 10 * 40  # 10 articles of 20 + 4 x 5
    # A vocabulary of 600 at 3 positions is more than 256 numbers at 3 tokens, and less than at 20.
    assert passing_bytes(config, "float32", 8, 3, 3) == 2 * 8 * 3 * config.vocab_size * 4
    assert passing_bytes(config, "float32", 8, 20, 3) == 2 * 8 * 20 * 256 * 4


def settings(batch_size: int, quantization: str = "none", method: str = "lora"):
    return SimpleNamespace(
        model=SimpleNamespace(quantization=quantization),
        train=SimpleNamespace(batch_size=batch_size, gradient_accumulation=2, method=method),
    )


def needed(size: int, quantization: str) -> int:
    return (2 if quantization == "nf4" else 8) * 10**9 + size * 10**9


def test_what_fits_goes_on():
    assert require_fit(needed, settings(4), free=20 * 10**9) == 12 * 10**9


@pytest.mark.parametrize(
    ("free", "advice"),
    [
        (11, r"train.batch_size: 2, train.gradient_accumulation: 4$"),
        (9, r"train.batch_size: 1, train.gradient_accumulation: 8$"),
        (5, r"train.batch_size: 2, train.gradient_accumulation: 4, model.quantization: nf4$"),
        (2, r"no batch size fits, in nf4 neither"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(free, advice):
    with pytest.raises(UserError, match=rf"needs about 12.0 GB, {free}.0 GB are free; .*{advice}"):
        require_fit(needed, settings(4), free * 10**9)


def test_full_fine_tuning_that_fits_at_no_batch_size_is_told_of_lora():
    with pytest.raises(UserError, match=r"no batch size fits; .*train.method: lora"):
        require_fit(needed, settings(4, method="full"), 2 * 10**9)


def test_halving_stops_at_one():
    assert fitting_batch(lambda size: size, 8, free=3) == 2
    assert fitting_batch(lambda size: size, 8, free=0) is None
    assert fitting_batch(lambda size: size, 1, free=9) is None
    assert memory.free_bytes() > 0


def test_other_architectures_are_estimated_too():
    from transformers import GPTNeoXConfig, LlamaConfig

    size = {"vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    for config, targets in (
        (LlamaConfig(**size, num_attention_heads=4, num_key_value_heads=2), ["q_proj", "v_proj"]),
        (GPTNeoXConfig(**size, num_attention_heads=4), ["query_key_value"]),
    ):
        lora = SimpleNamespace(rank=4, alpha=None, dropout=0.1, target_modules=targets)
        model = SimpleNamespace(dtype="bfloat16", quantization="nf4")
        found = training_memory(config, model, lora, rows=2, length=16, kept=4)
        assert 0 < found.weights < found.total and found.activations > 0


def test_an_estimate_without_a_network_says_so_in_one_sentence(monkeypatch):
    import httpx2
    from huggingface_hub import HfApi

    from stages.commands.estimate import require_dataset

    def refuse(*_, **__):
        raise httpx2.ConnectError("no route")

    monkeypatch.setattr(HfApi, "dataset_info", refuse)
    p = SimpleNamespace(
        data=SimpleNamespace(source="EdinburghNLP/xsum", path="requirements.txt", revision=None)
    )
    with pytest.raises(
        UserError, match=r"data\.source: 'EdinburghNLP/xsum' could not be asked for \(ConnectError\)"
    ):
        require_dataset(p)
