"""Which regions of an image are kept, and what is said of them.

``config.detector.SelectionConfig`` says what each rule is for.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torchvision.ops import box_iou, nms

from lxmert_dist.config.detector import SelectionConfig
from lxmert_dist.detect.faster_rcnn import Regions


@dataclass(frozen=True)
class Selection:
    """N of an image's R regions, in order of rank; boxes in pixels of the resized image."""

    rows: Int64[Tensor, " N"]
    """Which regions."""
    boxes: Float[Tensor, "N 4"]


def select(regions: Regions, config: SelectionConfig, scale: Float[Tensor, " 4"]) -> Selection:
    """Choose.

    Args:
        regions: of one image.
        config: the rule.
        scale: pixels of the image as it was, over pixels of the resized one, for each coordinate
            of a box.

    Returns:
        At most ``config.most`` regions; fewer than ``config.fewest`` where there are no more.
    """
    probabilities = regions.object_logits.softmax(dim=1)[:, :-1]
    if config.rule in ("regressed", "confident"):
        choose = _spread_out if config.rule == "regressed" else _surely_something
        rows = choose(regions.corrected_boxes, probabilities.amax(dim=1), config)
        return Selection(rows, regions.corrected_boxes[rows])
    rows = _most_confident(regions.boxes * scale, probabilities, config)
    return Selection(rows, regions.boxes[rows])


def _spread_out(
    boxes: Float[Tensor, "R 4"], likeliest: Float[Tensor, " R"], config: SelectionConfig
) -> Int64[Tensor, " N"]:
    """The rule ``regressed``: let boxes overlap more and more, until there are enough."""
    rows = torch.zeros(0, dtype=torch.int64, device=boxes.device)
    for threshold in config.image_nms_thresholds:
        rows = nms(boxes, likeliest, threshold)[: config.boxes]
        if len(rows) == config.boxes:
            break
    return rows


def _surely_something(
    boxes: Float[Tensor, "R 4"], likeliest: Float[Tensor, " R"], config: SelectionConfig
) -> Int64[Tensor, " N"]:
    """The rule ``confident``: as many as are likely enough to be something."""
    rows: Tensor = nms(boxes, likeliest, config.image_nms_thresholds[0])  # the likeliest first
    number = int((likeliest[rows] >= config.score_threshold).sum())
    return rows[: min(max(number, config.fewest), config.most)]


def _most_confident(
    boxes: Float[Tensor, "R 4"], probabilities: Float[Tensor, "R C"], config: SelectionConfig
) -> Int64[Tensor, " N"]:
    """The rules ``caffe36`` and ``adaptive``; boxes in pixels of the image as it was."""
    left = class_survivors(boxes, probabilities, config.class_nms_threshold)
    confidence = torch.where(left, probabilities, 0.0).amax(dim=1)
    rows = (confidence >= config.score_threshold).nonzero().flatten()
    if config.fewest <= len(rows) <= config.most:
        return rows  # in the order of the proposals, as the script leaves them
    number = config.fewest if len(rows) < config.fewest else config.most
    return confidence.argsort(descending=True, stable=True)[:number]


def class_survivors(
    boxes: Float[Tensor, "R 4"], scores: Float[Tensor, "R C"], threshold: float
) -> Bool[Tensor, "R C"]:
    """Non-maximum suppression of the same boxes for each class on its own.

    As Caffe's, it counts the pixels of a side from the first to the last, both included.

    Args:
        boxes: in pixels.
        scores: by which the boxes of a class are ranked.
        threshold: overlap (IoU) with a better box that is left, above which a box goes.

    Returns:
        True where a box is left in a class.
    """
    inclusive = boxes + boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    overlaps = box_iou(inclusive, inclusive) > threshold
    overlaps.fill_diagonal_(False)
    order = scores.argsort(dim=0, descending=True, stable=True)  # (R, C)
    gone = torch.zeros(scores.shape[::-1], dtype=torch.bool, device=scores.device)  # (C, R)
    classes = torch.arange(scores.shape[1], device=scores.device)
    for best in order:  # of every class, the box of the next rank
        left = ~gone[classes, best]
        # None before it that is left overlaps it, so this takes from those behind it alone.
        gone |= overlaps[best] & left[:, None]
    return ~gone.T
