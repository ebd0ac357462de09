"""The losses against torchvision's own modules, run whole on the same network and draws."""

import pytest
import torch
from shapes import learner, shapes
from torch import nn
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from lxmert_dist.detect.faster_rcnn import FasterRcnn
from lxmert_dist.detect.training.batches import load_example, stack_padded
from lxmert_dist.detect.training.losses import detection_losses, region_losses


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self._function = function

    def forward(self, *given):
        return self._function(*given)


@pytest.fixture
def scene():
    """A network with norms that let something through, a batch and what is in it."""
    torch.manual_seed(3)
    config = learner()
    network = FasterRcnn(config.detector).double()
    images = [*shapes(1, 1), *shapes(2, 1, height=120)]
    pixels, things = zip(*(load_example(image, config.input) for image in images), strict=True)
    things = [
        type(t)(t.boxes.double(), t.object_ids, t.attribute_ids, t.height, t.width) for t in things
    ]
    return config, network, stack_padded(pixels).double(), things


def losses(scene) -> dict[str, torch.Tensor]:
    config, network, pixels, things = scene
    torch.manual_seed(5)
    return detection_losses(network, config, pixels, things)


def test_anchors_are_matched_sampled_and_scored_as_in_torchvision(scene):
    config, network, pixels, things = scene
    feature_map = network.image_net(pixels)
    head = network.proposals

    def heads(maps):
        hidden = functional.relu(head.conv(maps[0]))
        return [head.objectness(hidden)], [head.corrections(hidden)]

    background, thing = config.training.anchor_overlaps
    counts = {"training": 100, "testing": 100}
    peer = RegionProposalNetwork(
        Call(lambda images, maps: [head.anchors_of(feature_map).double()] * len(things)),
        Call(heads), thing, background,
        config.training.anchors_per_image, config.training.anchor_share, counts, counts, 0.7,
    ).train()  # fmt: skip
    torch.manual_seed(5)
    sizes = [(t.height, t.width) for t in things]
    targets = [{"boxes": t.boxes} for t in things]
    _, theirs = peer(ImageList(pixels, sizes), {"0": feature_map}, targets)
    ours = losses(scene)
    torch.testing.assert_close(ours["objectness"], theirs["loss_objectness"])
    torch.testing.assert_close(ours["proposal_box"], theirs["loss_rpn_box_reg"])
    assert ours["proposal_box"] > 0


@pytest.mark.parametrize("agnostic", [False, True])
def test_regions_are_sampled_and_scored_as_in_torchvision(scene, agnostic):
    config, network, pixels, things = scene
    if agnostic:
        regions = config.regions.model_copy(update={"class_agnostic_boxes": True})
        config = config.model_copy(update={"regions": regions})
        network = FasterRcnn(config.detector).double()
    feature_map = network.image_net(pixels)
    proposals = [t.boxes.repeat(12, 1) + torch.randn(24, 4) * 6 for t in things]
    head, classes = network.regions, config.regions.object_classes

    def predict(features):
        """The background first."""
        logits, moves = head.object_score(features), head.corrections(features)
        moves = moves.view(len(moves), -1, 4).expand(-1, classes, 4)
        first = torch.cat([logits[:, -1:], logits[:, :-1]], dim=1)
        return first, torch.cat([torch.zeros_like(moves[:, :1]), moves], dim=1).flatten(1)

    rules = config.training
    peer = RoIHeads(
        Call(lambda maps, boxes, sizes: head.features(maps["0"], boxes)), nn.Identity(),
        Call(predict), rules.region_overlap, rules.region_overlap, rules.regions_per_image,
        rules.region_share, config.regions.box_weights, 0.0, 0.5, 100,
    ).train()  # fmt: skip
    targets = [{"boxes": t.boxes, "labels": t.object_ids + 1} for t in things]
    sizes = [(t.height, t.width) for t in things]
    torch.manual_seed(5)
    _, theirs = peer({"0": feature_map}, list(proposals), sizes, targets)
    torch.manual_seed(5)
    ours = region_losses(network, config, feature_map, proposals, things)
    torch.testing.assert_close(ours[0], theirs["loss_classifier"])
    torch.testing.assert_close(ours[1], theirs["loss_box_reg"])
    assert ours[1] > 0


def test_attributes_are_asked_for_of_things_given_their_true_class(scene):
    config, network, pixels, things = scene
    training = config.training.model_copy(update={"regions_per_image": 4, "region_share": 1.0})
    config = config.model_copy(update={"training": training})
    feature_map = network.image_net(pixels)
    nothing = [torch.zeros(0, 4, dtype=torch.float64)] * 2
    ours = region_losses(network, config, feature_map, nothing, things)[2]
    # Without proposals the things themselves are all there is.
    features = network.regions.features(feature_map, [t.boxes for t in things])
    embedded = network.regions.class_embedding.weight[torch.cat([t.object_ids for t in things])]
    hidden = network.regions.attribute_hidden(torch.cat([features, embedded], 1)).relu()
    logits = network.regions.attribute_score(hidden)
    wanted = torch.cat([t.attribute_ids for t in things])
    torch.testing.assert_close(ours, functional.cross_entropy(logits, wanted))


def test_an_image_with_nothing_in_it_and_unknown_attributes_give_finite_losses(scene):
    config, network, pixels, things = scene
    empty, full = things
    empty = type(empty)(
        empty.boxes[:0], empty.object_ids[:0], empty.attribute_ids[:0], empty.height, empty.width
    )
    full = type(full)(
        full.boxes,
        full.object_ids,
        torch.full_like(full.attribute_ids, -1),
        full.height,
        full.width,
    )
    found = detection_losses(network, config, pixels, [empty, full])
    assert all(torch.isfinite(loss) for loss in found.values())
    assert found["attribute"] == 0
    assert found["object"] > 0
