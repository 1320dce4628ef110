"""Estimates of memory from the configuration equal what is allocated and kept."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.model.adapters import add_adapter
from onesentence.model.encoding import training_batch
from onesentence.model.loading import load_base, load_config
from onesentence.training import memory
from onesentence.training.memory import (
    NoEstimate,
    cache_bytes_per_token,
    fitting_batch,
    generation_memory,
    meta_model,
    passing_bytes,
    require_fit,
    saved_bytes,
    training_memory,
    weight_bytes,
)

LORA = SimpleNamespace(rank=4, alpha=None, dropout=0.1, target_modules=["q_proj", "v_proj"])


def measured_bytes(model, rows: int, length: int) -> int:
    """Bytes that autograd keeps after a forward pass with data."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage  # held, so that no address is used again
        return tensor

    batch = training_batch([([5] * (length - 4), [6, 7, 8, 0])] * rows, 1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.get_base_model().model(input_ids=batch["input_ids"], use_cache=False)
    total = sum(storage.nbytes() for storage in storages.values())
    assert output is not None
    return total


@pytest.mark.parametrize(("rows", "length"), [(1, 16), (3, 40), (8, 100)])
def test_the_estimate_on_the_meta_device_equals_the_bytes_kept_with_data(base, tiny_settings, rows, length):
    model = add_adapter(base, LORA, seed=0).train()
    empty = meta_model(load_config(tiny_settings), "float32")
    add_adapter(empty, LORA, seed=0).train()
    assert sum(saved_bytes(empty, rows, length)) == pytest.approx(
        measured_bytes(model, rows, length), rel=0.02
    )


def test_small_blocks_take_more_than_they_hold(monkeypatch):
    large = memory.MAPPED_BYTES
    assert memory.held_bytes([large, 100, 100]) == large + round(200 * memory.FRAGMENTATION)
    monkeypatch.setattr(memory, "device_name", lambda: "cuda")
    assert memory.held_bytes([large, 100, 100]) == large + 200


def test_weights_are_counted_in_their_format(base, tiny_settings):
    config = load_config(tiny_settings)
    counted = weight_bytes(meta_model(config, "float32"), "float32", "none")
    assert counted == sum(weight.numel() * 4 for weight in base.parameters())
    assert weight_bytes(meta_model(config, "bfloat16"), "bfloat16", "none") * 2 == counted
    for quantization in ("int8", "nf4"):
        base = load_base(SimpleNamespace(**{**vars(tiny_settings), "quantization": quantization}))
        counted = weight_bytes(meta_model(config, "float32"), "float32", quantization)
        assert counted == pytest.approx(base.get_memory_footprint(), rel=0.1)


def test_the_parts_of_a_step(tiny_settings):
    config = load_config(tiny_settings)
    lora = training_memory(config, tiny_settings, LORA, rows=2, length=32, labels=6)
    trained = 2 * 2 * 2 * 64 * 4  # layers x modules x (A and B) x width x rank
    assert lora.trained == lora.gradients == 4 * trained
    assert lora.optimizer == 8 * trained  # two moments in float32
    assert lora.total == lora.resident + lora.activations + lora.transient
    full = training_memory(config, tiny_settings, LORA, 2, 32, 6, method="full")
    assert full.trained == 0 and full.gradients == full.weights and full.optimizer == 2 * full.weights
    assert full.activations > lora.activations * 0.9
    more = training_memory(config, tiny_settings, LORA, rows=4, length=32, labels=6)
    assert more.activations == pytest.approx(2 * lora.activations, rel=0.02)
    assert more.resident == lora.resident


def test_the_cache_has_the_size_that_generation_fills(base, tiny_settings):
    config = load_config(tiny_settings)
    ids = torch.randint(2, 500, (3, 20))
    with torch.inference_mode():
        layers = base(input_ids=ids, use_cache=True).past_key_values.layers
    filled = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    assert cache_bytes_per_token(config, "float32") * 3 * 20 == filled
    generate = SimpleNamespace(
        num_beams=4, max_new_tokens=5, max_batch_tokens=400, length_penalty=1.0, no_repeat_ngram_size=0
    )
    parts = generation_memory(config, tiny_settings, generate, longest=20)
    assert parts["cache"] == cache_bytes_per_token(config, "float32") * 10 * 40  # 10 articles of 20 + 4 x 5
    # A vocabulary of 600 at 3 positions is more than 256 numbers at 3 tokens, and less than at 20.
    assert passing_bytes(config, "float32", 8, 3, 24) == 2 * 24 * config.vocab_size * 4
    assert passing_bytes(config, "float32", 8, 20, 24) == 2 * 8 * 20 * 256 * 4


def test_the_cache_of_families_that_share_keys_or_keep_none():
    falcon = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    for changes, heads in (
        ({"multi_query": True}, 1),
        ({"new_decoder_architecture": True, "num_kv_heads": 2}, 2),
    ):
        config = AutoConfig.for_model("falcon", **falcon, **changes)
        assert cache_bytes_per_token(config, "float32") == 2 * 2 * heads * 16 * 4
    with pytest.raises(NoEstimate, match="a mamba model keeps no keys and values"):
        cache_bytes_per_token(AutoConfig.for_model("mamba"), "float32")


@pytest.mark.parametrize(
    ("family", "shape", "widest"),
    [
        ("opt", {"hidden_size": 32, "ffn_dim": 96}, 96),
        ("gpt2", {"n_embd": 32}, 128),
        ("llama", {"hidden_size": 32, "intermediate_size": 80}, 80),
    ],
)
def test_the_widest_activation_of_a_family(family, shape, widest):
    config = AutoConfig.for_model(family, vocab_size=10, **shape)
    assert passing_bytes(config, "float32", 8, 20, 1) == 2 * 8 * 20 * widest * 4


def settings(batch_size: int, quantization: str = "none", method: str = "lora"):
    return SimpleNamespace(
        model=SimpleNamespace(quantization=quantization),
        train=SimpleNamespace(batch_size=batch_size, gradient_accumulation=2, method=method),
    )


def needed(size: int, quantization: str) -> int:
    return (2 if quantization == "nf4" else 8) * 10**9 + size * 10**9


def test_a_run_that_fits_is_accepted():
    assert require_fit(needed, settings(4), free=20 * 10**9) == 12 * 10**9


@pytest.mark.parametrize(
    ("free", "advice"),
    [
        (11, r"train.batch_size: 2, train.gradient_accumulation: 4$"),
        (9, r"train.batch_size: 1, train.gradient_accumulation: 8$"),
        (5, r"train.batch_size: 2, train.gradient_accumulation: 4, model.quantization: nf4$"),
        (2, r"no batch size fits, not even in nf4"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_with_settings_that_would(free, advice):
    with pytest.raises(UserError, match=rf"needs about 12.0 GB, {free}.0 GB are free; .*{advice}"):
        require_fit(needed, settings(4), free * 10**9)


def test_full_fine_tuning_that_fits_at_no_batch_size_is_refused_with_lora_as_advice():
    with pytest.raises(UserError, match=r"no batch size fits; .*train.method: lora"):
        require_fit(needed, settings(4, method="full"), 2 * 10**9)


def test_halving_stops_at_one():
    assert fitting_batch(lambda size: size, 8, free=3) == 2
    assert fitting_batch(lambda size: size, 8, free=0) is None
    assert fitting_batch(lambda size: size, 1, free=9) is None
    assert memory.free_bytes() > 0


SIZE = {"vocab_size": 90, "hidden_size": 64, "num_hidden_layers": 2}
HEADS = SIZE | {"num_attention_heads": 4}
GATED = HEADS | {"intermediate_size": 96, "num_key_value_heads": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "first_k_dense_replace": 1, "num_key_value_heads": 4,
}  # fmt: skip
SEES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
MAMBA = {"state_size": 4}
FAMILIES = {
    "llama": (GATED, "q_proj"),
    "gpt_neox": (HEADS | {"intermediate_size": 96}, "query_key_value"),
    "gpt2": ({"vocab_size": 90, "n_embd": 64, "n_layer": 2, "n_head": 4}, "c_attn"),  # Conv1D, dropout
    "mpt": ({"vocab_size": 90, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}, "Wqkv"),
    "falcon": (HEADS, "query_key_value"),
    "gemma2": (GATED | {"head_dim": 16}, "q_proj"),
    "gemma3": ({"text_config": GATED | {"head_dim": 16}, "vision_config": SEES}, "q_proj"),
    "mixtral": (GATED | {"num_local_experts": 4}, "q_proj"),
    "qwen2_moe": (GATED | EXPERTS | {"shared_expert_intermediate_size": 32}, "q_proj"),
    "olmoe": (GATED | {"num_experts": 4, "num_experts_per_tok": 2}, "q_proj"),
    "gpt_oss": (GATED | {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2}, "q_proj"),
    "deepseek_v3": (HEADS | LATENT | {"intermediate_size": 96}, "q_a_proj"),
    "mamba": (SIZE | MAMBA, "x_proj"),
}


def adapted(model, target: str):
    config = LoraConfig(r=4, lora_dropout=0.1, target_modules=[target], task_type="CAUSAL_LM")
    return get_peft_model(model.requires_grad_(False), config).train()


def kept_by_autograd(model, autocast: bool) -> int:
    """Bytes that autograd keeps after a forward pass with data."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage
        return tensor

    ids = torch.randint(2, 80, (2, 16))
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        output = model.get_base_model().base_model(input_ids=ids, use_cache=False)
    total = sum(storage.nbytes() for storage in storages.values())
    assert output is not None
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimate_equals_the_bytes_kept_by_other_architectures(family):
    """Fused experts, latent attention, state spaces, own masks, dropout in attention, nested configs."""
    shape, target = FAMILIES[family]
    config = AutoConfig.for_model(family, **shape)
    torch.manual_seed(0)
    model = adapted(AutoModelForCausalLM.from_config(config), target)
    estimate = sum(saved_bytes(adapted(meta_model(config, "float32"), target).get_base_model(), 2, 16))
    assert estimate == pytest.approx(kept_by_autograd(model, False), rel=0.08)
    assert passing_bytes(config, "float32", 2, 16, 8) > 0
    assert config == AutoConfig.for_model(family, **shape)  # unchanged


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_autocast_keeps_a_bfloat16_copy_of_every_weight(family):
    shape, target = FAMILIES[family]
    config = AutoConfig.for_model(family, **shape)
    torch.manual_seed(0)
    kept = kept_by_autograd(adapted(AutoModelForCausalLM.from_config(config), target), True)
    base = adapted(meta_model(config, "float32"), target).get_base_model()
    assert sum(saved_bytes(base, 2, 16, "bfloat16")) == pytest.approx(kept, rel=0.08)
    # Autocast does not cast quantized weights.
    base = adapted(meta_model(config, "float32"), target).get_base_model()
    assert sum(saved_bytes(base, 2, 16, "bfloat16", "nf4")) < kept


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_conv1d_is_quantized_too(tmp_path, quantization):
    config = AutoConfig.for_model("gpt2", vocab_size=90, n_embd=256, n_layer=2, n_head=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    settings = SimpleNamespace(
        name=str(tmp_path), watch=str(tmp_path), revision=None, dtype="float32", quantization=quantization
    )
    footprint = load_base(settings).get_memory_footprint()
    counted = weight_bytes(meta_model(config, "float32"), "float32", quantization)
    assert counted == pytest.approx(footprint, rel=0.1)


def test_without_an_estimate_training_continues_and_says_why(capsys):
    from onesentence.training.memory import check_memory

    shape, target = FAMILIES["mixtral"]
    config = AutoConfig.for_model("mixtral", **shape)
    config._experts_implementation = "eager"  # it reads which experts were chosen, which needs data
    own = {"train.batch_size": 2, "train.gradient_accumulation": 1, "train.epochs": 1}
    p = params.load(("seed", "model", "lora", "train"), Path(__file__).parents[2] / "params.yaml")
    p = params.changed(p, {**own, "lora.target_modules": [target]})
    check_memory(p, config, [([5, 6, 7], [8, 0])] * 4)
    printed = capsys.readouterr().out
    assert printed.startswith(
        "train: memory: no estimate for a model of type 'mixtral', whose forward pass needs"
    )
    assert printed.endswith("training starts without one\n") and printed.count("\n") == 1
    with pytest.raises(NoEstimate, match="'t5', which transformers does not know as a causal"):
        meta_model(AutoConfig.for_model("t5"), "float32")


def test_labels_are_counted_in_the_batch_with_most_of_them():
    from onesentence.training.batches import EVAL_BATCH, measured_batches, most_labels

    rows = [([1] * (20 - i), [2] * (1 + i % 3)) for i in range(12)]
    assert most_labels([rows[:2], rows[1:3], rows[3:4]]) == 2 + 3
    batches = measured_batches(rows)
    assert [len(batch) for batch in batches] == [EVAL_BATCH, 12 - EVAL_BATCH]
    lengths = [len(prompt) + len(completion) for batch in batches for prompt, completion in batch]
    assert lengths == sorted(lengths)


def test_an_estimate_without_a_network_says_so_in_one_sentence(monkeypatch):
    import httpx2
    from huggingface_hub import HfApi

    from onesentence.commands.estimate import require_dataset

    def refuse(*_, **__):
        raise httpx2.ConnectError("no route")

    monkeypatch.setattr(HfApi, "dataset_info", refuse)
    p = SimpleNamespace(
        data=SimpleNamespace(source="EdinburghNLP/xsum", path="requirements.txt", revision=None)
    )
    with pytest.raises(UserError, match=r"data\.source: 'EdinburghNLP/xsum' not reachable \(ConnectError\)"):
        require_dataset(p)
