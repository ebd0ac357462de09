"""Products of rows against float64, their gradients against ``nn.Linear``."""

import pytest
import torch
from torch.nn import functional

from lxmert_dist.model.linear import ActivatedLinear, Linear, product


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(7, 5, 3), (64, 768, 96), (1, 3, 1)])
def test_product_against_float64(rows: int, inputs: int, outputs: int) -> None:
    """Also of transposed views. Worst measured: 3e-7 of the largest value."""
    draw = torch.Generator().manual_seed(1)
    left = torch.randn(rows, inputs, generator=draw)
    right = torch.randn(outputs, inputs, generator=draw)
    bias = torch.randn(outputs, generator=draw)
    expected = (left.double() @ right.double().t() + bias.double()).float()
    scale = float(expected.abs().max())
    for a, b in ((left, right), (left.t().contiguous().t(), right.t().contiguous().t())):
        torch.testing.assert_close(product(a, b, bias), expected, rtol=0, atol=2e-6 * scale)
    bare = (left.double() @ right.double().t()).float()
    torch.testing.assert_close(product(left, right, None), bare, rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize("rows", [6, 0])
def test_gradients(dtype: torch.dtype, activated: bool, rows: int) -> None:
    """Worst measured: fp32 2e-7, bf16 1e-2 of the largest value."""
    torch.manual_seed(0)
    ours = (ActivatedLinear if activated else Linear)(9, 4).to(dtype)
    weight, bias = (p.detach().clone().requires_grad_() for p in (ours.weight, ours.bias))
    mine = torch.randn(rows, 9, dtype=dtype, requires_grad=True)
    theirs = mine.detach().clone().requires_grad_()
    out = ours(mine)
    expected = functional.linear(functional.gelu(theirs) if activated else theirs, weight, bias)
    out.square().sum().backward()
    expected.square().sum().backward()
    tolerance = {torch.float32: 2e-6, torch.bfloat16: 3e-2, torch.float64: 1e-13}[dtype]
    pairs = (
        (out, expected),
        (mine.grad, theirs.grad),
        (ours.weight.grad, weight.grad),
        (ours.bias.grad, bias.grad),
    )
    for a, b in pairs:
        assert a.dtype == dtype
        scale = float(b.detach().abs().max()) if b.numel() else 1.0
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * max(scale, 1e-9))


def test_inputs_without_gradient_get_none() -> None:
    layer, rows = Linear(3, 2), torch.randn(4, 3)
    layer(rows).sum().backward()
    assert rows.grad is None
    assert layer.weight.grad is not None
