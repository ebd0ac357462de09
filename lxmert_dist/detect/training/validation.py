"""How well a network finds what is in images."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor
from torchvision.ops import batched_nms, box_iou
from tqdm.auto import tqdm

from lxmert_dist.detect.faster_rcnn import FasterRcnn, Regions
from lxmert_dist.detect.training.average_precision import Found, There, mean_average_precision
from lxmert_dist.detect.training.batches import load_example
from lxmert_dist.detect.training.losses import Things
from lxmert_dist.schema import IGNORED, LabelledImage

_SAME_THING = 0.5
"""IoU of two detections of a class above which the less sure one goes."""


@torch.inference_mode()
def validate(
    network: FasterRcnn,
    images: Sequence[LabelledImage],
    object_names: Sequence[str],
    *,
    progress: bool = False,
) -> dict[str, float]:
    """Score a network in evaluation mode.

    Every region is what it most likely is, corrected; none is left out for a low score.

    Args:
        network: with its weights.
        images: with what is in them.
        object_names: the classes, in the order of the weights.
        progress: show a bar, if stderr is a terminal.

    Returns:
        ``map50``, the mean average precision at an IoU of 0.5; ``ap50/NAME`` of each class that is
        in the images; ``attribute_accuracy`` in [0, 1] over things that were found with any class,
        if there are attributes.
    """
    found, there, right = [], [], []
    for image in tqdm(images, "validating", unit="img", disable=None if progress else True):
        pixels, things = load_example(image, network.config.input)
        _, regions = network(pixels)
        scores, classes = regions.object_logits.softmax(dim=1)[:, :-1].max(dim=1)
        kept = regions.rows(batched_nms(regions.corrected_boxes, scores, classes, _SAME_THING))
        scores, classes = kept.object_logits.softmax(dim=1)[:, :-1].max(dim=1)
        found.append(Found(kept.corrected_boxes.numpy(), classes.numpy(), scores.numpy()))
        there.append(There(things.boxes.numpy(), things.object_ids.numpy()))
        right.append(_attributes_right(kept, things))
    value, each = mean_average_precision(found, there)
    figures = {"map50": value}
    figures |= {f"ap50/{object_names[number]}": ap for number, ap in each.items()}
    known = torch.cat(right) if right else torch.zeros(0)
    return figures | ({"attribute_accuracy": float(known.float().mean())} if len(known) else {})


def _attributes_right(regions: Regions, things: Things) -> Bool[Tensor, " N"]:
    """Whether the attribute is right, of each thing that has one and that a region lies on."""
    if regions.attribute_logits is None or not len(regions.boxes) or not len(things.boxes):
        return torch.zeros(0, dtype=torch.bool)
    overlap, region = box_iou(things.boxes, regions.corrected_boxes).max(dim=1)
    asked = (overlap >= _SAME_THING) & (things.attribute_ids != IGNORED)
    said = regions.attribute_logits[region, :-1].argmax(dim=1)
    return (said == things.attribute_ids)[asked]
