"""Matrix products of rows: as ``nn.Linear``, but quick on CPUs in float32 too.

Shapes: N rows, I inputs, H outputs.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def product(
    rows: Float[Tensor, "N I"], weight: Float[Tensor, "H I"], bias: Float[Tensor, " H"] | None
) -> Float[Tensor, "N H"]:
    """Rows W^T + b, without a gradient of its own.

    On CPUs torch gives float32 to MKL, which uses half of what AVX-512 can do on processors that
    are not Intel's; oneDNN, which torch has for bfloat16 anyway, is twice as fast there.
    """
    quick = rows.device.type == "cpu" and rows.dtype == torch.float32 and rows.numel() > 0
    if _ONEDNN and quick and not torch.compiler.is_compiling():  # inductor has no such product
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return result
    return functional.linear(rows, weight, bias)


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return product(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        rows, weight = ctx.saved_tensors
        of_rows = product(gradient, weight.t(), None) if ctx.needs_input_grad[0] else None
        return of_rows, product(gradient.t(), rows.t(), None), gradient.sum(0)


class _ActivatedLinear(Function):
    """Keeps x for the backward pass, and not GELU(x), which is as large."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return product(functional.gelu(rows), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, weight = ctx.saved_tensors
        of_weight = product(gradient.t(), functional.gelu(rows).t(), None)
        of_activated = product(gradient, weight.t(), None)
        return torch.ops.aten.gelu_backward(of_activated, rows), of_weight, gradient.sum(0)


def linear(
    rows: Float[Tensor, "N I"], weight: Float[Tensor, "H I"], bias: Float[Tensor, " H"]
) -> Float[Tensor, "N H"]:
    """Rows W^T + b."""
    if rows.device.type != "cpu" or torch.compiler.is_compiling():
        return functional.linear(rows, weight, bias)
    result: Tensor = _Linear.apply(rows, weight, bias)
    return result


class Linear(nn.Linear):
    """A projection."""

    def forward(self, input: Float[Tensor, "N I"]) -> Float[Tensor, "N H"]:
        """Project row by row."""
        return linear(input, self.weight, self.bias)


class ActivatedLinear(nn.Linear):
    """A projection of the exact GELU of its input."""

    def forward(self, input: Float[Tensor, "N I"]) -> Float[Tensor, "N H"]:
        """Activate, then project, row by row."""
        if torch.compiler.is_compiling():  # it decides itself what to compute again
            return functional.linear(functional.gelu(input), self.weight, self.bias)
        result: Tensor = _ActivatedLinear.apply(input, self.weight, self.bias)
        return result
