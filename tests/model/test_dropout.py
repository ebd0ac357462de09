"""Dropout: its rate, its scale, its seed, its gradient."""

import math

import pytest
import torch

from lxmert_dist.model.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rate_and_scale(p: float, dtype: torch.dtype) -> None:
    """The rate within 6 sigma over 10^6 elements; what is left is scaled to keep the mean."""
    torch.manual_seed(0)
    size = 1_000_003
    out = Dropout(p)(torch.ones(size, dtype=dtype))
    kept = out != 0
    rate = round(p * 2**16) / 2**16
    sigma = math.sqrt(rate * (1 - rate) / size)
    assert abs(float((~kept).float().mean()) - rate) < 6 * sigma
    assert out[kept].float() == pytest.approx(
        1 / (1 - rate), rel=1e-2 if dtype != torch.float32 else 1e-6
    )


def test_neighbours_are_independent() -> None:
    """Four elements share a draw of 64 bits: each pair of them agrees as often as chance allows."""
    torch.manual_seed(0)
    quads = Dropout(0.5)(torch.ones(4 * 250_000)).view(-1, 4) != 0
    sigma = 0.5 / math.sqrt(len(quads))
    for i in range(4):
        assert abs(float(quads[:, i].float().mean()) - 0.5) < 6 * sigma
        for j in range(i):
            agree = (quads[:, i] == quads[:, j]).float().mean()
            assert abs(float(agree) - 0.5) < 6 * sigma


def test_seed_decides() -> None:
    drop, rows = Dropout(0.3), torch.ones(9, 7)
    torch.manual_seed(4)
    first, second = drop(rows), drop(rows)
    torch.manual_seed(4)
    assert torch.equal(drop(rows), first)
    assert not torch.equal(first, second)


def test_gradient_is_the_mask() -> None:
    rows = torch.randn(50, 7, requires_grad=True)
    out = Dropout(0.3)(rows)
    out.sum().backward()
    torch.testing.assert_close(rows.grad * rows.detach(), out.detach())


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_all_or_nothing(p: float) -> None:
    rows = torch.randn(5, 3)
    assert torch.equal(Dropout(p)(rows), rows * (1 - p))
    assert torch.equal(Dropout(p).eval()(rows), rows)
