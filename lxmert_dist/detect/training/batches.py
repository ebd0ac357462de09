"""Labelled images as a batch of the network's inputs."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lxmert_dist.config.detector import DetectorInputConfig
from lxmert_dist.detect.pixels import network_input
from lxmert_dist.detect.training.losses import Things
from lxmert_dist.errors import DataError
from lxmert_dist.opening import open_image
from lxmert_dist.schema import LabelledImage


def check_images(images: Sequence[LabelledImage]) -> None:
    """Open every image, before hours go into training.

    Raises:
        DataError: there are none; or an image cannot be opened, or a box of it is empty or reaches
            out of it; names it.
    """
    if not images:
        raise DataError("there is no image to learn from, or to validate on; check --data")
    for image in images:
        height, width = open_image(image.source, image.image_id).shape[:2]
        low, high = image.boxes[:, :2], image.boxes[:, 2:]
        if (low < 0).any() or (low >= high).any() or (high > [width, height]).any():
            raise DataError(
                f"{image.image_id}: a box is empty or not within {width}x{height} pixels; "
                "correct or leave out the image"
            )


def load_example(
    image: LabelledImage, config: DetectorInputConfig, *, flipped: bool = False
) -> tuple[Float[Tensor, "1 3 H W"], Things]:
    """One image, resized and normalised, mirrored if ``flipped``, and what is in it."""
    pixels = open_image(image.source, image.image_id)
    original = pixels.shape[1::-1]  # width, height
    boxes = image.boxes
    if flipped:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
        boxes = boxes.copy()
        boxes[:, [0, 2]] = original[0] - boxes[:, [2, 0]]
    network_pixels = network_input(pixels, config)
    height, width = network_pixels.shape[-2:]
    scale = np.tile(np.array([width, height], np.float32) / np.array(original, np.float32), 2)
    things = Things(
        boxes=torch.from_numpy(boxes * scale),
        object_ids=torch.from_numpy(image.object_ids),
        attribute_ids=torch.from_numpy(image.attribute_ids),
        height=height,
        width=width,
    )
    return network_pixels, things


def stack_padded(pixels: Sequence[Float[Tensor, "1 3 _ _"]]) -> Float[Tensor, "B 3 H W"]:
    """Images of any sizes in one tensor; 0, which is the mean, at the right and at the bottom."""
    height, width = (max(image.shape[side] for image in pixels) for side in (-2, -1))
    return torch.cat(
        [
            functional.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]))
            for image in pixels
        ]
    )
