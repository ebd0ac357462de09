"""Faster R-CNN with the head of bottom-up attention: regions, their features, what they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align, roi_pool

from lxmert_dist.config.detector import DetectorConfig
from lxmert_dist.detect.box_coding import clipped, corrected
from lxmert_dist.detect.proposals import ProposalNetwork
from lxmert_dist.detect.resnet import STRIDE, ImageNet, region_stage


@dataclass(frozen=True)
class Regions:
    """What the network says of R boxes of one image; C1 and A1 count classes and the background.

    Boxes are x1, y1, x2, y2 in pixels of the resized image. The last logit is the background's.
    """

    boxes: Float[Tensor, "R 4"]
    features: Float[Tensor, "R F"]
    object_logits: Float[Tensor, "R C1"]
    attribute_logits: Float[Tensor, "R A1"] | None
    corrected_boxes: Float[Tensor, "R 4"]
    """Of the likeliest class that is not the background, clipped to the image."""

    def rows(self, which: Int64[Tensor, " N"]) -> "Regions":
        """Some of the regions, in this order."""
        attributes = self.attribute_logits
        return Regions(
            boxes=self.boxes[which],
            features=self.features[which],
            object_logits=self.object_logits[which],
            attribute_logits=None if attributes is None else attributes[which],
            corrected_boxes=self.corrected_boxes[which],
        )

    def followed_by(self, more: "Regions") -> "Regions":
        """These, and then other regions from the same network."""
        ours, theirs = self.attribute_logits, more.attribute_logits
        return Regions(
            boxes=torch.cat([self.boxes, more.boxes]),
            features=torch.cat([self.features, more.features]),
            object_logits=torch.cat([self.object_logits, more.object_logits]),
            attribute_logits=None if ours is None or theirs is None else torch.cat([ours, theirs]),
            corrected_boxes=torch.cat([self.corrected_boxes, more.corrected_boxes]),
        )


class RegionHead(nn.Module):
    """Pools regions from the map, and describes them."""

    def __init__(self, config: DetectorConfig) -> None:
        """Build it with random weights."""
        super().__init__()
        regions, width = config.regions, config.feature_dim
        classes = regions.object_classes
        self.layer4 = region_stage(config.resnet, regions)
        self.object_score = nn.Linear(width, classes + 1)
        boxes = 1 if regions.class_agnostic_boxes else classes
        self.corrections = nn.Linear(width, 4 * boxes)
        if regions.attribute_classes:
            self.class_embedding = nn.Embedding(classes + 1, width // 8)
            self.attribute_hidden = nn.Linear(width + width // 8, width // 4)
            self.attribute_score = nn.Linear(width // 4, regions.attribute_classes + 1)
        self._config = regions

    def forward(
        self,
        feature_map: Float[Tensor, "1 C h w"],
        boxes: Float[Tensor, "R 4"],
        height: int,
        width: int,
    ) -> Regions:
        """Describe boxes of one image.

        Args:
            feature_map: of the image.
            boxes: in pixels of the resized image.
            height: of the resized image.
            width: the same.
        """
        features = self.features(feature_map, [boxes])
        objects = self.object_score(features)
        moves = self.corrections(features)  # (R, 4) or, for each class, (R, 4 C)
        if not self._config.class_agnostic_boxes:
            likeliest = objects[:, :-1].argmax(dim=1, keepdim=True)
            moves = moves.gather(1, 4 * likeliest + torch.arange(4, device=boxes.device))
        moved = corrected(boxes, moves, self._config.box_weights)
        return Regions(
            boxes=boxes,
            features=features,
            object_logits=objects,
            attribute_logits=self.attributes(features, objects.argmax(dim=1)),
            corrected_boxes=clipped(moved, height, width),
        )

    def features(
        self, feature_map: Float[Tensor, "B C h w"], boxes: Sequence[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "R F"]:
        """Features of the boxes of B images, image after image; boxes in pixels."""
        grid, scale = self._config.pool_size, 1 / STRIDE
        if self._config.pooling == "max":
            pooled = roi_pool(feature_map, list(boxes), grid, scale)
        else:
            pooled = roi_align(feature_map, list(boxes), grid, scale, aligned=True)
        features: Float[Tensor, "R F"] = self.layer4(pooled).mean(dim=(2, 3))
        return features

    def attributes(
        self, features: Float[Tensor, "R F"], object_ids: Int64[Tensor, " R"]
    ) -> Float[Tensor, "R A1"] | None:
        """Attributes of regions that are taken for ``object_ids``, or for the background."""
        if not self._config.attribute_classes:
            return None
        taken_for = self.class_embedding(object_ids)
        hidden = functional.relu(self.attribute_hidden(torch.cat([features, taken_for], dim=1)))
        logits: Float[Tensor, "R A1"] = self.attribute_score(hidden)
        return logits


class FasterRcnn(nn.Module):
    """The network for one image: its map, proposals on it, and what they are."""

    def __init__(self, config: DetectorConfig) -> None:
        """Build it with random weights, in evaluation mode."""
        super().__init__()
        self.config = config
        self.image_net = ImageNet(config.resnet)
        self.proposals = ProposalNetwork(config.proposals, 16 * config.resnet.width)
        self.regions = RegionHead(config)
        self.eval()

    def forward(self, pixels: Float[Tensor, "1 3 H W"]) -> tuple[Float[Tensor, "1 C h w"], Regions]:
        """The image's map, and all its proposals described, the likeliest place first.

        Args:
            pixels: one resized image, see ``detect.pixels``.
        """
        height, width = pixels.shape[-2:]
        feature_map = self.image_net(pixels)
        boxes = self.proposals(feature_map, height, width)
        return feature_map, self.regions(feature_map, boxes, height, width)
