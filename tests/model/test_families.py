"""Every family of models works from end to end, as a tiny random model, or is refused by name.

A model is saved, loaded and checked; a prompt is encoded; beams give the tokens of `generate()`; LoRA trains
a few steps; the adapter is saved, loaded and merged.
"""

import math
import re
from types import SimpleNamespace

import pytest
import torch
import transformers
from conftest import edit, stage
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from onesentence.core.errors import UserError
from onesentence.core.params import Model
from onesentence.generation import decoding
from onesentence.generation.beam_search import supports_shared_prompt
from onesentence.model import adapters, base_check, loading
from onesentence.model.encoding import encode_completion, encode_prompt, pad_left, training_batch
from onesentence.training.loss import completion_loss
from stages import smoke

VOCABULARY, EOS, PAD = 600, 0, 1  # of the tiny tokenizer
TOKENS = {"vocab_size": VOCABULARY, "eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": None}
SIZE = {
    **TOKENS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
WITHOUT_MLP = {key: value for key, value in SIZE.items() if key != "intermediate_size"}
GROUPED = {**SIZE, "num_key_value_heads": 2}
FULL = {"layer_types": ["full_attention"] * 2}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
MLA = {
    "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 1, "n_shared_experts": 1,
}  # fmt: skip
QKV = ("q_proj", "k_proj", "v_proj")
FUSED = ("query_key_value",)
# name: (configuration, its arguments, adapted modules, whether beams share their prompt)
FAMILIES = {
    "llama": ("LlamaConfig", GROUPED, QKV, True),
    "llama, tied": ("LlamaConfig", {**GROUPED, "tie_word_embeddings": True}, QKV, True),
    "qwen2": ("Qwen2Config", GROUPED, QKV, True),
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 8}, QKV, True),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": None}, QKV, True),
    "mistral, window": ("MistralConfig", {**GROUPED, "sliding_window": 8}, QKV, False),
    "gemma 2": ("Gemma2Config", {**GROUPED, "head_dim": 8, "sliding_window": 8}, QKV, False),
    "gemma 2, no window": ("Gemma2Config", {**GROUPED, "head_dim": 8, **FULL}, QKV, False),
    "gemma 3": ("Gemma3TextConfig", {**GROUPED, "head_dim": 8, "sliding_window": 8}, QKV, False),
    "gemma 3, no window": ("Gemma3TextConfig", {**GROUPED, "head_dim": 8, **FULL}, QKV, True),
    "phi": ("PhiConfig", SIZE, (*QKV, "dense"), True),
    "phi 3": ("Phi3Config", GROUPED, ("qkv_proj", "o_proj"), True),
    "gpt-2": (
        "GPT2Config",
        {**TOKENS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
        ("c_attn", "c_proj"),
        True,
    ),
    "gpt-neox": ("GPTNeoXConfig", SIZE, FUSED, True),
    "opt": (
        "OPTConfig",
        {**WITHOUT_MLP, "ffn_dim": 48, "word_embed_proj_dim": 32},
        QKV,
        True,
    ),
    "falcon": ("FalconConfig", SIZE, FUSED, False),
    "falcon, alibi": ("FalconConfig", {**SIZE, "alibi": True}, FUSED, False),
    "bloom": ("BloomConfig", {**TOKENS, "hidden_size": 32, "n_layer": 2, "n_head": 4}, FUSED, False),
    "mpt": (
        "MptConfig",
        {**TOKENS, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256, "expansion_ratio": 2},
        ("Wqkv",),
        False,
    ),
    "mixtral": ("MixtralConfig", {**GROUPED, "num_local_experts": 4}, QKV, True),
    "deepseek v3": ("DeepseekV3Config", {**SIZE, **MLA}, ("q_b_proj", "o_proj"), False),
    "gpt-oss, no window": ("GptOssConfig", {**GROUPED, "head_dim": 8, **EXPERTS, **FULL}, QKV, False),
    "granite": ("GraniteConfig", {**GROUPED, "attention_multiplier": 0.3, "logits_scaling": 2.0}, QKV, True),
    "smollm 3": ("SmolLM3Config", GROUPED, QKV, True),
    "mamba": (
        "MambaConfig",
        {**TOKENS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
        ("in_proj", "x_proj"),
        False,
    ),
}  # fmt: skip
GENERATE = SimpleNamespace(
    max_new_tokens=8, num_beams=4, max_batch_tokens=10**6, length_penalty=1.0, no_repeat_ngram_size=0
)


def saved(folder, tokenizer, name: str):
    """Save a family's random model; (its `model` section, adapted modules, whether beams share prompts)."""
    kind, arguments, targets, shares = FAMILIES[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, kind)(**arguments), dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() >= 2:  # large enough that the beams differ
                weight.mul_(4.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = SimpleNamespace(
        name=str(folder), watch=str(folder), revision=None, dtype="float32", quantization="none"
    )
    return settings, targets, shares


def encoded(tokenizer, pairs, count: int = 3) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, completion ids) of real pairs, of several lengths."""
    limits = [60, 90, 120]
    return [
        (
            encode_prompt(tokenizer, "label", pair["document"], limit).ids,
            encode_completion(tokenizer, pair["summary"], "label"),
        )
        for pair, limit in zip(pairs[:count], limits, strict=True)
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_works_from_end_to_end(name, tmp_path, tokenizer, pairs, capsys):
    settings, targets, shares = saved(tmp_path / "base", tokenizer, name)
    tokenizer = loading.load_tokenizer(settings)
    base = loading.load_base(settings)
    rows = encoded(tokenizer, pairs)
    prompts = [prompt for prompt, _ in rows]
    base_check.check_base(base, tokenizer, prompts)

    # Beams give transformers' tokens with either search, and a message if transformers' own is used.
    assert supports_shared_prompt(base, 4) or not shares
    ids, mask = pad_left(prompts, tokenizer.pad_token_id)
    config = decoding.generation_config(tokenizer, GENERATE, base.config.vocab_size)
    with torch.inference_mode():
        wanted = base.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    assert torch.equal(decoding.generate_tokens(base, ids, mask, config), wanted[:, ids.shape[1] :])
    assert ("beams do not share their prompt" in capsys.readouterr().out) == (not shares)

    # LoRA steps lower the loss.
    lora = SimpleNamespace(rank=4, alpha=None, dropout=0.0, target_modules=list(targets))
    model = adapters.add_adapter(base, lora, seed=0).train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    batch = training_batch(rows, tokenizer.pad_token_id)
    losses = []
    for _ in range(3):
        loss = completion_loss(model, batch)
        loss.backward()
        assert all(weight.grad is not None for weight in trained)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and math.isfinite(losses[-1])

    # Saved, loaded and merged, it has the logits of the trained model.
    probe = torch.tensor([prompts[0]])
    with torch.inference_mode():
        wanted = model.eval()(input_ids=probe, use_cache=False).logits
    adapters.save_tuned(model, tmp_path / "tuned", "models/tiny", "lora")
    loaded = adapters.load_tuned(settings, tmp_path / "tuned")
    assert not hasattr(loaded, "peft_config")
    with torch.inference_mode():
        logits = loaded(input_ids=probe, use_cache=False).logits
    assert (logits - wanted).abs().max() < 1e-4 * wanted.std()


@pytest.mark.parametrize("name", FAMILIES)
def test_float16_has_finite_logits_or_is_refused_with_its_reason(name, tmp_path, tokenizer):
    settings, _, _ = saved(tmp_path / "base", tokenizer, name)
    settings.dtype = "float16"
    own_attention = ("falcon", "bloom", "mpt", "mamba", "gemma 2", "gpt-oss")
    if name.startswith(own_attention):
        with pytest.raises(UserError, match=r"^model\.dtype: float16 .* cannot replace the attention of a "):
            loading.load_base(settings)
        return
    base = loading.load_base(settings)
    assert base.dtype == torch.float16 and base.config._attn_implementation == loading.FLOAT32_ATTENTION
    assert torch.isfinite(base(torch.arange(2, 20)[None]).logits).all()


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_base_whose_layers_cannot_be_quantized_is_refused_by_name(tmp_path, tokenizer, quantization):
    """Falcon's layers have a class of their own: they would stay as they are, without a word."""
    settings, _, _ = saved(tmp_path, tokenizer, "falcon")
    settings.quantization = quantization
    with pytest.raises(
        UserError, match=f"quantization: {quantization}: bitsandbytes quantizes no layer of falcon"
    ):
        loading.load_base(settings)


@pytest.mark.parametrize(
    ("name", "quantization"), [("mamba", "nf4"), ("mamba", "int8"), ("deepseek v3", "int8")]
)
def test_a_base_that_does_not_compute_when_quantized_is_refused(
    tmp_path, tokenizer, pairs, name, quantization
):
    settings, _, _ = saved(tmp_path, tokenizer, name)
    settings.quantization = quantization
    base, prompts = loading.load_base(settings), [prompt for prompt, _ in encoded(tokenizer, pairs)]
    said = f"quantization: a {base.config.model_type} model does not compute with the layers of bitsandbytes"
    with pytest.raises(UserError, match=rf"^model\.{said}"):
        base_check.check_base(base, tokenizer, prompts)
    # The same of a format for writing summaries alone.
    settings = Model(settings.name, settings.name, None, "float32", "none")
    generate = SimpleNamespace(**vars(GENERATE), quantization=quantization)
    p = SimpleNamespace(model=settings, generate=generate)
    with pytest.raises(UserError, match=rf"^generate\.{said}"):
        smoke.check_written_form(p, tokenizer, ["a", "b", "c"], prompts)


def test_a_base_of_which_little_is_quantized_is_said_to_be_so(tmp_path, tokenizer, capsys):
    """The experts of a mixture are one tensor, which stays as it is."""
    settings, _, _ = saved(tmp_path, tokenizer, "mixtral")
    settings.quantization = "nf4"
    loading.load_base(settings)
    said = capsys.readouterr().out
    assert re.search(
        r"nf4: bitsandbytes quantizes \d+% of the matrices of mixtral; the others keep float32", said
    )


def refused(folder, tokenizer, model):
    """The error of loading this model."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = SimpleNamespace(
        name=str(folder), watch=str(folder), revision=None, dtype="float32", quantization="none"
    )
    with pytest.raises(UserError) as caught:
        loading.load_base(settings)
    assert "network" not in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["T5", "Bart"])
def test_an_encoder_decoder_is_refused_by_name(name, tmp_path, tokenizer):
    size = {"vocab_size": VOCABULARY, "d_model": 32}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config = {
        "T5": lambda: transformers.T5Config(**size, d_ff=48, d_kv=8, num_layers=1, num_heads=4),
        "Bart": lambda: transformers.BartConfig(**size, **heads, encoder_layers=1, decoder_layers=1),
    }[name]()
    error = refused(tmp_path, tokenizer, AutoModelForSeq2SeqLM.from_config(config))
    assert f"{name}ForConditionalGeneration (model_type {name.lower()}) is an encoder-decoder" in error


BERT = {k: v for k, v in SIZE.items() if k not in ("bos_token_id", "eos_token_id")}


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "DistilBert"])
def test_a_masked_language_model_is_refused_by_name(kind, tmp_path, tokenizer):
    config = getattr(transformers, f"{kind}Config")(**BERT)
    error = refused(tmp_path, tokenizer, transformers.AutoModelForMaskedLM.from_config(config))
    assert f"{kind}ForMaskedLM (model_type {kind.lower()}) is an encoder" in error


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_an_encoder_with_a_causal_class_is_refused_for_its_logits(kind, tmp_path, tokenizer, pairs):
    """Such a class loads, trains and generates; only its logits show that it reads later tokens."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(getattr(transformers, f"{kind}Config")(**BERT)).eval()
    with pytest.raises(UserError, match=rf"{kind}.* \(model_type {kind.lower()}\) is not causal"):
        base_check.check_causal(base, [prompt for prompt, _ in encoded(tokenizer, pairs)])


def test_bert_as_a_decoder_is_causal(tokenizer, pairs):
    base = AutoModelForCausalLM.from_config(transformers.BertConfig(**BERT, is_decoder=True)).eval()
    base_check.check_causal(base, [prompt for prompt, _ in encoded(tokenizer, pairs)])


@pytest.mark.slow
def test_the_stages_stop_before_training_on_a_model_that_is_not_causal(project, tokenizer):
    """First its 256 positions are too few for the prompt; then `smoke` refuses the model."""
    folder = project / "models/tiny"
    for file in folder.iterdir():
        file.unlink()
    base = AutoModelForCausalLM.from_config(transformers.BertConfig(**BERT))
    base.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    edit(project, prompt__max_input_tokens=255, lora__target_modules=["query"])
    stage(project, "prepare")
    result = stage(project, "tokenize", check=False)
    assert (
        result.returncode == 1
        and "the model has 256 positions; lower prompt.max_input_tokens by" in result.stderr
    )
    assert not (project / "data/tokenized").exists() and "Traceback" not in result.stderr
    edit(project, prompt__max_input_tokens=128)
    stage(project, "tokenize")
    result = stage(project, "smoke", check=False)
    assert result.returncode == 1 and "BertLMHeadModel (model_type bert) is not causal" in result.stderr
    assert "Traceback" not in result.stderr
