import json

import gguf
import pytest
import torch
import transformers
from model.test_families import GROUPED, SIZE
from tokenizers import Regex, normalizers, pre_tokenizers

from onesentence.core.errors import UserError
from onesentence.export.gguf import FILE, SPLITS, pre_tokenizer_of, require_architecture, write_gguf

TEMPLATE = "{{ messages[0].content }}"
READ_BACK = {  # by transformers' own reader
    "llama": ("LlamaConfig", GROUPED),
    "llama, wide heads": ("LlamaConfig", {**GROUPED, "head_dim": 16}),
    "llama, tied": ("LlamaConfig", {**GROUPED, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", GROUPED),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": None}),
}


def model_of(kind: str, settings: dict):
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # biases and norms that are not their initial values
        for weight in model.parameters():
            weight.normal_(std=0.3)
    return model


def written(folder, model, tokenizer, weights="float32"):
    write_gguf(model, tokenizer, folder / FILE, weights, TEMPLATE)
    return gguf.GGUFReader(folder / FILE)


@pytest.mark.parametrize("name", READ_BACK)
def test_transformers_reads_the_same_weights_back(name, tmp_path, tokenizer):
    kind, settings = READ_BACK[name]
    model = model_of(kind, settings)
    written(tmp_path, model, tokenizer)
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=FILE, dtype=torch.float32)
    for weight, wanted in model.state_dict().items():
        assert torch.equal(back.state_dict()[weight], wanted), weight
    ids = torch.arange(40)[None]
    assert torch.equal(back(ids).logits, model(ids).logits)


def test_phi_has_llama_cpp_s_tensors_in_its_order_of_axes(tmp_path, tokenizer):
    model = model_of("PhiConfig", {**SIZE, "tie_word_embeddings": True})
    reader = written(tmp_path, model, tokenizer)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    attention = model.model.layers[1].self_attn
    assert torch.equal(torch.tensor(tensors["blk.1.attn_q.weight"].data), attention.q_proj.weight)
    assert torch.equal(torch.tensor(tensors["blk.1.attn_output.bias"].data), attention.dense.bias)
    # llama.cpp has no tied Phi: the matrix is there twice, with a bias.
    assert torch.equal(torch.tensor(tensors["output.weight"].data), model.model.embed_tokens.weight)
    assert tensors["output.bias"].data.tolist() == model.lm_head.bias.tolist()
    assert len(tensors) == len(model.state_dict())


def test_the_tokenizer_is_written_with_its_settings(tmp_path, tokenizer):
    reader = written(tmp_path, model_of("LlamaConfig", {**GROUPED, "vocab_size": 640}), tokenizer)

    def field(name):
        return reader.fields[f"tokenizer.{name}"].contents()

    assert field("ggml.model") == "gpt2"
    assert field("chat_template") == TEMPLATE
    assert field("ggml.eos_token_id") == tokenizer.eos_token_id
    assert field("ggml.add_bos_token") is False
    tokens, kinds = field("ggml.tokens"), field("ggml.token_type")
    assert tokens[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert kinds[tokenizer.eos_token_id] == gguf.TokenType.CONTROL
    assert tokens[len(tokenizer) :] == [f"[unused {k}]" for k in range(len(tokenizer), 640)]
    assert set(kinds[len(tokenizer) :]) == {gguf.TokenType.UNUSED}


def test_the_same_model_gives_the_same_bytes(tmp_path, tokenizer):
    model = model_of("LlamaConfig", GROUPED)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        written(tmp_path / name, model, tokenizer)
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()


@pytest.mark.parametrize(("weights", "most"), [("float16", 2e-3), ("bfloat16", 2e-2), ("q8_0", 2e-2)])
def test_smaller_formats_round_matrices_and_keep_vectors(weights, most, tmp_path, tokenizer):
    model = model_of("LlamaConfig", GROUPED)
    written(tmp_path, model, tokenizer, weights)
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=FILE, dtype=torch.float32)
    for name, wanted in model.state_dict().items():
        error = (back.state_dict()[name] - wanted).abs().max().item()
        assert error <= (most if wanted.ndim > 1 else 0.0), name
    # 48 numbers do not fill blocks of 32: that matrix is kept in 16 bits.
    kind = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / FILE).tensors}[
        "blk.0.ffn_down.weight"
    ]
    assert kind == {"float16": "F16", "bfloat16": "BF16", "q8_0": "F16"}[weights]


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("GPT2Config", {}, "gpt2 is not converted"),
        ("PhiConfig", {"hidden_act": "gelu"}, "llama.cpp computes phi with gelu_new, not gelu"),
        ("LlamaConfig", {"hidden_act": "gelu"}, "with silu, not gelu"),
        ("PhiConfig", {"qk_layernorm": True}, "norms of queries and keys"),
        ("MistralConfig", {"sliding_window": 8}, "a window of 8 tokens"),
        (
            "LlamaConfig",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}},
            "positions of kind 'linear'",
        ),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(kind, changes, reason):
    with pytest.raises(UserError, match=r"export\.target: gguf: ") as raised:
        require_architecture(getattr(transformers, kind)(**changes))
    assert reason in str(raised.value)


def splitting(tokenizer, steps, normalizer=None):
    import copy

    changed = copy.deepcopy(tokenizer)
    backend = changed.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    backend.normalizer = normalizer
    return changed


def test_rules_of_splitting_have_llama_cpp_s_names(tokenizer):
    levels = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert pre_tokenizer_of(splitting(tokenizer, [levels])) == "gpt-2"
    digits = pre_tokenizers.Digits(individual_digits=True)
    assert pre_tokenizer_of(splitting(tokenizer, [digits, levels])) == "smollm"
    assert set(SPLITS) == {"gpt-2", "smollm"}
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    assert pre_tokenizer_of(splitting(tokenizer, [split, plain], normalizers.NFC())) == "qwen2"


@pytest.mark.parametrize(
    ("steps", "normalizer", "reason"),
    [
        ([pre_tokenizers.ByteLevel(add_prefix_space=True)], None, "by a rule that llama.cpp has no name for"),
        ([pre_tokenizers.Whitespace()], None, "by a rule that llama.cpp has no name for"),
        ([pre_tokenizers.ByteLevel(add_prefix_space=False)], normalizers.Lowercase(), "(Lowercase)"),
    ],
)
def test_a_tokenizer_that_llama_cpp_does_not_have_is_refused(steps, normalizer, reason, tokenizer):
    with pytest.raises(UserError) as raised:
        pre_tokenizer_of(splitting(tokenizer, steps, normalizer))
    assert reason in str(raised.value)


def test_merges_are_pairs_of_known_tokens(tmp_path, tokenizer):
    reader = written(tmp_path, model_of("LlamaConfig", GROUPED), tokenizer)
    merges = reader.fields["tokenizer.ggml.merges"].contents()
    own = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    assert len(merges) == len(own["merges"])
    assert all("".join(merge.split(" ")) in own["vocab"] for merge in merges)
