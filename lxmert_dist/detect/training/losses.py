"""The five losses of a Faster R-CNN with attributes (Ren et al., 2015; Anderson et al., 2018).

What torchvision has is torchvision's: matching, sampling, and four of the losses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork

from lxmert_dist.config.detector import RegionConfig
from lxmert_dist.config.detector_training import DetectorTrainingConfig, TrainableDetectorConfig
from lxmert_dist.detect.faster_rcnn import FasterRcnn
from lxmert_dist.schema import IGNORED

LOSSES = ("objectness", "proposal_box", "object", "region_box", "attribute")


@dataclass(frozen=True)
class Things:
    """The N things of one image: boxes in pixels of the resized image; attributes may be IGNORED.

    ``height`` and ``width`` are those of the image in its batch, without padding.
    """

    boxes: Float[Tensor, "N 4"]
    object_ids: Int64[Tensor, " N"]
    attribute_ids: Int64[Tensor, " N"]
    height: int
    width: int


def detection_losses(
    network: FasterRcnn,
    config: TrainableDetectorConfig,
    pixels: Float[Tensor, "B 3 H W"],
    things: Sequence[Things],
) -> dict[str, Float[Tensor, ""]]:
    """The losses of a batch, by the names ``LOSSES``.

    Which anchors and proposals count is drawn from torch's global generator.

    Args:
        network: that learns.
        config: of it, and of the matching and sampling.
        pixels: normalised images, padded at the right and at the bottom.
        things: of each image.
    """
    feature_map = network.image_net(pixels)
    logits, moves = network.proposals.scores(feature_map)
    anchors = network.proposals.anchors_of(feature_map)
    objectness, proposal_box = proposal_losses(config.training, logits, moves, anchors, things)
    with torch.no_grad():
        proposals = [
            network.proposals.best(logits[i], moves[i], anchors, thing.height, thing.width)
            for i, thing in enumerate(things)
        ]
    losses = region_losses(network, config, feature_map, proposals, things)
    return dict(zip(LOSSES, (objectness, proposal_box, *losses), strict=True))


def proposal_losses(
    config: DetectorTrainingConfig,
    logits: Float[Tensor, "B K"],
    moves: Float[Tensor, "B K 4"],
    anchors: Float[Tensor, "K 4"],
    things: Sequence[Things],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Binary cross-entropy of sampled anchors, and smooth L1 of those that are of things."""
    background, thing = config.anchor_overlaps
    rules = RegionProposalNetwork(
        None, None, thing, background, config.anchors_per_image, config.anchor_share, {}, {}, 0.0
    )
    per_image = [anchors] * len(things)
    labels, boxes = rules.assign_targets_to_anchors(per_image, [{"boxes": t.boxes} for t in things])
    targets = rules.box_coder.encode(boxes, per_image)
    objectness, box = rules.compute_loss(logits, moves.flatten(0, 1), labels, targets)
    return objectness, box


def region_losses(
    network: FasterRcnn,
    config: TrainableDetectorConfig,
    feature_map: Float[Tensor, "B C h w"],
    proposals: Sequence[Float[Tensor, "_ 4"]],
    things: Sequence[Things],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Cross-entropy of classes, smooth L1 of boxes, cross-entropy of attributes.

    The boxes of the things are among the proposals. An attribute is asked for given the true class,
    as bottom-up attention is trained.
    """
    training = config.training
    rules = RoIHeads(
        None, None, None,
        training.region_overlap, training.region_overlap,
        training.regions_per_image, training.region_share,
        config.regions.box_weights, 0.0, 0.0, 0,
    )  # fmt: skip
    # torchvision counts the background as 0, and things from 1.
    targets = [{"boxes": t.boxes, "labels": t.object_ids + 1} for t in things]
    boxes, matched, labels, corrections = rules.select_training_samples(list(proposals), targets)
    heads = network.regions
    features = heads.features(feature_map, boxes)
    of_object, of_box = fastrcnn_loss(
        heads.object_score(features).roll(1, dims=1),
        _by_label(heads.corrections(features), config.regions),
        labels,
        corrections,
    )
    label = torch.cat(labels)
    attribute = torch.cat(
        [_attributes_of(thing, which) for thing, which in zip(things, matched, strict=True)]
    )
    rows = ((label > 0) & (attribute != IGNORED)).nonzero().flatten()
    found = heads.attributes(features[rows], label[rows] - 1)
    if found is None or not len(rows):
        return of_object, of_box, features.new_zeros(())
    return of_object, of_box, functional.cross_entropy(found, attribute[rows])


def _attributes_of(thing: Things, matched: Int64[Tensor, " R"]) -> Int64[Tensor, " R"]:
    if not len(thing.attribute_ids):
        return torch.full_like(matched, IGNORED)
    return thing.attribute_ids[matched]


def _by_label(moves: Float[Tensor, "R M"], config: RegionConfig) -> Float[Tensor, "R D"]:
    """As torchvision wants them: of the background, which nothing reads, then of the classes."""
    if config.class_agnostic_boxes:
        return moves.repeat(1, config.object_classes + 1)
    return functional.pad(moves, (4, 0))
