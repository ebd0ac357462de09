"""Mean average precision at one overlap, by all points (PASCAL VOC 2010 and later)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64


@dataclass(frozen=True)
class Found:
    """What a detector found in one image: x1, y1, x2, y2 in pixels, the class, how sure it is."""

    boxes: Float32[np.ndarray, "N 4"]
    classes: Int64[np.ndarray, " N"]
    scores: Float32[np.ndarray, " N"]


@dataclass(frozen=True)
class There:
    """What is in one image."""

    boxes: Float32[np.ndarray, "M 4"]
    classes: Int64[np.ndarray, " M"]


def mean_average_precision(
    found: Sequence[Found], there: Sequence[There], *, overlap: float = 0.5
) -> tuple[float, dict[int, float]]:
    """Score detections.

    Of each class, detections of all images are taken by descending score (equal ones in order). One
    is right if the thing of its class that it overlaps most, in its image, does so by at least
    ``overlap`` (IoU) and was not found before. Average precision is the area under precision over
    recall, precision made falling from the right.

    Args:
        found: of each image.
        there: the same.
        overlap: in (0, 1].

    Returns:
        The mean over the classes that are there (NaN where none is), and each one's.
    """
    classes = sorted({int(c) for truth in there for c in truth.classes})
    each = {c: _average_precision(found, there, c, overlap) for c in classes}
    return (float(np.mean(list(each.values()))) if each else float("nan")), each


def _average_precision(
    found: Sequence[Found], there: Sequence[There], wanted: int, overlap: float
) -> float:
    total, scores, right = 0, [], []
    for one, truth in zip(found, there, strict=True):
        things = truth.boxes[truth.classes == wanted]
        mine = one.classes == wanted
        total += len(things)
        order = np.argsort(-one.scores[mine], kind="stable")
        scores.append(one.scores[mine][order])
        right.append(_hits(one.boxes[mine][order], things, overlap))
    # Within an image the order is kept, so that hits of images can be decided one by one.
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hits = np.concatenate(right)[order].cumsum()
    precision = hits / np.arange(1, len(hits) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    gained = np.diff(hits, prepend=0)  # 1 where a thing was found
    return float((falling * gained).sum() / total)


def _hits(
    boxes: Float32[np.ndarray, "N 4"], things: Float32[np.ndarray, "M 4"], overlap: float
) -> Bool[np.ndarray, " N"]:
    """Which boxes, the surest first, find a thing that was not found before."""
    right = np.zeros(len(boxes), bool)
    if not len(things):
        return right
    overlaps = _iou(boxes, things)
    free = np.ones(len(things), bool)
    for place, row in enumerate(overlaps):
        best = row.argmax()
        right[place] = row[best] >= overlap and free[best]
        free[best] &= ~right[place]
    return right


def _iou(
    a: Float32[np.ndarray, "N 4"], b: Float32[np.ndarray, "M 4"]
) -> Float32[np.ndarray, "N M"]:
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    both = sides.clip(min=0).prod(axis=2)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(axis=1) for x in (a, b))
    union = area_a[:, None] + area_b[None] - both
    overlaps: Float32[np.ndarray, "N M"] = both / np.maximum(union, np.finfo(np.float32).tiny)
    return overlaps
