"""A merged model has the logits of base and adapter, and says how much of the update its format kept."""

from dataclasses import replace

import pytest
import torch
from conftest import lora_settings
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from onesentence.core.errors import UserError
from onesentence.export import merging
from onesentence.export.merging import is_adapter, merged_model, share_kept
from onesentence.model.adapters import load_tuned, probe_logits, save_tuned, trainable
from onesentence.model.loading import load_base


def tune(settings, folder, method="lora", targets=("q_proj", "k_proj", "v_proj"), scale=0.05):
    """Write a tuned model whose update is not zero, as stage `train` does."""
    model = trainable(load_base(settings), lora_settings(target_modules=targets), 0, method)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name or method == "full":
                weight.add_(torch.randn_like(weight) * scale)
            elif "magnitude" in name:
                weight.mul_(1.1)
    save_tuned(model, folder, settings.name, method)
    return folder


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "full"])
def test_the_logits_are_those_of_the_tuned_model(method, tiny_settings, tmp_path):
    tuned = tune(tiny_settings, tmp_path / "tuned", method)
    expected = probe_logits(load_tuned(tiny_settings, tuned))
    assert not torch.allclose(expected, probe_logits(load_base(tiny_settings)), atol=1e-2)
    model, kept = merged_model(tiny_settings, tuned)
    model.save_pretrained(tmp_path / "merged")
    found = probe_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    assert kept == 1.0 and is_adapter(tuned) == (method != "full")
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_on_tied_embeddings_changes_one_side_alone(target, tiny_settings, tmp_path):
    assert load_base(tiny_settings).config.tie_word_embeddings
    tuned = tune(tiny_settings, tmp_path / "tuned", targets=("q_proj", target), scale=0.5)
    expected = probe_logits(load_tuned(tiny_settings, tuned))  # which does not merge it
    model, _ = merged_model(tiny_settings, tuned)
    model.save_pretrained(tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not loaded.config.tie_word_embeddings
    assert not torch.equal(loaded.lm_head.weight, loaded.model.embed_tokens.weight)
    torch.testing.assert_close(probe_logits(loaded), expected, atol=2e-4, rtol=1e-3)


def test_a_merge_into_both_sides_of_tied_embeddings_is_caught(tiny_settings, tmp_path, monkeypatch):
    """The mistake put back: without its own weight, lm_head's update changes the embeddings too."""
    monkeypatch.setattr(merging, "untie", lambda adapted: None)
    tuned = tune(tiny_settings, tmp_path / "tuned", targets=("q_proj", "lm_head"), scale=0.5)
    with pytest.raises(UserError, match="merged would change the logits of this model; use adapter"):
        merged_model(tiny_settings, tuned)


def test_the_same_bytes_every_time_and_the_bases_own_activation(tiny_settings, tmp_path):
    tuned = tune(tiny_settings, tmp_path / "tuned")
    for name in ("one", "two"):
        merged_model(tiny_settings, tuned)[0].save_pretrained(tmp_path / name)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert '"hidden_act": "gelu_new"' in (tmp_path / "one/config.json").read_text()


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_16_bits_round_a_tiny_update_away_and_the_share_says_so(quantization, tiny_settings, tmp_path):
    settings = replace(tiny_settings, dtype="bfloat16", quantization=quantization)
    tuned = tune(tiny_settings, tmp_path / "tuned", scale=1e-5)
    model, kept = merged_model(settings, tuned)
    assert model.dtype == torch.bfloat16 and kept < 0.5
    large = tune(tiny_settings, tmp_path / "large", scale=1.0)
    assert merged_model(settings, large)[1] > 0.98
    model.save_pretrained(tmp_path / "merged")
    assert {weight.dtype for weight in load_file(tmp_path / "merged/model.safetensors").values()} == {
        torch.bfloat16
    }


def test_the_share_of_an_update_by_hand():
    """1 + 2^-10 is 1 in bfloat16, 1 + 2^-7 is itself: 2^-20 of the squared update 2^-20 + 2^-14 is lost."""
    old = torch.tensor([1.0, 1.0])
    new = old + torch.tensor([2.0**-10, 2.0**-7])
    assert share_kept([(old, new)], torch.bfloat16) == pytest.approx(1 - (1 / 65) ** 0.5)
    assert share_kept([(old, new)], torch.float32) == 1.0
    assert share_kept([(old, old)], torch.bfloat16) == 1.0
    assert share_kept([(old, old + 2.0**-10)], torch.bfloat16) == 0.0
