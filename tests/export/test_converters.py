"""Models in CTranslate2's format: the tokens of `generate()`, with the tokenizer's own names of tokens."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, GPT2Config, LlamaConfig, PhiConfig

from onesentence.core.errors import UserError
from onesentence.export.converters import llama_spec, phi_spec, search, vocabulary, write_model

ctranslate2 = pytest.importorskip("ctranslate2", reason="pip install -r models/requirements.txt")

EOS, PAD = 0, 1  # of the tiny tokenizer
SIZE = {
    "vocab_size": 640,  # 40 more than the tokenizer has
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": None,
}
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
GPT2 = GPT2Config(
    vocab_size=600, n_embd=64, n_layer=2, n_head=4, n_positions=128, eos_token_id=EOS, bos_token_id=EOS
)
CONFIGS = {
    "phi, grouped queries": PhiConfig(**SIZE, partial_rotary_factor=0.5, num_key_value_heads=2),
    "llama": LlamaConfig(**SIZE, num_key_value_heads=2),
    "llama, another base of positions": LlamaConfig(
        **SIZE, rope_parameters={"rope_type": "default", "rope_theta": 100_000.0}
    ),
    "gpt-2, by CTranslate2's own converter": GPT2,
}


def random_model(config):
    """Random weights and biases, large enough that beams differ."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(1.0 if weight.dim() == 1 else 0.0, 0.1)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_tokens_as_generate(name, tokenizer, tmp_path):
    model = random_model(CONFIGS[name])
    size = model.config.vocab_size
    suppressed = [PAD, *range(len(tokenizer), size)]
    settings = GenerationConfig(
        max_new_tokens=12, num_beams=4, do_sample=False, early_stopping=True, length_penalty=1.0,
        suppress_tokens=suppressed, pad_token_id=PAD, eos_token_id=EOS,
    )  # fmt: skip
    rows = torch.randint(2, 600, (3, 30), generator=torch.Generator().manual_seed(0))
    prompts = [row[: 10 * k + 3].tolist() for k, row in enumerate(rows)]
    with torch.inference_mode():
        expected = [
            model.generate(torch.tensor([ids]), generation_config=settings)[0, len(ids) :].tolist()
            for ids in prompts
        ]
    write_model(model, tmp_path / "model", "float32", tokenizer)
    names = vocabulary(tokenizer, size)
    generator = ctranslate2.Generator(str(tmp_path / "model"), compute_type="float32", intra_threads=1)
    asked = SimpleNamespace(
        num_beams=4, max_new_tokens=12, length_penalty=1.0, eos_token_id=EOS,
        suppress_tokens=[names[token] for token in suppressed],
    )  # fmt: skip
    found = [search(generator, [names[token] for token in ids], asked) for ids in prompts]
    assert found == expected


def test_names_of_tokens_are_distinct_and_those_of_the_tokenizer(tokenizer):
    names = vocabulary(tokenizer, 640)
    assert len(set(names)) == 640 and names[600:602] == ["<unused_600>", "<unused_601>"]
    assert names[:600] == tokenizer.convert_ids_to_tokens(list(range(600)))


@pytest.mark.parametrize(
    ("spec", "config"),
    [
        (phi_spec, LlamaConfig(**SIZE)),
        (phi_spec, PhiConfig(**SIZE, qk_layernorm=True)),
        (phi_spec, PhiConfig(**SIZE, hidden_act="silu")),
        (llama_spec, LlamaConfig(**SIZE, hidden_act="gelu")),
        (llama_spec, LlamaConfig(**SIZE, rope_parameters=LINEAR)),
    ],
)
def test_what_is_not_carried_over_is_refused(spec, config):
    with pytest.raises(UserError, match=r"only a (Phi|Llama) .* is converted to CTranslate2; use merged"):
        spec(SimpleNamespace(config=config))


def test_an_architecture_that_no_converter_knows_is_refused(tokenizer, tmp_path):
    from transformers import Phi3Config

    model = random_model(Phi3Config(**SIZE))
    with pytest.raises(UserError, match=r"CTranslate2 [\d.]+ cannot convert this phi3 "):
        write_model(model, tmp_path / "model", "float32", tokenizer)
