"""A detector that needs no box annotations: salient regions described by an ImageNet network."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.nn import functional
from torchvision.models import EfficientNet_B0_Weights
from torchvision.ops import roi_align

from lxmert_dist.detect.backbone import LEVELS, STRIDE, EfficientNetLite0
from lxmert_dist.detect.colours import COLOUR_NAMES, nearest_colours
from lxmert_dist.detect.rgb import check_rgb
from lxmert_dist.detect.salient import SalientRegions, find_salient, select_boxes
from lxmert_dist.errors import ConfigError
from lxmert_dist.schema import RoiRecord

_FEATURE_SCALE = 1 / 6
"""Brings the maps of ``LEVELS`` (root mean square 6.3 to 6.5 on easy-VQA) to about unit scale."""


class SalientDetector:
    """Implements :class:`lxmert_dist.schema.Detector`.

    Boxes: the whole image, then its salient regions (see :func:`select_boxes`). Features: the
    mid-level maps of EfficientNet-Lite0 (``LEVELS``), averaged over the box by RoIAlign and
    concatenated. Object label: the top ImageNet class of the box's averaged head features.
    Attribute: the basic colour nearest to the median of the box's salient pixels (of all its
    pixels for the whole image, or where none is salient).

    Every image is resized to a square and described on its own, so a result depends neither on
    the other images of the batch nor, beyond float32 rounding, on their number.
    """

    def __init__(self, num_objects: int = 4, input_size: int = 128, device: str = "cpu") -> None:
        """Load the network.

        Args:
            num_objects: boxes of every image, >= 1.
            input_size: side in pixels that images are resized to, a multiple of 32.
            device: of the network.

        Raises:
            ConfigError: a size is out of range.
            DataError: the network's weights cannot be read.
        """
        if num_objects < 1:
            raise ConfigError(f"num_objects={num_objects} must be at least 1")
        if input_size < STRIDE or input_size % STRIDE:
            raise ConfigError(f"input_size={input_size} must be a multiple of {STRIDE}")
        self.num_objects = self.min_objects = num_objects
        self.feature_dim = sum(LEVELS.values())
        self.object_classes: Sequence[str] = EfficientNet_B0_Weights.IMAGENET1K_V1.meta[
            "categories"
        ]
        self.attribute_classes: Sequence[str] = COLOUR_NAMES
        self.name = (
            f"EfficientNet-Lite0 (ImageNet) at {input_size} px, RoIAlign means of blocks "
            f"{'+'.join(map(str, LEVELS))} / 6; whole image + salient regions + quadrants"
        )
        self._input_size = input_size
        self._device = torch.device(device)
        self._backbone = EfficientNetLite0().to(self._device)

    def detect(self, image_ids: Sequence[str], images: Sequence[np.ndarray]) -> list[RoiRecord]:
        """Describe a batch of images; see the class for what the fields hold.

        Args:
            image_ids: one a picture.
            images: RGB, uint8 of shape (height, width, 3), each of its own size.

        Returns:
            One record an image, in order; features float32 (O, F), about unit scale.

        Raises:
            DataError: an image is not uint8 of shape (height, width, 3), or is empty.
        """
        for image_id, image in zip(image_ids, images, strict=True):
            check_rgb(image_id, image)
        if not images:
            return []
        regions = [find_salient(image) for image in images]
        pixel_boxes = [
            select_boxes(found.boxes, self.num_objects, *image.shape[:2])
            for found, image in zip(regions, images, strict=True)
        ]
        boxes = np.stack(
            [
                box / np.tile(np.array(image.shape[1::-1], np.float32), 2)
                for box, image in zip(pixel_boxes, images, strict=True)
            ]
        )  # (B, O, 4) in [0, 1]
        features, probabilities = self._describe(images, boxes)
        object_scores, object_ids = probabilities.max(dim=-1)  # (B, O)
        records = []
        for i, (image_id, image) in enumerate(zip(image_ids, images, strict=True)):
            attribute_ids, attribute_scores = nearest_colours(
                _region_colours(image, regions[i], pixel_boxes[i])
            )
            records.append(
                RoiRecord(
                    image_id=image_id,
                    height=image.shape[0],
                    width=image.shape[1],
                    boxes=boxes[i],
                    roi_features=features[i].numpy(),
                    object_ids=object_ids[i].numpy(),
                    object_scores=object_scores[i].numpy(),
                    attribute_ids=attribute_ids,
                    attribute_scores=attribute_scores,
                )
            )
        return records

    @torch.inference_mode()
    def _describe(
        self,
        images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
        boxes: Float32[np.ndarray, "B O 4"],
    ) -> tuple[Float[Tensor, "B O F"], Float[Tensor, "B O 1000"]]:
        """Features and class probabilities of every box, on the CPU."""
        squares = torch.stack([self._to_square(image) for image in images]).to(self._device)
        rois = [torch.from_numpy(b * np.float32(self._input_size)).to(self._device) for b in boxes]
        pooled = []  # (B*O, channels) for each map
        for feature_map in self._backbone(squares):
            # The bins' sample count adapts to the box (-1), so that all of it is averaged.
            scale = feature_map.shape[-1] / self._input_size
            aligned = roi_align(feature_map.contiguous(), rois, 1, scale, -1, aligned=True)
            pooled.append(aligned.flatten(1))
        *levels, head = pooled
        features = torch.cat(levels, dim=-1) * _FEATURE_SCALE
        probabilities = self._backbone.classify(head).softmax(dim=-1)
        shape = (len(images), self.num_objects, -1)
        return features.view(shape).cpu(), probabilities.view(shape).cpu()

    def _to_square(self, image: UInt8[np.ndarray, "height width 3"]) -> Float[Tensor, "3 S S"]:
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
        size = (self._input_size, self._input_size)
        resized = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
        return resized[0]


def _region_colours(
    image: UInt8[np.ndarray, "height width 3"],
    regions: SalientRegions,
    boxes: Float32[np.ndarray, "O 4"],
) -> Float32[np.ndarray, "O 3"]:
    """The median colour of each box; the first box is the whole image."""
    colours = []
    for index, box in enumerate(boxes):
        left, top = np.floor(box[:2]).astype(int)
        right, bottom = np.ceil(box[2:]).astype(int)
        pixels = image[top:bottom, left:right]
        salient = pixels[regions.mask[top:bottom, left:right]]  # (P, 3)
        chosen = salient if index and len(salient) else pixels.reshape(-1, 3)
        colours.append(np.median(chosen, axis=0))
    return np.stack(colours).astype(np.float32)
