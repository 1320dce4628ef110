"""The fast parts (attention, norms, positions, MLP) equal those of torch and transformers."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from onesentence.core.runtime import has_bfloat16_instructions
from onesentence.training.attention import BLOCK, NAME, _BlockAttention, attention, use_block_attention
from onesentence.training.fast import hold_frozen_in_bfloat16, keep_inputs_narrow, use_fast_parts
from onesentence.training.mlp import BLOCK as MLP_BLOCK
from onesentence.training.mlp import use_fast_mlp
from onesentence.training.norms import RmsNorm, use_fast_norms
from onesentence.training.rotary import _fast, _is_rotate_half, use_fast_rotary


def tensors(batch=2, heads=6, key_heads=2, tokens=2 * BLOCK + 37, width=16, values=16, seed=0):
    """(query, key, value, gradient of the result): float32 numbers that bfloat16 can hold."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (heads, width), (key_heads, width), (key_heads, values), (heads, values)
    return [
        torch.randn(batch, count, tokens, size, generator=generator).bfloat16().float()
        for count, size in shapes
    ]


def results(function, query, key, value, gradient):
    """The result and the gradients of query, key and value."""
    inputs = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
    output = function(*inputs)
    output.backward(gradient.to(output.dtype))
    return [output.detach().float(), *(tensor.grad.float() for tensor in inputs)]


def exact(scale):
    return lambda q, k, v: scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def blocks(scale):
    return lambda q, k, v: _BlockAttention.apply(q.bfloat16(), k.bfloat16(), v.bfloat16(), scale)


@pytest.mark.parametrize("tokens", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 37])
@pytest.mark.parametrize(("heads", "key_heads"), [(6, 2), (4, 4), (5, 1)])
def test_blocks_compute_attention_and_its_gradients(tokens, heads, key_heads):
    inputs = tensors(tokens=tokens, heads=heads, key_heads=key_heads)
    for ours, wanted in zip(results(blocks(0.25), *inputs), results(exact(0.25), *inputs), strict=True):
        assert ours.shape == wanted.shape
        # bfloat16 holds 8 bits: 0.4 % of a number, and scores and weights are rounded once each.
        assert (ours - wanted).norm() <= 0.01 * wanted.norm() + 1e-6


def test_no_later_token_is_read():
    query, key, value, _ = tensors()
    before = blocks(0.25)(query, key, value)
    cut = BLOCK + 5
    key[:, :, cut:], value[:, :, cut:] = 9.0, -9.0
    after = blocks(0.25)(query, key, value)
    assert torch.equal(before[:, :, :cut], after[:, :, :cut])
    assert not torch.equal(before[:, :, cut:], after[:, :, cut:])


def test_values_of_another_width():
    inputs = tensors(values=24)
    for ours, wanted in zip(results(blocks(0.25), *inputs), results(exact(0.25), *inputs), strict=True):
        assert (ours - wanted).norm() <= 0.01 * wanted.norm()


class Module(torch.nn.Module):
    is_causal = True
    num_key_value_groups = 3


def calls(monkeypatch):
    """A list that gets an item for each use of blocks."""
    made = []
    monkeypatch.setattr(_BlockAttention, "apply", staticmethod(lambda *inputs: made.append(1) or inputs[0]))
    return made


@pytest.mark.parametrize(
    "change",
    [
        {"dropout": 0.1},
        {"attention_mask": torch.ones(2, 1, 9, 9, dtype=torch.bool)},
        {"is_causal": False},
        {"position_bias": torch.zeros(2, 6, 9, 9)},
    ],
)
def test_a_call_that_blocks_do_not_support_goes_to_sdpa(change, monkeypatch):
    made = calls(monkeypatch)
    query, key, value, _ = (tensor.bfloat16() for tensor in tensors(tokens=9))
    options = {"attention_mask": None, "dropout": 0.0, "scaling": 0.25, **change}
    attention(Module(), query, key, value, **options)
    assert not made
    attention(Module(), query, key, value, attention_mask=None, dropout=0.0, scaling=0.25, sliding_window=64)
    assert made


def test_float32_without_autocast_goes_to_sdpa(monkeypatch):
    made = calls(monkeypatch)
    query, key, value, _ = tensors(tokens=9)
    attention(Module(), query, key, value, attention_mask=None, scaling=0.25)
    assert not made
    with torch.autocast("cpu", torch.bfloat16):
        attention(Module(), query, key, value, attention_mask=None, scaling=0.25)
    assert made


def llama(**changes):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**config, **changes}))


@pytest.mark.parametrize("others", [(), (use_fast_rotary, use_fast_mlp)])
def test_a_model_computes_the_same_with_fast_parts(others):
    plain, fast = llama(), llama()
    for use in (use_block_attention, use_fast_norms, *others):
        use(fast)
    assert fast.config._attn_implementation == NAME
    assert sum(isinstance(module, RmsNorm) for module in fast.modules()) == 5
    ids = torch.randint(0, 96, (2, BLOCK + 40), generator=torch.Generator().manual_seed(1))
    losses = []
    for model in (plain, fast):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    for (name, wanted), ours in zip(plain.named_parameters(), fast.parameters(), strict=True):
        assert (ours.grad - wanted.grad).norm() <= 0.05 * wanted.grad.norm() + 1e-6, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_and_its_gradients_equal_llamas(dtype):
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(3, 5, 32, generator=generator).to(dtype) for _ in range(2))
    theirs = LlamaRMSNorm(32, eps=1e-3).to(dtype)
    theirs.weight.data.copy_(torch.rand(32, generator=generator) + 0.5)
    weight = torch.nn.Parameter(theirs.weight.detach().clone())
    both = []
    for norm in (theirs, RmsNorm(weight, 1e-3)):
        inputs = x.clone().requires_grad_()
        output = norm(inputs)
        output.backward(gradient)
        both.append([output.detach(), inputs.grad, norm.weight.grad])
    # In bfloat16 theirs rounds several times, ours once.
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    for wanted, ours in zip(*both, strict=True):
        assert ours.dtype == wanted.dtype
        assert (ours - wanted).float().norm() <= tolerance * wanted.float().norm()


def test_a_norm_with_another_formula_stays():
    model = llama()

    class OnePlus(torch.nn.Module):
        """Gemma's norm: its weight is added to 1."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.full((32,), 0.3))
            self.variance_epsilon = 1e-6

        def forward(self, x):
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)

    model.model.norm = OnePlus()
    use_fast_norms(model)
    assert isinstance(model.model.norm, OnePlus)
    assert isinstance(model.model.layers[0].input_layernorm, RmsNorm)


def rotary_of(family: str):
    """The original `apply_rotary_pos_emb` of a family, also if it has been replaced."""
    import importlib

    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    function = module.apply_rotary_pos_emb
    return function.__wrapped__ if getattr(function, "in_few_passes", False) else function


@pytest.mark.parametrize("angles_of", [1, 2])  # the same angles for all rows, or for each row its own
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "phi", "gpt_neox", "gemma2"])
def test_positions_and_their_gradients_equal_those_of_transformers(family, angles_of):
    query, key, _, gradient = (tensor.bfloat16() for tensor in tensors(tokens=9))
    generator = torch.Generator().manual_seed(3)
    angles = torch.randn(angles_of, 9, 8, generator=generator).repeat(1, 1, 2)
    original, both = rotary_of(family), []
    assert _is_rotate_half(original)
    for function in (original, _fast(original)):
        inputs = [tensor.clone().requires_grad_() for tensor in (query, key)]
        turned = function(*inputs, angles.cos(), angles.sin())
        for result, towards in zip(turned, (gradient, gradient[:, :2]), strict=True):
            (result.float() * towards.float()).sum().backward()
        both.append([*(result.detach().bfloat16() for result in turned), *(x.grad for x in inputs)])
    for wanted, ours in zip(*both, strict=True):
        assert ours.dtype == torch.bfloat16
        # Both results are rounded once; the gradient of theirs is rounded in more places.
        assert (ours.float() - wanted.float()).norm() <= 0.005 * wanted.float().norm()
    assert torch.equal(both[0][0], both[1][0]) and torch.equal(both[0][1], both[1][1])


def test_positions_of_another_kind_or_format_stay():
    assert not _is_rotate_half(rotary_of("cohere"))  # turns pairs of neighbours
    query, key, _, _ = tensors(tokens=9)
    angles = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(3)).repeat(1, 1, 2)
    original = rotary_of("llama")
    for inputs in ((query, key), (query[..., :8].bfloat16(), key[..., :8].bfloat16())):
        cos, sin = (f(angles[..., : inputs[0].shape[-1]]) for f in (torch.cos, torch.sin))
        for format_of in (torch.float32, torch.bfloat16):
            wanted = original(*inputs, cos.to(format_of), sin.to(format_of))
            ours = _fast(original)(*inputs, cos.to(format_of), sin.to(format_of))
            if inputs[0].dtype == torch.float32 or format_of == torch.bfloat16:
                assert all(torch.equal(one, other) for one, other in zip(wanted, ours, strict=True))
                assert ours[0].dtype == wanted[0].dtype


def test_an_mlp_in_blocks_and_its_gradients_equal_llamas():
    rows = 2 * (MLP_BLOCK // 64) + 5
    models = [llama().bfloat16().model.layers[0].mlp for _ in range(2)]
    use_fast_mlp(torch.nn.ModuleList([models[1]]))
    generator = torch.Generator().manual_seed(4)
    x, gradient = (torch.randn(1, rows, 32, generator=generator).bfloat16() for _ in range(2))
    both = []
    for mlp in models:
        inputs = x.clone().requires_grad_()
        output = mlp(inputs)
        output.backward(gradient)
        both.append([output.detach(), inputs.grad, *(weight.grad for weight in mlp.parameters())])
    assert "forward" in vars(models[1]) and "forward" not in vars(models[0])
    for wanted, ours in zip(*both, strict=True):
        assert torch.equal(ours, wanted)


def test_an_mlp_of_another_kind_or_format_stays():
    from transformers import Gemma2Config
    from transformers.models.gemma2.modeling_gemma2 import Gemma2MLP

    other = Gemma2MLP(Gemma2Config(hidden_size=32, intermediate_size=64))
    use_fast_mlp(torch.nn.ModuleList([other]))
    assert "forward" not in vars(other)

    class Doubled(type(llama().model.layers[0].mlp)):
        def forward(self, x):
            return 2 * super().forward(x)

    class Clamped(type(llama().model.layers[0].mlp)):
        def forward(self, x):
            gate, up = self.gate_proj(x).clamp(max=7), self.up_proj(x).clamp(-7, 7)
            return self.down_proj(self.act_fn(gate) * up)

    for kind in (Doubled, Clamped):
        changed = kind(llama().config)
        use_fast_mlp(torch.nn.ModuleList([changed]))
        assert "forward" not in vars(changed)
    plain, fast = (llama().model.layers[0].mlp for _ in range(2))
    use_fast_mlp(torch.nn.ModuleList([fast]))
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(4))
    assert torch.equal(fast(x), plain(x))


def adapted(model):
    """`model` with LoRA on every linear layer of attention, whose update is not zero."""
    from types import SimpleNamespace

    from onesentence.model.adapters import trainable

    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    lora = SimpleNamespace(rank=4, alpha=None, dropout=0.0, target_modules=targets)
    model = trainable(model.requires_grad_(False), lora, 0, "lora").train()
    generator = torch.Generator().manual_seed(2)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.1, generator=generator)
    return model


def loss_and_gradients(model):
    ids = torch.randint(0, 96, (2, 60), generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return [loss.detach(), *(weight.grad for weight in model.parameters() if weight.requires_grad)]


@pytest.mark.parametrize("tied", [False, True])
def test_rounding_frozen_weights_once_changes_no_byte(tied):
    plain, held = (adapted(llama(tie_word_embeddings=tied)) for _ in range(2))
    hold_frozen_in_bfloat16(held)
    formats = {name: weight.dtype for name, weight in held.named_parameters()}
    assert all(dtype == torch.bfloat16 for name, dtype in formats.items() if "base_layer" in name)
    assert all(dtype == torch.float32 for name, dtype in formats.items() if "lora_" in name)
    # Embeddings and norms stay in float32.
    assert all(dtype == torch.float32 for name, dtype in formats.items() if "embed" in name or "norm" in name)
    for ours, wanted in zip(loss_and_gradients(held), loss_and_gradients(plain), strict=True):
        assert torch.equal(ours, wanted)


def test_every_weight_that_is_trained_stays_float32():
    model = llama().requires_grad_(True)
    hold_frozen_in_bfloat16(model)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_an_adapter_reads_the_norms_bfloat16_result():
    plain, narrow = adapted(llama()), adapted(llama())
    use_fast_parts(narrow, "float32", "bfloat16")
    if not has_bfloat16_instructions():
        use_fast_norms(narrow)
        keep_inputs_narrow(narrow)
    seen = set()
    for name, module in narrow.named_modules():
        if name.endswith("q_proj.lora_A.default"):
            module.register_forward_pre_hook(lambda module, inputs: seen.add(inputs[0].dtype))
    for ours, wanted in zip(loss_and_gradients(narrow), loss_and_gradients(plain), strict=True):
        assert (ours - wanted).norm() <= 0.05 * wanted.norm() + 1e-6
    assert seen == {torch.bfloat16}


def test_a_run_in_float32_keeps_its_attention_and_norms():
    model = adapted(llama())
    before = [type(module) for module in model.modules()]
    use_fast_parts(model, "float32", "none")
    assert [type(module) for module in model.modules()] == before
    assert model.config._attn_implementation == "sdpa"
