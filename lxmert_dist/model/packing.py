"""Between packed word pieces (W, ...) and the grid of padded sentences (B * T, ...).

Each of the two moves is the other's gradient. Written out, both are plain copies of rows; left to
autograd, one of them would be a sum over indices, which is slow and on GPUs not deterministic.
"""

from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class _Pad(Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor, slots: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(slots)
        return packed.new_zeros(rows, *packed.shape[1:]).index_copy_(0, slots, packed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slots,) = ctx.saved_tensors
        return gradient.index_select(0, slots), None, None


class _Unpad(Function):
    @staticmethod
    def forward(ctx: Any, grid: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.rows = len(grid)
        return grid.index_select(0, slots)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slots,) = ctx.saved_tensors
        grid = gradient.new_zeros(ctx.rows, *gradient.shape[1:])
        return grid.index_copy_(0, slots, gradient), None


def pad(packed: Float[Tensor, "W H"], slots: Int64[Tensor, " W"], rows: int) -> Tensor:
    """A grid (rows, H) with each packed row at its slot, and zeros elsewhere.

    ``slots`` are distinct and in [0, rows).
    """
    result: Tensor = _Pad.apply(packed, slots, rows)
    return result


def unpad(grid: Float[Tensor, "G H"], slots: Int64[Tensor, " W"]) -> Float[Tensor, "W H"]:
    """The rows of a grid that hold word pieces; ``slots`` are distinct."""
    result: Tensor = _Unpad.apply(grid, slots)
    return result
