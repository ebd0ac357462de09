"""A tiny Faster R-CNN with random weights, the same on every machine, and pictures for it."""

import zlib
from pathlib import Path

import numpy as np
import torch

from lxmert_dist.config.detector import DetectorConfig
from lxmert_dist.detect import save_detector
from lxmert_dist.detect.faster_rcnn import FasterRcnn
from lxmert_dist.detect.faster_rcnn_detector import FasterRcnnDetector
from lxmert_dist.detect.weights import published_name

OBJECTS, ATTRIBUTES = 30, 12


def tiny_config(**sections) -> DetectorConfig:
    """ResNet-50 at a sixteenth of its width; sections are updated one by one."""
    tree = {
        "input": {"short_side": 96, "long_side": 160},
        "resnet": {"blocks": (3, 4, 6, 3), "width": 4},
        "proposals": {"channels": 16, "anchor_sizes": (16, 32, 64, 96), "after_nms": 60},
        "regions": {"object_classes": OBJECTS, "attribute_classes": ATTRIBUTES, "pool_size": 6},
        "selection": {"boxes": 9, "min_boxes": 3, "max_boxes": 20},
    }
    for name, section in sections.items():
        tree[name] = tree.get(name, {}) | section
    return DetectorConfig.model_validate(tree)


def random_weights(network: FasterRcnn, seed: int) -> dict[str, torch.Tensor]:
    """By the published names; NumPy draws each from its name, so no order matters."""
    weights = {}
    for ours, tensor in network.state_dict().items():
        name = published_name(ours)
        if "cell_anchors" in name:
            weights[name] = tensor.floor() + 0.5  # as if a converter had rounded
            continue
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        weights[name] = torch.from_numpy(_draw(rng, name, tuple(tensor.shape)).astype(np.float32))
    return weights


def _draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith(("norm.weight", "running_var")):
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) == 1:
        return rng.normal(0, 0.1, shape)
    gains = {"stem": 0.02, "conv3": 0.5, "anchor_deltas": 0.05, "bbox_pred": 0.5, "score": 2.0}
    gain = next((gain for part, gain in gains.items() if part in name), 1.2)
    drawn = rng.normal(0, gain / np.sqrt(np.prod(shape[1:])), shape)
    # Features are not negative: what they share would choose the class of all regions.
    return drawn - drawn.mean(axis=1, keepdims=True) if "score" in name else drawn


def tiny_network(config: DetectorConfig, seed: int = 0) -> FasterRcnn:
    network = FasterRcnn(config)
    drawn = random_weights(network, seed)
    network.load_state_dict({name: drawn[published_name(name)] for name in network.state_dict()})
    return network


def tiny_detector(seed: int = 0, **sections) -> FasterRcnnDetector:
    config = tiny_config(**sections)
    return FasterRcnnDetector(
        config,
        tiny_network(config, seed),
        object_classes=[f"object {i}" for i in range(config.regions.object_classes)],
        attribute_classes=[f"attribute {i}" for i in range(config.regions.attribute_classes)],
        name="tiny",
    )


_FAST = {
    "input": {"short_side": 64, "long_side": 96},
    "resnet": {"width": 2, "blocks": (1, 1, 1, 1)},
    "proposals": {"after_nms": 20},
    "selection": {"boxes": 4, "min_boxes": 2, "max_boxes": 6, "too_few": "whole_image"},
}


def save_tiny_detector(folder: Path, seed: int = 0) -> Path:
    """A directory for ``load_detector``, of a network that takes some milliseconds an image."""
    config = tiny_config(**_FAST)
    save_detector(
        folder,
        config,
        tiny_network(config, seed),
        object_classes=[f"object {i}" for i in range(config.regions.object_classes)],
        attribute_classes=[f"attribute {i}" for i in range(config.regions.attribute_classes)],
    )
    return folder


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """Rectangles of many colours on a gradient, uint8 RGB."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (height + width)], -1)
    for _ in range(12):
        top, left = rng.integers(0, height), rng.integers(0, width)
        image[top : top + rng.integers(2, height + 4), left : left + rng.integers(2, width + 4)] = (
            rng.uniform(0, 255, 3)
        )
    return image.astype(np.uint8)
