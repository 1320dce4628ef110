"""The fast GELU equals torch's in its value, its gradient and the bytes that autograd keeps."""

import pytest
import torch
from torch.nn.functional import gelu

from onesentence.training.activation import Gelu, _Gelu, use_fast_gelu


def test_value_and_gradient_equal_torchs():
    x = torch.cat([torch.linspace(-12, 12, 10_001), torch.tensor([0.0, -0.0, 1e-30, 60.0, -60.0])])
    x.requires_grad_(True)
    ours, library = Gelu()(x), gelu(x, approximate="tanh")
    torch.testing.assert_close(ours, library, rtol=2e-6, atol=1e-6)
    (left,) = torch.autograd.grad(ours, x, torch.ones_like(x))
    (right,) = torch.autograd.grad(library, x, torch.ones_like(x))
    torch.testing.assert_close(left, right, rtol=1e-5, atol=5e-6)
    assert torch.isfinite(left).all()


def test_the_gradient_agrees_with_finite_differences():
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(_Gelu.apply, torch.randn(40, dtype=torch.float64, requires_grad=True))


def test_it_keeps_as_many_bytes_as_torchs_and_none_without_a_gradient():
    x, saved = torch.randn(3, 50, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.nbytes) or t, lambda t: t):
        Gelu()(x)
        Gelu()(x.detach())
    assert saved == [x.nbytes]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_no_byte(threads):
    torch.manual_seed(0)
    x = torch.randn(211, 1_024, requires_grad=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    value = Gelu()(x)
    (gradient,) = torch.autograd.grad(value, x, torch.ones_like(x))
    torch.set_num_threads(before)
    rows = [Gelu()(x[i]) for i in range(0, 211, 30)]
    assert all(torch.equal(value[i], row) for i, row in zip(range(0, 211, 30), rows, strict=True))
    assert torch.equal(gradient[7], torch.autograd.grad(Gelu()(x[7]), x, torch.ones(1_024))[0][7])


def test_a_models_gelu_is_replaced_and_bfloat16_stays_torchs(base):
    use_fast_gelu(base)
    assert [type(layer.mlp.activation_fn) for layer in base.model.layers] == [Gelu, Gelu]
    x = torch.randn(30, dtype=torch.bfloat16)
    assert torch.equal(Gelu()(x), gelu(x, approximate="tanh"))
