"""Images -> RoI records, by a Faster R-CNN."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from lxmert_dist.config.detector import DetectorConfig
from lxmert_dist.detect.faster_rcnn import FasterRcnn, Regions
from lxmert_dist.detect.pixels import network_input
from lxmert_dist.detect.rgb import check_rgb
from lxmert_dist.detect.selection import select
from lxmert_dist.errors import ConfigError, DataError
from lxmert_dist.schema import RoiRecord

NO_ATTRIBUTES = ("no attribute",)
"""The attribute classes of a detector without: every region has the one, with score 0."""


class FasterRcnnDetector:
    """Implements :class:`lxmert_dist.schema.Detector`.

    Images go through the network one by one, whatever the batch: none is padded to the size of
    another, so neither the other images nor their number change a record. What a batch could share
    is little: an image's regions are a batch already, and at the published sizes they are nine
    tenths of the multiplications.

    With the rules ``adaptive`` and ``confident`` records have between ``min_boxes`` and
    ``num_objects`` boxes.
    """

    def __init__(
        self,
        config: DetectorConfig,
        network: FasterRcnn,
        *,
        object_classes: Sequence[str],
        attribute_classes: Sequence[str],
        name: str,
        device: str = "cpu",
    ) -> None:
        """Take a network into use.

        Args:
            config: of the network, and of the selection.
            network: with its weights.
            object_classes: their names, in the order of the weights.
            attribute_classes: theirs; none if the detector has no attributes.
            name: of the weights; the selection's rule is added to it.
            device: where the network runs.

        Raises:
            ConfigError: there are more or fewer names than classes.
        """
        for kind, names, number in (
            ("object", object_classes, config.regions.object_classes),
            ("attribute", attribute_classes, config.regions.attribute_classes),
        ):
            if len(names) != number:
                raise ConfigError(
                    f"there are {len(names)} names of {kind} classes, but "
                    f"regions.{kind}_classes={number}; give the names that belong to the weights"
                )
        self.config = config
        self.num_objects = config.selection.most
        self.min_objects = config.selection.fewest
        self.feature_dim = config.feature_dim
        self.object_classes: Sequence[str] = tuple(object_classes)
        self.attribute_classes: Sequence[str] = tuple(attribute_classes) or NO_ATTRIBUTES
        self.name = f"{name}; {_rule(config)}"
        self._device = torch.device(device)
        self._network = network.to(self._device).eval()

    def detect(self, image_ids: Sequence[str], images: Sequence[np.ndarray]) -> list[RoiRecord]:
        """Describe images; see ``config.detector.SelectionConfig`` for what the fields hold.

        Args:
            image_ids: one an image.
            images: RGB, uint8 of shape (height, width, 3), each of its own size.

        Returns:
            One record an image, in order; features float32 (O, F), not negative.

        Raises:
            DataError: an image is not uint8 of shape (height, width, 3), or is empty, or has too
                few regions and ``selection.too_few`` is ``error``; names it.
        """
        return [
            self._record(image_id, image) for image_id, image in zip(image_ids, images, strict=True)
        ]

    @torch.inference_mode()
    def _record(self, image_id: str, image: np.ndarray) -> RoiRecord:
        check_rgb(image_id, image)
        regions, boxes = self._chosen(image_id, image)
        object_scores, object_ids = regions.object_logits.softmax(dim=1)[:, :-1].max(dim=1)
        attribute_scores, attribute_ids = self._attributes(regions)
        return RoiRecord(
            image_id=image_id,
            height=image.shape[0],
            width=image.shape[1],
            boxes=boxes,
            roi_features=regions.features.cpu().numpy(),
            object_ids=object_ids.cpu().numpy(),
            object_scores=object_scores.cpu().numpy(),
            attribute_ids=attribute_ids.cpu().numpy(),
            attribute_scores=attribute_scores.cpu().numpy(),
        )

    def _chosen(
        self, image_id: str, image: UInt8[np.ndarray, "_ _ 3"]
    ) -> tuple[Regions, Float32[np.ndarray, "O 4"]]:
        """The regions that are kept, and their boxes over the image's size."""
        pixels = network_input(image, self.config.input, self._device)
        height, width = pixels.shape[-2:]
        whole = pixels.new_tensor([[width, height, width, height]])
        original = pixels.new_tensor([*image.shape[1::-1], *image.shape[1::-1]])
        feature_map, regions = self._network(pixels)
        chosen = select(regions, self.config.selection, original / whole[0])
        kept, boxes = regions.rows(chosen.rows), chosen.boxes
        missing = self.config.selection.fewest - len(boxes)
        if missing > 0:
            self._require_whole_image(image_id, len(boxes))
            image_box = whole * whole.new_tensor([0, 0, 1, 1])
            more = self._network.regions(feature_map, image_box, height, width)
            again = torch.zeros(missing, dtype=torch.int64, device=self._device)
            kept, boxes = kept.followed_by(more.rows(again)), torch.cat([boxes, image_box[again]])
        normalised: Float[Tensor, "O 4"] = (boxes / whole).clamp(0, 1)
        return kept, normalised.cpu().numpy()

    def _require_whole_image(self, image_id: str, found: int) -> None:
        selection = self.config.selection
        if selection.too_few == "error":
            raise DataError(
                f"image {image_id}: only {found} of the {selection.fewest} regions that "
                f"selection.rule={selection.rule} must keep; set "
                "selection.too_few=whole_image to fill up with the whole image"
            )

    def _attributes(self, regions: Regions) -> tuple[Tensor, Tensor]:
        logits = regions.attribute_logits
        if logits is None:
            ids = torch.zeros(len(regions.boxes), dtype=torch.int64, device=self._device)
            return ids.float(), ids
        if self.config.selection.attribute_background:
            probabilities = logits.softmax(dim=1)[:, :-1]
        else:
            probabilities = logits[:, :-1].softmax(dim=1)
        return probabilities.amax(dim=1), probabilities.argmax(dim=1)


def _rule(config: DetectorConfig) -> str:
    """What a store remembers of the selection."""
    selection, sides = config.selection, config.input
    number = (
        f"{selection.fewest}"
        if selection.fewest == selection.most
        else f"{selection.fewest} to {selection.most}"
    )
    return f"{sides.short_side}/{sides.long_side} px, {number} boxes by {selection.rule}"
