"""Dropout with few draws: its rate, scale, gradient and seed."""

import pytest
import torch

from onesentence.training.dropout import PackedDropout, use_packed_dropout


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5])
def test_the_rate_is_p_in_each_of_the_four_lanes_of_a_draw(p):
    torch.manual_seed(0)
    n = 400_000
    output = PackedDropout(p)(torch.ones(n))
    for lane in range(4):
        share = (output[lane::4] == 0).float().mean().item()
        assert abs(share - p) < 4 * (p * (1 - p) / (n / 4)) ** 0.5
    assert output[output != 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-4)
    assert output.mean().item() == pytest.approx(1, abs=0.01)


def test_elements_are_dropped_independently():
    torch.manual_seed(1)
    dropped = (PackedDropout(0.5)(torch.ones(200_000)) == 0).float() - 0.5
    for lag in (1, 2, 3, 4, 64):
        assert abs((dropped[lag:] * dropped[:-lag]).mean().item() * 4) < 0.02


@pytest.mark.parametrize("shape", [(3,), (2, 5, 7), (1, 1), (4, 8)])
def test_shapes_and_formats_stay(shape):
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(shape).to(dtype)
        output = PackedDropout(0.1)(x)
        assert output.shape == x.shape and output.dtype == dtype


def test_without_training_or_with_p_0_it_does_nothing():
    x = torch.randn(10)
    assert PackedDropout(0.5).eval()(x) is x
    assert PackedDropout(0.0)(x) is x


def test_the_gradient_has_the_mask_and_scale_of_the_value():
    torch.manual_seed(2)
    x = torch.randn(1_000, requires_grad=True)
    output = PackedDropout(0.25)(x)
    output.sum().backward()
    assert torch.equal(x.grad != 0, output != 0)
    assert x.grad[x.grad != 0].unique().tolist() == pytest.approx([4 / 3], rel=1e-4)


def test_a_seed_gives_the_same_mask_and_the_next_call_another():
    def masks():
        torch.manual_seed(3)
        module = PackedDropout(0.5)
        return module(torch.ones(100)), module(torch.ones(100))

    (first, second), (again, _) = masks(), masks()
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_it_equals_the_formula_bit_for_bit():
    torch.manual_seed(4)
    x = torch.randn(7, 33, requires_grad=True)
    output = PackedDropout(0.05)(x)
    scale = 1 / (1 - round(0.05 * 2**16) / 2**16)
    assert torch.equal(output, torch.where(output != 0, x * scale, 0.0))
    (gradient,) = torch.autograd.grad(output, x, x.detach())
    assert torch.equal(gradient, torch.where(output != 0, x * scale, 0.0))


def test_it_replaces_the_dropout_of_every_adapter(base):
    from types import SimpleNamespace

    from onesentence.model.adapters import add_adapter

    lora = SimpleNamespace(rank=2, alpha=None, dropout=0.2, target_modules=["q_proj", "fc1"])
    model = add_adapter(base, lora, seed=0)
    use_packed_dropout(model)
    dropouts = [m for m in model.modules() if isinstance(m, PackedDropout)]
    assert len(dropouts) == 4 and all(m.p == 0.2 for m in dropouts)  # 2 modules in 2 layers
    assert not any(isinstance(m, torch.nn.Dropout) and m.p == 0.2 for m in model.modules())
