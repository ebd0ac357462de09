"""Boxes from a network's corrections of boxes (Girshick et al., 2014, appendix C)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder


def corrected(
    boxes: Float[Tensor, "R 4"],
    corrections: Float[Tensor, "R 4"],
    weights: Sequence[float],
) -> Float[Tensor, "R 4"]:
    """Move and stretch boxes.

    Args:
        boxes: x1, y1, x2, y2 in any unit.
        corrections: of x and y as shares of a box's width and height, of these as logarithms.
        weights: what the corrections are divided by. A side grows by at most 1000/16.

    Returns:
        Boxes in the same unit, which may reach out of the image.
    """
    if not len(boxes):
        return boxes
    moved: Float[Tensor, "R 4"] = BoxCoder(tuple(weights)).decode_single(corrections, boxes)
    return moved


def clipped(boxes: Float[Tensor, "R 4"], height: int, width: int) -> Float[Tensor, "R 4"]:
    """Boxes without what is outside of [0, width] and [0, height]."""
    edge = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
    return torch.minimum(boxes.clamp(min=0), edge)
