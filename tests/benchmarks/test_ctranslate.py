"""The converter of Phi to CTranslate2: what that library reads from us gives transformers' own tokens."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PhiConfig

from benchmarks.ctranslate import Peer, search, write_model

ctranslate2 = pytest.importorskip("ctranslate2", reason="pip install -r models/requirements.txt")

PAD, EOS = 0, 1
SIZE = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": EOS,
}
CONFIGS = {
    "half of each head rotates": PhiConfig(**SIZE, partial_rotary_factor=0.5),
    "the whole head rotates, exact GELU": PhiConfig(**SIZE, partial_rotary_factor=1.0, hidden_act="gelu"),
    "tied embeddings": PhiConfig(**SIZE, partial_rotary_factor=0.5, tie_word_embeddings=True),
    "grouped queries": PhiConfig(**SIZE, partial_rotary_factor=0.5, num_key_value_heads=2),
}


def random_phi(config):
    """Random weights and biases, large enough that beams differ."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(1.0 if weight.dim() == 1 else 0.0, 0.1)
    return model


def settings() -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=12, num_beams=4, do_sample=False, early_stopping=True, length_penalty=1.0,
        suppress_tokens=[PAD, 5], pad_token_id=PAD, eos_token_id=EOS, bos_token_id=EOS,
    )  # fmt: skip


def drawn() -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(2, 97, (length,), generator=generator).tolist() for length in (3, 20, 41)]


def librarys(model, prompt: list[int]) -> list[int]:
    """What `generate()` gives, up to and with EOS."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        new = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings())
    new = new[0, len(prompt) :].tolist()
    return new[: new.index(EOS) + 1] if EOS in new else new


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_tokens_as_generate(name, tmp_path):
    model = random_phi(CONFIGS[name])
    write_model(model, tmp_path)
    generator = ctranslate2.Generator(str(tmp_path), compute_type="float32", intra_threads=1)
    for prompt in drawn():
        assert search(generator, prompt, settings()) == librarys(model, prompt)


def test_the_peer_answers_from_a_process_of_its_own_and_measures_itself(tmp_path):
    model = random_phi(CONFIGS["tied embeddings"])
    write_model(model, tmp_path)
    peer = Peer(tmp_path, "float32", 1)
    for prompts in (drawn(), drawn()[:1]):
        tokens, cpu_seconds, seconds = peer(prompts, settings())
        assert tokens == [librarys(model, prompt) for prompt in prompts]
        assert cpu_seconds > 0 and seconds > 0
    peer.close()
    assert peer.process.returncode == 0
