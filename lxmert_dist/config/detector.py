"""The settings of a Faster R-CNN detector.

The defaults are the detector whose features LXMERT was trained on: bottom-up attention's ResNet-101
(Anderson et al., CVPR 2018), as the Caffe script runs it.
"""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from lxmert_dist.config.sections import Count, Fraction, NonNegative, Positive, Section, Share

Triple = Annotated[tuple[float, float, float], Strict(False)]  # an array of TOML is a list
Weights = Annotated[tuple[Positive, Positive, Positive, Positive], Strict(False)]
Blocks = Annotated[tuple[Count, Count, Count, Count], Strict(False)]
Numbers = Annotated[tuple[Positive, ...], Strict(False), Field(min_length=1)]
Thresholds = Annotated[tuple[Share, ...], Strict(False), Field(min_length=1)]


class DetectorInputConfig(Section):
    """How the pixels of an image become the network's input."""

    colour_order: Literal["BGR", "RGB"] = "BGR"
    """Of the channels that the network was trained with. Images are RGB everywhere else."""
    mean: Triple = (102.9801, 115.9465, 122.7717)
    """Subtracted from the channels, in ``colour_order``, of values 0 to 255."""
    std: Annotated[tuple[Positive, Positive, Positive], Strict(False)] = (1.0, 1.0, 1.0)
    """What they are divided by then."""
    short_side: Count = 600
    """Pixels that an image's shorter side is resized to, ..."""
    long_side: Count = 1000
    """... unless its longer side would have more than these."""

    @model_validator(mode="after")
    def _sides_ascend(self) -> "DetectorInputConfig":
        if self.short_side > self.long_side:
            raise ValueError(
                f"short_side={self.short_side} must be at most long_side={self.long_side}"
            )
        return self


class ResNetConfig(Section):
    """The convolutions: a ResNet of bottlenecks; res2 to res4 see the image, res5 each region."""

    blocks: Blocks = (3, 4, 23, 3)
    """Of res2, res3, res4 and res5: these are ResNet-101."""
    width: Count = 64
    """Channels of the first convolution; res2 has 4 times as many, each later stage twice those of
    the one before, so a region's feature has 32 times as many (2,048)."""
    stride_in_1x1: bool = True
    """Whether a stage halves the map in its first 1x1 convolution, as in Caffe, or in the 3x3 one,
    as in torchvision's weights."""
    caffe_max_pool: bool = True
    """Whether the pooling behind the first convolution is without padding and rounds up, as in
    Caffe, or has padding 1."""


class ProposalConfig(Section):
    """The region proposal network; its anchors stand 16 pixels apart."""

    channels: Count = 512
    """Of its hidden convolution."""
    anchor_sizes: Numbers = (64.0, 128.0, 256.0, 512.0)
    """Square roots of the anchors' areas, in pixels of the resized image."""
    anchor_ratios: Numbers = (0.5, 1.0, 2.0)
    """Height over width of an anchor of each size."""
    before_nms: Count = 6000
    """How many of the best proposals non-maximum suppression sees."""
    after_nms: Count = 300
    """How many of the best it leaves."""
    nms_threshold: Share = 0.7
    """Overlap (IoU) above which the worse of two proposals goes."""
    min_size: NonNegative = 0.0
    """Pixels of the resized image that both sides of a proposal must exceed."""


class RegionConfig(Section):
    """What is computed of each region."""

    object_classes: Count = 1600
    """Without the background, which is the last row of the weights."""
    attribute_classes: Annotated[int, Field(ge=0)] = 400
    """The same; 0 is a detector without attributes."""
    pooling: Literal["max", "align"] = "max"
    """``max``: RoIPool, as published; ``align``: RoIAlign."""
    pool_size: Count = 14
    """Side of the grid that a region is pooled to."""
    dilated: bool = True
    """Whether res5 keeps the size of the grid and dilates its 3x3 convolutions by 2, as published,
    or halves it as in any ResNet."""
    class_agnostic_boxes: bool = False
    """Whether one correction of the box serves all classes."""
    box_weights: Weights = (10.0, 10.0, 5.0, 5.0)
    """What the network's corrections of x, y, width and height are divided by."""


_VARYING = ("adaptive", "confident")
"""Rules with which images have different numbers of boxes."""


class SelectionConfig(Section):
    """Which regions of an image are kept, and what is said of them.

    ``caffe36``: the proposals themselves, not corrected, are the boxes. For each class they pass
    non-maximum suppression with ``class_nms_threshold``; a box counts as much as the most likely
    class in which it is left; exactly ``boxes`` are kept. As the script of the published features.

    ``adaptive``: the same with between ``min_boxes`` and ``max_boxes``: as many as count for at
    least ``score_threshold``.

    ``regressed``: the box of the most likely class, corrected and clipped. Suppression regards no
    classes; ``image_nms_thresholds`` are tried in turn until ``boxes`` are left. As the ports to
    detectron2 and Hugging Face; features are still of the proposals.

    ``confident``: the same with the first of these thresholds alone, and with between ``min_boxes``
    and ``max_boxes``: as many as are of a class with at least ``score_threshold``.
    """

    rule: Literal["caffe36", "regressed", "adaptive", "confident"] = "caffe36"
    boxes: Count = 36
    """Of an image, with ``caffe36`` and ``regressed``."""
    min_boxes: Count = 10
    max_boxes: Count = 100
    class_nms_threshold: Share = 0.3
    score_threshold: Fraction = 0.2
    image_nms_thresholds: Thresholds = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Ascending."""
    attribute_background: bool = True
    """Whether the probability of an attribute is one among all, the background too, as in Caffe, or
    among the attributes alone, as in the ports."""
    too_few: Literal["error", "whole_image"] = "error"
    """What happens to an image with fewer regions than must be kept: an error that names it, or
    regions that are all of the image take the missing places."""

    @model_validator(mode="after")
    def _ascend(self) -> "SelectionConfig":
        if self.min_boxes > self.max_boxes:
            raise ValueError(
                f"min_boxes={self.min_boxes} must be at most max_boxes={self.max_boxes}"
            )
        if any(later <= earlier for earlier, later in pairwise(self.image_nms_thresholds)):
            raise ValueError("image_nms_thresholds must ascend")
        return self

    @property
    def fewest(self) -> int:
        """Boxes that every image has."""
        return self.min_boxes if self.rule in _VARYING else self.boxes

    @property
    def most(self) -> int:
        """Boxes that no image exceeds."""
        return self.max_boxes if self.rule in _VARYING else self.boxes


class DetectorConfig(Section):
    """A Faster R-CNN and how its regions are chosen."""

    input: DetectorInputConfig = DetectorInputConfig()
    resnet: ResNetConfig = ResNetConfig()
    proposals: ProposalConfig = ProposalConfig()
    regions: RegionConfig = RegionConfig()
    selection: SelectionConfig = SelectionConfig()

    @model_validator(mode="after")
    def _enough_proposals(self) -> "DetectorConfig":
        if self.selection.most > self.proposals.after_nms:
            raise ValueError(
                f"proposals.after_nms={self.proposals.after_nms} must be at least the "
                f"{self.selection.most} boxes that the selection keeps"
            )
        return self

    @property
    def feature_dim(self) -> int:
        """Width of a region's feature."""
        return 32 * self.resnet.width
