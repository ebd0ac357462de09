"""Regions that stand out from an image's background, found in the pixels alone."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from scipy import ndimage

_MIN_CONTRAST = 12.0
"""Smallest colour distance (of at most 441.7) that can be salient: a flat image has no region."""
_EIGHT_NEIGHBOURS = np.ones((3, 3), np.int8)


@dataclass(frozen=True)
class SalientRegions:
    """What stands out in one image.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels, exclusive at the right and bottom, so within
            [0, width] and [0, height]; most salient first; R may be 0.
        mask: True at the salient pixels of any region.
    """

    boxes: Float32[np.ndarray, "R 4"]
    mask: Bool[np.ndarray, "height width"]


def find_salient(image: UInt8[np.ndarray, "height width 3"]) -> SalientRegions:
    """Connected regions whose colour differs from the background, most salient first.

    The background is the median colour of the border pixels; a pixel is salient where its
    Euclidean RGB distance to it is above Otsu's threshold; regions are 8-connected and ranked by
    the sum of their distances, so a large faint region and a small bright one can compete.

    Args:
        image: RGB, values 0..255.

    Returns:
        All regions; none if nothing differs visibly from the background.
    """
    distance = _distance_to_background(image)
    mask = distance > max(otsu_threshold(distance), _MIN_CONTRAST)
    labels, count = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    if count == 0:
        return SalientRegions(np.zeros((0, 4), np.float32), mask)
    saliency = ndimage.sum_labels(distance, labels, np.arange(1, count + 1))
    slices = ndimage.find_objects(labels)
    boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in slices], np.float32)
    return SalientRegions(boxes[np.argsort(-saliency, kind="stable")], mask)


def otsu_threshold(values: Float32[np.ndarray, "..."]) -> float:
    """The threshold that best splits non-negative values in two classes (Otsu, 1979).

    Args:
        values: any shape, >= 0.

    Returns:
        The upper edge of the last of 256 bins of the lower class.
    """
    top = float(values.max())
    if top == 0.0:
        return 0.0
    counts, edges = np.histogram(values, bins=256, range=(0.0, top))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sum_below = np.cumsum(counts * centres)
    # Between-class variance of a cut after each bin but the last; an empty class has none.
    mean_gap = sum_below[:-1] / np.maximum(below[:-1], 1) - (
        sum_below[-1] - sum_below[:-1]
    ) / np.maximum(above[:-1], 1)
    variance = below[:-1].astype(np.float64) * above[:-1] * mean_gap**2
    return float(edges[int(np.argmax(variance)) + 1])


def select_boxes(
    regions: Float32[np.ndarray, "R 4"], num_boxes: int, height: int, width: int
) -> Float32[np.ndarray, "{num_boxes} 4"]:
    """The boxes that describe an image: always exactly ``num_boxes``.

    Box 0 is the whole image, then come the most salient regions. If there are too few, the
    most salient one (the image, if none) is cut into quadrants in reading order, these again
    into quadrants, and so on, breadth first.

    Args:
        regions: boxes in pixels, most salient first.
        num_boxes: >= 1.
        height: of the image in pixels.
        width: of the image in pixels.

    Returns:
        x1, y1, x2, y2 in pixels.
    """
    whole = np.array([[0, 0, width, height]], np.float32)
    boxes = list(np.concatenate([whole, regions])[:num_boxes])
    parts = _quadrants(boxes[min(1, len(boxes) - 1)])
    boxes.extend(next(parts) for _ in range(num_boxes - len(boxes)))
    return np.stack(boxes)


def _distance_to_background(
    image: UInt8[np.ndarray, "height width 3"],
) -> Float32[np.ndarray, "height width"]:
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    background = np.median(border, axis=0).astype(np.float32)  # (3,)
    distance: Float32[np.ndarray, "height width"] = np.linalg.norm(
        image.astype(np.float32) - background, axis=-1
    )
    return distance


def _quadrants(
    box: Float32[np.ndarray, " 4"],
) -> Iterator[Float32[np.ndarray, " 4"]]:
    queue = deque([box])
    while True:
        x1, y1, x2, y2 = queue.popleft()
        middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
        for top, bottom in ((y1, middle_y), (middle_y, y2)):
            for left, right in ((x1, middle_x), (middle_x, x2)):
                part = np.array([left, top, right, bottom], np.float32)
                queue.append(part)
                yield part
