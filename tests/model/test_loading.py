"""Loading: the model that params.yaml names is loaded, or an error is raised."""

import hashlib
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, lora_settings

from onesentence.core import runtime
from onesentence.core.errors import UserError
from onesentence.model import adapters, loading

QKV = ["q_proj", "k_proj", "v_proj"]


def test_phi2_rank_16_on_q_k_v_trains_7_864_320_parameters():
    # 32 layers * 3 projections * 2 matrices * 2560 wide * rank 16
    from benchmarks.full_size import phi2_config

    trainable, total = adapters.parameter_counts(phi2_config(), lora_settings(), "lora")
    assert trainable == 32 * 3 * 2 * 2560 * 16 == 7_864_320
    assert total == 2_787_548_160


@pytest.mark.parametrize("rank", [8, 64])
def test_trainable_parameters_follow_from_rank(base, rank):
    model = adapters.add_adapter(base, lora_settings(rank), seed=0)
    trained = sum(w.numel() for w in model.parameters() if w.requires_grad)
    assert trained == 2 * 3 * 2 * 64 * rank  # layers * projections * matrices * width * rank
    assert all("lora_" in name for name, w in model.named_parameters() if w.requires_grad)


def test_alpha_null_is_twice_the_rank(base):
    model = adapters.add_adapter(base, lora_settings(rank=12), seed=0)
    assert model.peft_config["default"].lora_alpha == 24


def test_a_target_that_matches_no_module_is_an_error(base):
    with pytest.raises(UserError, match=r"lora.target_modules: query_key_value matches no module.*dense"):
        adapters.add_adapter(base, lora_settings(target_modules=("q_proj", "query_key_value")), seed=0)


def test_a_new_adapter_changes_no_logits(base):
    ids = torch.arange(20)[None]
    before = base(ids).logits
    model = adapters.add_adapter(base, lora_settings(), seed=3)
    assert torch.equal(model.eval()(ids).logits, before)


def test_the_seed_determines_the_adapter(tiny_settings):
    def weights(seed):
        model = adapters.add_adapter(loading.load_base(tiny_settings), lora_settings(), seed)
        return torch.cat([w.flatten() for n, w in model.named_parameters() if "lora_A" in n])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


SAVE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from onesentence.model import adapters, loading
name = sys.argv[1]
settings = SimpleNamespace(name=name, watch=name, revision=None, dtype="float32", quantization="none")
lora = SimpleNamespace(rank=4, alpha=None, dropout=0.1,
                       target_modules=["v_proj", "fc1", "q_proj", "dense", "k_proj", "fc2"])
model = adapters.add_adapter(loading.load_base(settings), lora, seed=0)
adapters.save_tuned(model, Path("out"), "models/tiny", "lora")
"""


def test_saved_bytes_do_not_depend_on_hash_seed_or_folder(tiny, tmp_path):
    digests = []
    for seed in ("1", "2"):
        folder = tmp_path / f"folder{seed}"
        folder.mkdir()
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path)}
        # The same model under another path.
        (folder / "base").symlink_to(tiny)
        subprocess.run(
            [sys.executable, "-c", SAVE, "base" if seed == "1" else str(tiny)],
            cwd=folder,
            env=environment,
            check=True,
            capture_output=True,
        )
        files = sorted(path.name for path in (folder / "out").iterdir())
        assert files == ["adapter_config.json", "adapter_model.safetensors", "tuning.json"]
        digests.append([hashlib.sha256((folder / "out" / name).read_bytes()).hexdigest() for name in files])
    assert digests[0] == digests[1]


def test_a_saved_adapter_loads_with_peft_alone(base, tiny_settings, tmp_path):
    from peft import PeftModel

    model = adapters.add_adapter(base, lora_settings(), seed=0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(0))
    ids = torch.arange(20)[None]
    wanted = model.eval()(ids).logits
    adapters.save_tuned(model, tmp_path / "tuned", "models/tiny", "lora")
    loaded = PeftModel.from_pretrained(loading.load_base(tiny_settings), tmp_path / "tuned").eval()
    assert torch.equal(loaded(ids).logits, wanted)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantized_base_trains_and_generates(tiny_settings, tokenizer, quantization):
    from onesentence.generation.decoding import summarize
    from onesentence.model.encoding import training_batch
    from onesentence.training.loss import completion_loss

    settings = SimpleNamespace(**{**vars(tiny_settings), "quantization": quantization})
    plain = loading.load_base(tiny_settings).get_memory_footprint()
    base = loading.load_base(settings)
    kinds = {type(module).__name__ for module in base.modules()}
    assert {"nf4": "Linear4bit", "int8": "Linear8bitLt"}[quantization] in kinds
    assert base.get_memory_footprint() < plain
    model = adapters.add_adapter(base, lora_settings(), seed=0).train()
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=0.01)
    batch = training_batch([(list(range(10, 30)), [40, 41, 0]), ([7, 8], [9, 0])], tokenizer.pad_token_id)
    losses = []
    for _ in range(5):
        loss = completion_loss(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    settings = SimpleNamespace(
        max_new_tokens=5, num_beams=4, max_batch_tokens=200, length_penalty=1.0, no_repeat_ngram_size=0
    )
    outputs = summarize(model.eval(), tokenizer, [[5, 6, 7, 8], [9, 10]], settings)
    assert all(output.complete for output in outputs)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantized_base_trains_equally_after_it_has_generated(tiny_settings, tokenizer, quantization):
    from onesentence.generation.decoding import summarize
    from onesentence.model.encoding import training_batch
    from onesentence.training.loss import completion_loss

    settings = SimpleNamespace(**{**vars(tiny_settings), "quantization": quantization})
    batch = training_batch([(list(range(10, 30)), [40, 41, 0])], tokenizer.pad_token_id)

    def gradients(used):
        base = loading.load_base(settings)
        if used:
            summarize(
                base,
                tokenizer,
                [[5, 6, 7, 8]],
                SimpleNamespace(
                    max_new_tokens=3,
                    num_beams=2,
                    max_batch_tokens=1,
                    length_penalty=1.0,
                    no_repeat_ngram_size=0,
                ),
            )
        model = adapters.add_adapter(base, lora_settings(), seed=0).train()
        completion_loss(model, batch).backward()
        return [w.grad for n, w in model.named_parameters() if "lora_B" in n]

    for used, unused in zip(gradients(True), gradients(False), strict=True):
        assert used.abs().max() > 0
        assert torch.equal(used, unused)


def overflowing(folder, base, tokenizer):
    """Save the tiny model with attention scores above 65,504, the largest float16."""
    with torch.no_grad():
        for layer in base.model.layers:
            layer.self_attn.q_proj.bias.fill_(100.0)
            layer.self_attn.k_proj.bias.fill_(100.0)
    base.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_float16_with_float32_attention_has_finite_logits(base, tokenizer, tmp_path):
    overflowing(tmp_path, base, tokenizer)
    settings = SimpleNamespace(
        name=str(tmp_path), watch=str(tmp_path), revision=None, dtype="float16", quantization="none"
    )
    model = loading.load_base(settings)
    assert model.dtype == torch.float16
    ids = torch.arange(12)[None]
    logits = model(ids).logits
    assert torch.isfinite(logits).all()
    model.set_attn_implementation("eager")  # without the float32 attention float16 overflows
    assert not torch.isfinite(model(ids).logits).all()


def test_float32_attention_equals_transformers_own_in_float32(base):
    ids = torch.arange(30).reshape(2, 15)
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    wanted = base(ids, attention_mask=mask).logits
    loading.register_float32_attention()
    base.set_attn_implementation(loading.FLOAT32_ATTENTION)
    assert torch.equal(base(ids, attention_mask=mask).logits, wanted)


def test_bfloat16_is_refused_on_a_gpu_without_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(UserError, match=r"model.dtype: bfloat16 .* does not have it"):
        loading.check_dtype("bfloat16")


def test_a_folder_that_is_no_model(tmp_path):
    settings = SimpleNamespace(
        name=str(tmp_path), watch=str(tmp_path), revision=None, dtype="float32", quantization="none"
    )
    with pytest.raises(UserError, match=r"not a model folder, config.json and \*.safetensors not found"):
        loading.load_base(settings)
    with pytest.raises(UserError, match="not a model folder"):
        loading.load_tokenizer(settings)


def test_pickled_weights_are_refused(tiny, tmp_path):
    import shutil

    for file in tiny.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    settings = SimpleNamespace(
        name=str(tmp_path), watch=str(tmp_path), revision=None, dtype="float32", quantization="none"
    )
    with pytest.raises(UserError, match=r"\*.safetensors not found"):
        loading.load_base(settings)


@pytest.mark.parametrize("load", [loading.load_base, loading.load_tokenizer, loading.load_config])
def test_a_hub_name_without_a_network_fails_in_one_sentence(load):
    settings = SimpleNamespace(
        name="microsoft/phi-2",
        watch="requirements.txt",
        revision="0" * 40,
        dtype="float32",
        quantization="none",
    )
    with pytest.raises(UserError, match=r"model.name: 'microsoft/phi-2' .*needs a network") as caught:
        load(settings)
    assert "\n" not in str(caught.value) and "http" not in str(caught.value)


def test_bfloat16_autocast_is_refused_on_a_cpu_without_it(monkeypatch):
    monkeypatch.setattr(runtime, "cpu_info", lambda: {"flags": "fpu avx2 avx512f"})
    with pytest.raises(UserError, match=r"train.autocast: bfloat16 .* this CPU does not have it; use none"):
        loading.require_bfloat16("train.autocast", "none")
    monkeypatch.setattr(runtime, "cpu_info", lambda: {"flags": "fpu avx2 avx512f avx512_bf16"})
    loading.require_bfloat16("train.autocast", "none")


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "full"])
def test_every_method_loads_what_it_has_trained(base, tiny_settings, tmp_path, method):
    """A trained model has the same logits after saving and loading; the base has others."""
    torch.manual_seed(1)
    ids = torch.randint(5, 500, (2, 30))
    before = base(ids).logits
    model = adapters.trainable(base, lora_settings(), 0, method)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.02 * torch.randn_like(weight))
    changed = model(ids).logits
    assert not torch.allclose(changed, before, atol=1e-2)
    adapters.save_tuned(model, tmp_path, "models/tiny", method)
    loaded = adapters.load_tuned(tiny_settings, tmp_path)
    assert not loaded.training
    assert torch.allclose(loaded(ids).logits, changed, atol=1e-4)


def test_the_scale_of_an_update_by_method(tiny_settings):
    """LoRA: alpha / rank; rsLoRA: alpha / sqrt(rank)."""
    scales = {}
    for method in ("lora", "rslora"):
        settings = SimpleNamespace(rank=16, alpha=32, dropout=0.0, target_modules=["q_proj"])
        model = adapters.add_adapter(loading.load_base(tiny_settings), settings, 0, method)
        layer = model.get_base_model().model.layers[0].self_attn.q_proj
        scales[method] = layer.scaling["default"]
    assert scales == {"lora": 2.0, "rslora": 8.0}


def test_a_folder_without_a_tuned_model_is_named(tiny_settings, tmp_path):
    with pytest.raises(UserError, match=r"tuning.json not found; run `dvc repro`"):
        adapters.load_tuned(tiny_settings, tmp_path)


def perturbed(model):
    """`model` with an adapter that changes its logits."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    return model.eval()


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_an_adapter_on_tied_embeddings_is_not_merged(
    base, tiny_settings, tokenizer, tmp_path, target, method, capsys
):
    """Merging would change the other embeddings too, which gives another model than the trained one."""
    from onesentence.generation.decoding import summarize

    assert base.config.tie_word_embeddings
    ids = torch.randint(5, 500, (2, 30), generator=torch.Generator().manual_seed(0))
    chosen = lora_settings(target_modules=("q_proj", target))
    model = perturbed(adapters.add_adapter(base, chosen, 0, method))
    wanted = model(ids).logits
    adapters.save_tuned(model, tmp_path, "models/tiny", method)
    loaded = adapters.load_tuned(tiny_settings, tmp_path)
    assert torch.allclose(loaded(ids).logits, wanted, atol=1e-4)
    assert "the adapter is not merged" in capsys.readouterr().out
    settings = SimpleNamespace(
        max_new_tokens=5, num_beams=4, max_batch_tokens=10**6, length_penalty=1.0, no_repeat_ngram_size=0
    )
    written = [output.tokens for output in summarize(loaded, tokenizer, ids.tolist(), settings)]
    assert written == [output.tokens for output in summarize(model, tokenizer, ids.tolist(), settings)]
    # Merging would have changed the logits.
    broken = loaded.merge_and_unload()
    assert not torch.allclose(broken(ids).logits, wanted, atol=1e-2)


def test_a_merge_that_changes_the_logits_is_undone(base, tiny_settings, tmp_path, monkeypatch, capsys):
    from peft.tuners.lora import LoraModel

    ids = torch.arange(5, 35)[None]
    model = perturbed(adapters.add_adapter(base, lora_settings(), 0))
    wanted = model(ids).logits
    adapters.save_tuned(model, tmp_path, "models/tiny", "lora")
    merge = LoraModel.merge_and_unload

    def wrong(self):
        merged = merge(self)
        merged.model.layers[0].mlp.fc1.weight.data.mul_(1.5)
        return merged

    monkeypatch.setattr(LoraModel, "merge_and_unload", wrong)
    loaded = adapters.load_tuned(tiny_settings, tmp_path)
    assert torch.equal(loaded(ids).logits, wanted)
    assert "merging would change the logits" in capsys.readouterr().out


def test_the_embeddings_are_not_copied_into_an_adapter(base, tmp_path):
    from safetensors.torch import load_file

    model = adapters.add_adapter(base, lora_settings(target_modules=("lm_head", "embed_tokens")), 0)
    adapters.save_tuned(model, tmp_path, "models/tiny", "lora")
    assert all("lora_" in name for name in load_file(tmp_path / "adapter_model.safetensors"))


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64))


def test_conv1d_gets_an_adapter_of_its_shape(recwarn):
    """GPT-2's c_attn: 32 in, 96 out; its weight is the transpose of a Linear's."""
    model = adapters.add_adapter(gpt2(), lora_settings(rank=4, target_modules=("c_attn",)), seed=0)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert sum(weight.numel() for weight in trained) == 2 * 4 * (32 + 96)
    assert not [warning for warning in recwarn if "fan_in_fan_out" in str(warning.message)]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("attention", "attention matches no module"),
        ("attn", "attn matches a GPT2Attention, which takes no adapter"),
        ("ln_1", "ln_1 matches a LayerNorm, which takes no adapter"),
        ("h.5.attn.c_attn", "h.5.attn.c_attn matches no module"),
    ],
)
def test_a_target_that_takes_no_adapter_is_named_with_the_modules_that_do(target, words):
    with pytest.raises(UserError) as caught:
        adapters.add_adapter(gpt2(), lora_settings(target_modules=("c_attn", target)), seed=0)
    assert words in str(caught.value)
    assert str(caught.value).endswith("use some of c_attn, c_fc, c_proj, lm_head, wpe, wte")


def test_a_target_may_be_the_end_of_a_name():
    model = adapters.add_adapter(gpt2(), lora_settings(rank=4, target_modules=("h.1.attn.c_attn",)), seed=0)
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == 1


def test_a_module_that_peft_refuses_gives_one_sentence():
    """Mamba reads the weight of out_proj without calling the layer, so an adapter would do nothing."""
    from transformers import MambaConfig, MambaForCausalLM

    mamba = MambaForCausalLM(
        MambaConfig(vocab_size=99, hidden_size=32, num_hidden_layers=1, state_size=4, pad_token_id=0)
    )
    with pytest.raises(UserError, match="peft cannot adapt out_proj of this model: "):
        adapters.add_adapter(mamba, lora_settings(target_modules=("out_proj",)), seed=0)
