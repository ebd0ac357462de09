"""The settings of a detector's training: a detector's own, ``training`` and ``tracking``."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lxmert_dist.config.detector import DetectorConfig
from lxmert_dist.config.sections import (
    Count,
    Fraction,
    Names,
    NonNegative,
    Positive,
    Section,
    Share,
    TrackingConfig,
)

Whole = Annotated[int, Field(ge=0)]


class DetectorTrainingConfig(Section):
    """From what, how long and how a detector is trained; AdamW, from random weights."""

    source: Literal["nlvr1", "easy_vqa"]
    """``nlvr1``: NLVR v1 as published, ``PART.zip`` or ``PART/``; ``easy_vqa``: the package's
    images, whose boxes are where they differ from their background."""
    train_part: str
    """``hidden`` or ``dev`` of NLVR v1, ``train`` or ``test`` of easy-VQA."""
    validation_part: str
    object_names: Names
    """The classes, in the order of the weights; as many as ``regions.object_classes``."""
    attribute_names: Names = ()
    """The same of attributes."""
    seed: Whole = 9595
    """Of weights, order, flips, and which anchors and regions count."""
    steps: Count
    batch_images: Count = 8
    learning_rate: Positive = 1e-3
    """Rises to this in ``warmup_steps``, then falls along a line to 0."""
    warmup_steps: Whole = 100
    weight_decay: NonNegative = 1e-4
    """Of AdamW, of every parameter."""
    clip_norm: NonNegative = 5.0
    """Of all gradients together; 0 is no limit."""
    flip: Fraction = 0.5
    """Chance that an image is mirrored, left to right."""
    attribute_weight: NonNegative = 1.0
    """Of the attributes' loss; the four others have 1."""
    anchor_overlaps: tuple[Share, Share] = Field(default=(0.3, 0.7), strict=False)
    """IoU with a thing below which an anchor is background, and from which it is the thing's. The
    best of each thing is its, whatever the IoU."""
    anchors_per_image: Count = 256
    """Whose loss counts, ..."""
    anchor_share: Share = 0.5
    """... of which at most this share are of things."""
    region_overlap: Share = 0.5
    """IoU with a thing from which a proposal is the thing's; below it is background."""
    regions_per_image: Count = 64
    region_share: Share = 0.25
    """At most this share of an image's regions are of things."""
    log_every: Count = 20
    """Steps between two lines of losses."""
    validate_every: Count = 500
    """Steps between two validations; the detector and what resumes it are saved then too."""
    validation_images: Whole = 300
    """So many, evenly chosen, until the end, when all count; 0 is all every time."""

    @model_validator(mode="after")
    def _overlaps_ascend(self) -> "DetectorTrainingConfig":
        if self.anchor_overlaps[0] > self.anchor_overlaps[1]:
            raise ValueError(f"anchor_overlaps must ascend, and are {list(self.anchor_overlaps)}")
        return self

    @model_validator(mode="after")
    def _parts_differ(self) -> "DetectorTrainingConfig":
        if self.train_part == self.validation_part:
            raise ValueError(
                f"train_part and validation_part are both {self.train_part!r}; validate on another"
            )
        return self


class TrainableDetectorConfig(DetectorConfig):
    """A detector, and how it is trained."""

    training: DetectorTrainingConfig
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _names_fit(self) -> "TrainableDetectorConfig":
        for kind in ("object", "attribute"):
            names = getattr(self.training, f"{kind}_names")
            number = getattr(self.regions, f"{kind}_classes")
            if len(names) != number:
                raise ValueError(
                    f"training.{kind}_names has {len(names)} names, but "
                    f"regions.{kind}_classes={number}; they must agree"
                )
            if len(set(names)) < len(names):
                raise ValueError(f"training.{kind}_names has a name twice; leave one out")
        return self

    @property
    def detector(self) -> DetectorConfig:
        """Without the training: what is kept beside the weights."""
        return DetectorConfig.model_validate(self.model_dump(exclude={"training", "tracking"}))
