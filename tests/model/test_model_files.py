"""A model's folder is whole, or one sentence names the broken file; no weight is invented or ignored."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, MixtralConfig

from onesentence.core.errors import UserError
from onesentence.model import loading
from onesentence.model.model_files import tensors_of


def settings(folder, **more):
    return SimpleNamespace(
        **{
            "name": str(folder), "watch": str(folder), "revision": None, "dtype": "float32",
            "quantization": "none", **more,
        }
    )  # fmt: skip


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy of the tiny model."""
    return shutil.copytree(tiny, tmp_path / "model")


def error_of(load, folder, **more) -> str:
    """The error of loading a folder: one sentence, and not about the network."""
    with pytest.raises(UserError) as caught:
        load(settings(folder, **more))
    text = str(caught.value)
    assert "\n" not in text and "network" not in text
    return text


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def cut(file, size):
    file.write_bytes(file.read_bytes()[:size])


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n"
BROKEN = {
    "a pointer": (lambda f: f.write_text(POINTER), "holds a git-lfs pointer"),
    "empty": (lambda f: f.write_bytes(b""), "the file is empty"),
    "no header": (lambda f: cut(f, 5), "not a safetensors file"),
    "half a header": (lambda f: cut(f, 500), "cut off inside its header"),
    "cut": (lambda f: cut(f, f.stat().st_size - 1), "its size differs from its header"),
    "too long": (lambda f: f.write_bytes(f.read_bytes() + b"\0"), "its size differs from its header"),
    "another format": (lambda f: f.write_bytes(b"\x80\x02}q\x00." * 100), "not a safetensors file"),
    "no JSON": (lambda f: f.write_bytes((4).to_bytes(8, "little") + b"{..}"), "its header cannot be read"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("load", [loading.load_tokenizer, loading.load_config, loading.load_base])
def test_broken_weights_are_named_before_anything_is_loaded(folder, case, load):
    breaks, words = BROKEN[case]
    breaks(folder / "model.safetensors")
    text = error_of(load, folder)
    assert f"{folder}/model.safetensors: " in text and words in text


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("text", [POINTER, "", "{", "[1]"])
def test_a_broken_json_file_is_named(folder, name, text):
    (folder / name).write_text(text)
    assert f"{folder}/{name}: " in error_of(loading.load_tokenizer, folder)


def test_a_folder_without_a_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer; copy tokenizer.json" in error_of(loading.load_tokenizer, folder)


def test_a_shard_that_is_missing_or_lacks_a_tensor_is_named(folder):
    whole = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    whole.save_pretrained(folder, max_shard_size="100KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    loading.load_base(settings(folder))  # the whole model loads
    tensors = load_file(shards[1])
    name = next(iter(tensors))
    save_file({key: value for key, value in tensors.items() if key != name}, shards[1])
    assert f"{shards[1]}: lacks {name}, which" in error_of(loading.load_base, folder)
    shards[1].unlink()
    assert f"{shards[1]}: not found, though model.safetensors.index.json" in error_of(
        loading.load_base, folder
    )
    (folder / "model.safetensors.index.json").unlink()
    assert "expected model.safetensors, or several files" in error_of(loading.load_base, folder)


def test_pickled_weights_are_refused_with_a_reason(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    text = error_of(loading.load_base, folder)
    assert "*.safetensors not found" in text and "pickled (pytorch_model.bin)" in text


def test_an_adapter_is_no_base_model(folder):
    (folder / "adapter_config.json").write_text("{}")
    assert "holds an adapter (adapter_config.json)" in error_of(loading.load_base, folder)


def test_the_header_names_the_tensors_of_safetensors(folder):
    assert tensors_of(folder / "model.safetensors") == set(load_file(folder / "model.safetensors"))


def drop(folder, *names):
    """Save the weights again without some of them."""
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in tensors.items() if name not in names},
        folder / "model.safetensors",
        {"format": "pt"},
    )


def untie(folder):
    """Give the model an output layer of its own."""
    edit(folder / "config.json", tie_word_embeddings=False)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


LACKING = ["lm_head.weight", "model.layers.1.mlp.fc1.bias", "model.embed_tokens.weight"]


@pytest.mark.parametrize("name", LACKING)
def test_a_missing_weight_is_refused(folder, name):
    untie(folder)
    loading.load_base(settings(folder))
    drop(folder, name)
    assert f"its weights lack {name}, which config.json asks for" in error_of(loading.load_base, folder)


def test_tied_weights_are_not_missing(folder):
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
    assert "lm_head.weight" not in tensors_of(folder / "model.safetensors")
    loading.load_base(settings(folder))


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_missing_weight_is_refused_in_a_quantized_base_too(folder, quantization):
    drop(folder, "model.layers.1.mlp.fc1.weight")
    text = error_of(loading.load_base, folder, quantization=quantization)
    assert "model.layers.1.mlp.fc1.weight" in text


def test_a_missing_expert_is_refused(tmp_path, tokenizer):
    """transformers stacks the experts of a layer while it loads them."""
    size = {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = MixtralConfig(**size, num_attention_heads=4, num_key_value_heads=2, num_local_experts=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    loading.load_base(settings(tmp_path))
    experts = [name for name in tensors_of(tmp_path / "model.safetensors") if "experts" in name]
    drop(tmp_path, min(experts))
    assert "lack parts of a layer (such as one of its experts)" in error_of(loading.load_base, tmp_path)


def test_a_config_of_another_width_is_refused(folder):
    edit(folder / "config.json", hidden_size=128)
    text = error_of(loading.load_base, folder)
    assert "another shape than config.json says" in text and "[600, 64] instead of [600, 128]" in text


def test_a_config_of_fewer_layers_is_refused(folder):
    edit(folder / "config.json", num_hidden_layers=1)
    text = error_of(loading.load_base, folder)
    assert "model.layers.1." in text and "for which config.json has no place" in text


def test_a_bias_that_the_model_does_not_use_is_refused(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.bias"] = torch.ones(64)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "its weights hold model.embed_tokens.bias" in error_of(loading.load_base, folder)


def test_the_head_of_another_task_may_be_left_out(folder):
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] = torch.ones(2, 64)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    loading.load_base(settings(folder))


def no_question(*args):
    raise AssertionError("a question was asked")


CODE = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}


def test_a_model_that_needs_its_own_code_is_refused_without_a_question(folder, monkeypatch):
    monkeypatch.setattr("builtins.input", no_question)
    edit(folder / "config.json", model_type="own", auto_map=CODE)
    (folder / "code.py").write_text("raise AssertionError('it was run')\n")
    for load in (loading.load_config, loading.load_base):
        assert "needs Python code of its own (auto_map)" in error_of(load, folder)


def test_code_beside_a_model_of_transformers_own_is_not_run(folder, monkeypatch, capsys):
    monkeypatch.setattr("builtins.input", no_question)
    edit(folder / "config.json", auto_map=CODE)
    (folder / "code.py").write_text("raise AssertionError('it was run')\n")
    assert type(loading.load_base(settings(folder))).__module__.startswith("transformers.models.phi.")
    assert "its own Python code is not run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "own"}, "model type `own`"),
        ({"hidden_act": "none"}, "'none'"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized already (gptq)"),
    ],
)
def test_a_config_that_gives_no_model_is_named(folder, values, words):
    edit(folder / "config.json", **values)
    assert words in error_of(loading.load_base, folder)


@pytest.mark.parametrize("name", ["models/a/b", "./models", "/models/none"])
def test_a_path_is_never_looked_for_on_the_hub(name):
    with pytest.raises(UserError, match=r"not a model folder, config.json and \*.safetensors not found"):
        loading.load_config(settings(name, watch="requirements.txt"))
