"""Images of coloured rectangles, and a network that is large enough to learn them."""

import io

import numpy as np
from PIL import Image

from lxmert_dist.config.detector_training import TrainableDetectorConfig
from lxmert_dist.schema import LabelledImage

COLOURS = ((200, 30, 30), (30, 30, 200))


def learner(**training) -> TrainableDetectorConfig:
    """Classes: wide and high; attributes: red and blue."""
    return TrainableDetectorConfig.model_validate(
        {
            "input": {
                "short_side": 96, "long_side": 160, "mean": (128, 128, 128), "std": (70, 70, 70)
            },
            "resnet": {"blocks": (1, 1, 1, 1), "width": 4},
            "proposals": {
                "channels": 16, "anchor_sizes": (32, 64), "before_nms": 100, "after_nms": 20
            },
            "regions": {
                "object_classes": 2, "attribute_classes": 2, "pooling": "align", "pool_size": 6
            },
            "selection": {"rule": "regressed", "boxes": 2, "too_few": "whole_image"},
            "training": {
                "source": "nlvr1", "train_part": "a", "validation_part": "b",
                "object_names": ("wide", "high"), "attribute_names": ("red", "blue"),
                "steps": 200, "batch_images": 2, "learning_rate": 5e-3, "warmup_steps": 5,
                "regions_per_image": 16, "region_share": 0.5,
            } | training,
        }
    )  # fmt: skip


def shapes(seed: int, number: int = 2, height: int = 96, width: int = 128) -> list[LabelledImage]:
    """Each image has a wide and a high rectangle, side by side."""
    rng = np.random.default_rng(seed)
    images = []
    for index in range(number):
        pixels = np.full((height, width, 3), 230, np.uint8)
        boxes, attributes = [], rng.integers(0, 2, 2)
        for kind, (across, down) in enumerate(((48, 24), (24, 48))):
            left = int(rng.integers(0, width // 2 - across)) + kind * width // 2
            top = int(rng.integers(0, height - down))
            pixels[top : top + down, left : left + across] = COLOURS[attributes[kind]]
            boxes.append((left, top, left + across, top + down))
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        images.append(
            LabelledImage(
                f"image {index}", file.getvalue(), np.array(boxes, np.float32),
                np.arange(2), attributes.astype(np.int64),
            )
        )  # fmt: skip
    return images
