"""The weights of a Faster R-CNN, by our names or by those of the published detector.

The published names are those of detectron2, and of ``unc-nlp/frcnn-vg-finetuned`` of Hugging Face.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lxmert_dist.detect.faster_rcnn import FasterRcnn
from lxmert_dist.errors import CheckpointError
from lxmert_dist.weight_files import read_file

_ANCHORS = "proposals.anchors"
_STEM = "image_net."
_PUBLISHED_STEM = "backbone."
_RENAMINGS = (
    (r"^image_net\.(conv1|bn1)\.", r"backbone.stem.\1."),
    (r"^image_net\.layer1\.", "backbone.res2."),
    (r"^image_net\.layer2\.", "backbone.res3."),
    (r"^image_net\.layer3\.", "backbone.res4."),
    (r"^regions\.layer4\.", "roi_heads.res5."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"^proposals\.anchors$", "proposal_generator.anchor_generator.cell_anchors.0"),
    (r"^proposals\.conv\.", "proposal_generator.rpn_head.conv."),
    (r"^proposals\.objectness\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"^proposals\.corrections\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"^regions\.object_score\.", "roi_heads.box_predictor.cls_score."),
    (r"^regions\.corrections\.", "roi_heads.box_predictor.bbox_pred."),
    (r"^regions\.class_embedding\.", "roi_heads.box_predictor.cls_embedding."),
    (r"^regions\.attribute_hidden\.", "roi_heads.box_predictor.fc_attr."),
    (r"^regions\.attribute_score\.", "roi_heads.box_predictor.attr_score."),
)
_SETTINGS = {
    "layer": "resnet",
    "image_net": "resnet.width",
    "regions.object": "regions.object_classes",
    "regions.corr": "regions.object_classes or regions.class_agnostic_boxes",
    "regions.class": "regions.object_classes",
    "regions.attr": "regions.attribute_classes",
    "proposals.conv": "proposals.channels or resnet.width",
    "proposals": "proposals.anchor_sizes or proposals.anchor_ratios",
}
"""Parts of our names -> the settings that a shape follows from."""


def published_name(name: str) -> str:
    """What the published detector calls the parameter that we call ``name``."""
    for pattern, replacement in _RENAMINGS:
        name = re.sub(pattern, replacement, name)
    return name


def load_weights(network: FasterRcnn, path: Path) -> str:
    """Fill a network.

    Args:
        network: whose parameters are replaced.
        path: a file of tensors by our names or the published ones, or a pickle of arrays.

    Returns:
        The first 12 hex digits of a SHA-256 of the network's parameters.

    Raises:
        CheckpointError: the file is missing or damaged, holds code, or its tensors are not those
            of the network; names the tensor, and the setting that may be wrong.
    """
    found = read_file(path)
    expected = network.state_dict()
    if any(name.startswith(_STEM) for name in found):
        names = {name: name for name in expected}
    elif any(name.startswith(_PUBLISHED_STEM) for name in found):
        names = {name: published_name(name) for name in expected}
    else:
        raise CheckpointError(
            f"{path} is not recognised as a Faster R-CNN: its first tensor is {min(found)}; "
            "give the detector's own file"
        )
    # Batch normalisation counts its batches, which nothing reads.
    unknown = {n for n in found if not n.endswith(".num_batches_tracked")} - set(names.values())
    if unknown:
        raise CheckpointError(
            f"{path}: {min(unknown)} is no parameter of a detector of this configuration; "
            "check detector.toml, or name another file"
        )
    network.load_state_dict(
        {name: _taken(path, found, name, names[name], like) for name, like in expected.items()}
    )
    return digest(network)


def digest(network: FasterRcnn) -> str:
    """The first 12 hex digits of a SHA-256 of a network's parameters, in the order of names."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        hashed.update(name.encode())
        hashed.update(tensor.cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()[:12]


def _taken(path: Path, found: Mapping[str, Tensor], name: str, theirs: str, like: Tensor) -> Tensor:
    """A tensor of the file for the parameter ``name``; the network's own anchors if it has none."""
    tensor = found.get(theirs)
    if tensor is None and name == _ANCHORS:
        return like
    setting = next((s for part, s in _SETTINGS.items() if part in name), "the configuration")
    if tensor is None:
        raise CheckpointError(f"{path} lacks {theirs}; set {setting} as the file has it")
    if tensor.shape != like.shape:
        raise CheckpointError(
            f"{path}: {theirs} is {tuple(tensor.shape)}, and {setting} makes it "
            f"{tuple(like.shape)}; set it as the file has it"
        )
    return tensor
