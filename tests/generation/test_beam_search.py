"""Beam search over a shared prompt gives the tokens of transformers' own generation."""

import gc
import random
import weakref
from itertools import pairwise

import pytest
import torch
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    DeepseekV3Config,
    FalconConfig,
    Gemma2Config,
    GenerationConfig,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PhiConfig,
    Qwen2Config,
)

from onesentence.generation.beam_search import (
    SHARED_ATTENTION,
    SharedPromptLayer,
    beam_search,
    supports_shared_prompt,
)
from onesentence.generation.decoding import generate_tokens, shares_prompt

VOCABULARY, PAD, EOS = 97, 0, 1
SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": EOS,
}
CONFIGS = {
    "phi": PhiConfig(**SIZE),
    "llama, grouped queries": LlamaConfig(**SIZE, num_key_value_heads=2),
    "llama, one key head": LlamaConfig(**SIZE, num_key_value_heads=1),
    "qwen2": Qwen2Config(**SIZE, num_key_value_heads=2),
    "gpt-neox": GPTNeoXConfig(**SIZE),
    "mistral without a window": MistralConfig(**SIZE, num_key_value_heads=2, sliding_window=None),
}


def random_model(config, seed: int):
    """A random model with large weights, so that beams differ, in double precision, so that ties are ties."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(6.0)
    return model


def prompts(seed: int, lengths: list[int]):
    """Left-padded random ids and their mask."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), max(lengths)), PAD)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, -length:] = torch.randint(2, VOCABULARY, (length,), generator=generator)
        mask[row, -length:] = 1
    return ids, mask


def settings(beams: int, new: int = 12, **more) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=new, num_beams=beams, do_sample=False, use_cache=True, pad_token_id=PAD,
        bos_token_id=EOS, **{"eos_token_id": EOS, "early_stopping": True, **more},
    )  # fmt: skip


def both(model, ids, mask, config):
    """(transformers' tokens, ours), padded to one length."""
    model.generation_config = config
    with torch.inference_mode():
        theirs = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        ours = beam_search(model, ids, mask, config)
    return theirs, ours


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("beams", [2, 4, 8])
def test_it_gives_the_tokens_of_transformers(name, beams):
    for seed in range(3):
        model = random_model(CONFIGS[name], seed)
        ids, mask = prompts(seed, [3, 40, 2, 17, 40, 5, 29])  # very unequal: most rows are padded
        theirs, ours = both(model, ids, mask, settings(beams))
        assert torch.equal(theirs, ours), (name, beams, seed)


@pytest.mark.parametrize(
    "more",
    [
        {"early_stopping": False},
        {"early_stopping": "never", "length_penalty": 2.0},
        {"length_penalty": -1.0},
        {"no_repeat_ngram_size": 2},
        {"suppress_tokens": [5, 6, 7]},
        {"suppress_tokens": [5, 6, 7], "no_repeat_ngram_size": 1, "repetition_penalty": 1.3},
        {"eos_token_id": [EOS, 7, 8, 9]},
        {"eos_token_id": [EOS, *range(10, 30)], "early_stopping": False, "length_penalty": 0.5},
        {"min_new_tokens": 6, "eos_token_id": [EOS, *range(10, 30)]},
        {"num_return_sequences": 2},
    ],
)
def test_it_gives_the_tokens_of_transformers_with_other_settings(more):
    for seed in range(3):
        model = random_model(CONFIGS["phi"], seed)
        ids, mask = prompts(seed, [11, 30, 4, 9])
        theirs, ours = both(model, ids, mask, settings(4, **more))
        assert torch.equal(theirs, ours), (more, seed)


def test_finished_articles_leave_and_the_others_continue():
    """EOS is made likely, so articles finish at different steps and the batch shrinks."""
    model = random_model(CONFIGS["phi"], 0)
    with torch.no_grad():
        model.lm_head.bias[EOS] += 1.0
    ids, mask = prompts(4, [5, 30, 8, 13, 21, 3, 30, 17])
    computed = []
    handle = model.model.embed_tokens.register_forward_hook(
        lambda module, inputs, output: computed.append(len(output))
    )
    config = settings(4, new=30)
    model.generation_config = config
    with torch.inference_mode():
        ours = beam_search(model, ids, mask, config)
        assert computed[:3] == [8, 8, 32]  # the prompts once, their last tokens once, then 4 beams of each
        assert computed[-1] < 32
        assert all(right <= left for left, right in pairwise(computed[2:]))
        handle.remove()
        theirs = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    assert torch.equal(theirs, ours)
    ends = [row.tolist().index(EOS) for row in ours[:, ids.shape[1] :] if EOS in row]
    assert len(set(ends)) > 1


def test_it_gives_the_tokens_of_transformers_with_random_settings():
    for seed in range(12):
        draw = random.Random(seed)
        beams, new = draw.choice([2, 3, 5]), draw.choice([1, 2, 9, 20])
        more = {
            "early_stopping": draw.choice([True, False, "never"]),
            "length_penalty": draw.choice([-1.0, 0.0, 0.7, 1.0, 2.0]),
            "no_repeat_ngram_size": draw.choice([0, 1, 2, 3]),
            "eos_token_id": [EOS, *draw.sample(range(2, VOCABULARY), draw.choice([0, 1, 5, 20]))],
            "suppress_tokens": draw.choice([None, [PAD], [3, 4, 50]]),
        }
        model = random_model(CONFIGS[draw.choice(list(CONFIGS))], seed)
        ids, mask = prompts(seed, [draw.randint(2, 40) for _ in range(draw.randint(1, 6))])
        theirs, ours = both(model, ids, mask, settings(beams, new, **more))
        assert torch.equal(theirs, ours), (seed, beams, new, more)


def test_prompts_can_be_read_one_by_one_and_the_last_layer_computes_only_keys_and_values(monkeypatch):
    """Some prompts have only one token, so only the beams read it; their empty slots must not be NaN."""
    model = random_model(CONFIGS["llama, grouped queries"], 1)
    ids, mask = prompts(1, [1, 40, 2, 17, 1])
    computed: dict[int, list[int]] = {0: [], 1: []}
    handles = [
        model.model.layers[k].mlp.register_forward_hook(
            lambda module, inputs, output, k=k: computed[k].append(output.shape[:2].numel())
        )
        for k in computed
    ]
    config = settings(4)
    model.generation_config = config
    with torch.inference_mode():
        monkeypatch.setattr("onesentence.generation.beam_search.READ_TOKENS", 1)
        alone = beam_search(model, ids, mask, config)
        # One pass for each prompt, over all its tokens except the last, and at least one.
        assert computed[0][:6] == [1, 39, 1, 16, 1, 5]
        assert computed[1] == computed[0][5:]
        for handle in handles:
            handle.remove()
        monkeypatch.setattr("onesentence.generation.beam_search.READ_TOKENS", 1_000)
        together = beam_search(model, ids, mask, config)
        theirs = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    assert torch.equal(alone, together) and torch.equal(alone, theirs)


def test_the_model_is_restored_also_after_an_error():
    model = random_model(CONFIGS["phi"], 0)
    ids, mask = prompts(0, [4, 9])
    before = model.config._attn_implementation
    config = settings(2)
    model.generation_config = config
    with torch.inference_mode():
        first = beam_search(model, ids, mask, config)
        model.model.layers[1].register_forward_pre_hook(fail_at_new_tokens)
        with pytest.raises(RuntimeError, match="on purpose"):
            beam_search(model, ids, mask, config)
    assert model.config._attn_implementation == before != SHARED_ATTENTION
    assert model.generation_config is config
    assert "forward" not in vars(model) and "_update_finished_beams" not in vars(model)
    assert first.shape[0] == 2


def test_a_batch_frees_its_cache_without_the_garbage_collector(monkeypatch):
    model = random_model(CONFIGS["phi"], 0)
    ids, mask = prompts(0, [4, 9])
    config = settings(2)
    model.generation_config = config
    made = []
    begin = SharedPromptLayer.begin
    monkeypatch.setattr(
        SharedPromptLayer, "begin", lambda layer: (made.append(weakref.ref(layer.keys)), begin(layer))
    )
    gc.disable()
    try:
        with torch.inference_mode():
            beam_search(model, ids, mask, config)
        assert len(made) == 2 and all(keys() is None for keys in made)
    finally:
        gc.enable()


def fail_at_new_tokens(module, inputs):
    if inputs[0].shape[1] == 1:
        raise RuntimeError("on purpose")


def test_the_rule_refuses_models_that_it_does_not_support():
    assert supports_shared_prompt(random_model(CONFIGS["phi"], 0), num_beams=4)
    assert not supports_shared_prompt(random_model(CONFIGS["phi"], 0), num_beams=1)
    windowed = MistralConfig(**SIZE, num_key_value_heads=2, sliding_window=8)
    assert not supports_shared_prompt(random_model(windowed, 0), num_beams=4)
    mamba = MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4)
    assert not supports_shared_prompt(AutoModelForCausalLM.from_config(mamba), num_beams=4)


FULL = {"layer_types": ["full_attention"] * 2}
OTHERS = {
    "soft caps": Gemma2Config(**SIZE, num_key_value_heads=2, head_dim=8, attn_logit_softcapping=1.0, **FULL),
    "sinks": GptOssConfig(
        **SIZE, num_key_value_heads=2, head_dim=8, num_local_experts=4, num_experts_per_tok=2, **FULL
    ),
    "latent attention": DeepseekV3Config(
        **SIZE,
        num_key_value_heads=4,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        first_k_dense_replace=1,
    ),
    "alibi": FalconConfig(**SIZE, alibi=True),
    "a mask of its own": FalconConfig(**SIZE),
}


@pytest.mark.parametrize("name", OTHERS)
def test_unsupported_attention_gives_the_tokens_of_transformers(name, capsys):
    """Either the rule or the proof detects it."""
    model = random_model(OTHERS[name], 0).float()
    ids, mask = prompts(0, [30, 12, 21])
    config = settings(4)
    model.generation_config = config
    with torch.inference_mode():
        wanted = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    assert torch.equal(generate_tokens(model, ids, mask, config), wanted[:, ids.shape[1] :])
    generate_tokens(model, ids, mask, config)
    printed = capsys.readouterr().out
    assert printed.count("beams do not share their prompt") == 1
    assert "using transformers' own search" in printed


@pytest.mark.parametrize("name", ["soft caps", "sinks", "latent attention"])
def test_the_search_refuses_unsupported_scores(name):
    """Even without a call of `supports_shared_prompt`: it must not silently give other tokens."""
    ids, mask = prompts(0, [30, 12])
    model = random_model(OTHERS[name], 0).float()
    model.generation_config = settings(2)
    with torch.inference_mode(), pytest.raises(ValueError, match="does not support this change"):
        beam_search(model, ids, mask, settings(2))


def by_distance(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Causal attention with a bias on the scores that the configuration does not mention."""
    scores = query @ key.transpose(2, 3) * scaling  # [rows, heads, queries, keys]
    places = torch.arange(key.shape[2], dtype=scores.dtype)
    own = places[len(places) - query.shape[2] :, None]
    scores = scores + 0.2 * places - 1e9 * (places > own)
    return (scores.softmax(dim=-1) @ value).transpose(1, 2), None


def test_the_proof_detects_a_model_that_differs_from_its_configuration(capsys):
    AttentionInterface.register("by_distance", by_distance)
    model = random_model(CONFIGS["phi"], 0).float()
    model.config._attn_implementation = "by_distance"
    ids, mask = prompts(0, [30, 30])
    assert supports_shared_prompt(model, 4)
    with torch.inference_mode():
        assert not shares_prompt(model, ids, mask, settings(4))
    assert "a beam's score differs by" in capsys.readouterr().out
