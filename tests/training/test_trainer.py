"""Checkpoints hold what a resumed run loads; a machine's settings of accelerate change no run."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig

from onesentence.core.errors import UserError
from onesentence.training.sharding import shard
from onesentence.training.trainer import SummaryTrainer, training_arguments

SIZE = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize(
    "config", [LlamaConfig(**SIZE), MixtralConfig(**SIZE, num_local_experts=2)], ids=["llama", "mixtral"]
)
def test_a_checkpoint_of_every_weight_has_the_model_s_own_names(config, tmp_path):
    """transformers would write experts one by one, and not find them when it loads a checkpoint."""
    model = AutoModelForCausalLM.from_config(config)
    trainer = SummaryTrainer.__new__(SummaryTrainer)
    trainer.model, trainer.args = model, SimpleNamespace(output_dir=str(tmp_path))
    trainer.save_model()
    stored, own = load_file(tmp_path / "model.safetensors"), model.state_dict()
    assert set(stored) == set(own)
    assert all(torch.equal(stored[name], own[name]) for name in own)


def test_a_machine_s_configuration_of_accelerate_changes_no_precision(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    train = SimpleNamespace(
        batch_size=1,
        gradient_accumulation=1,
        learning_rate=0.1,
        warmup_ratio=0,
        log_every=1,
        checkpoint_every=1,
    )
    arguments = training_arguments(SimpleNamespace(train=train, seed=0), 1, tmp_path)
    assert arguments.mixed_precision == "no"


@pytest.mark.parametrize(("quantization", "dtype"), [("nf4", "bfloat16"), ("none", "float16")])
def test_what_cannot_be_divided_is_refused(quantization, dtype):
    with pytest.raises(UserError, match="leave out --use_fsdp"):
        shard(torch.nn.Linear(1, 1), quantization, dtype)
