"""An export with random weights, and a detector of nothing but colours."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lxmert_dist.interop import Request, convert
from lxmert_dist.interop.source import of_run
from lxmert_dist.schema import RoiRecord
from lxmert_dist.tasks import AnsweringTask
from lxmert_dist.tasks.weights import Description, TaskWeights
from sizes import MODEL, SPEC
from tiny_store import SPECIAL, WORDS, make_tokenizer

ANSWERS = ("no", "red", "two", "yes")
QUESTION = "ba de fi?"


class Colours:
    """Quarters of an image and their mean colours; of small images only the first two.

    A :class:`~lxmert_dist.schema.Detector`.
    """

    num_objects, min_objects = 4, 2
    object_classes: Sequence[str] = ("corner", "side")
    attribute_classes: Sequence[str] = ("dark", "bright")
    name = "mean colours of quarters"

    def __init__(self, feature_dim: int = 12) -> None:
        self.feature_dim = feature_dim
        self.seen: list[str] = []

    def detect(self, image_ids: Sequence[str], images: Sequence[np.ndarray]) -> list[RoiRecord]:
        self.seen += image_ids
        return [self._record(*both) for both in zip(image_ids, images, strict=True)]

    def _record(self, image_id: str, image: np.ndarray) -> RoiRecord:
        height, width = image.shape[:2]
        number = 4 if width > 40 else 2
        boxes = np.array(
            [[x, y, x + 0.5, y + 0.5] for y in (0, 0.5) for x in (0, 0.5)], np.float32
        )[:number]
        pixels = (boxes * [width, height, width, height]).astype(int)
        colours = [image[top:low, left:right].mean((0, 1)) for left, top, right, low in pixels]
        features = np.resize(np.array(colours, np.float32) / 64, (self.feature_dim, number)).T
        bright = (features.mean(1) > 2).astype(np.int64)
        return RoiRecord(
            image_id=image_id,
            height=height,
            width=width,
            boxes=boxes,
            roi_features=features,
            object_ids=np.arange(number) % 2,
            object_scores=np.full(number, 0.5, np.float32),
            attribute_ids=bright,
            attribute_scores=np.full(number, 0.5, np.float32),
        )


def make_export(out: Path, sizes: Mapping[str, int] | None = None, **changes: object) -> Path:
    """An export of a task with random weights, which knows ``Colours``."""
    torch.manual_seed(7)
    ids = {
        f"{name}_id": SPECIAL.index(f"[{name.upper()}]") for name in ("pad", "cls", "sep", "mask")
    }
    counts = {"vocab_size": len(SPECIAL) + len(WORDS), "num_answers": len(ANSWERS)}
    spec = {**asdict(SPEC), **ids, **counts, **(sizes or {})}
    model = MODEL.model_copy(update={"initializer_range": 0.3})
    description = Description(
        kind="answering",
        model=model,
        sizes=spec,
        answers=ANSWERS,
        detector=Colours.name,
        max_tokens=8,
    )
    task = AnsweringTask(model, description.spec, len(ANSWERS))
    weights = TaskWeights("made up", description.model_copy(update=changes), task.state_dict())
    tokenizer = make_tokenizer(out.parent / "tokenizer")
    convert(of_run(weights), Request(to="lxmert_dist", out=out, tokenizer=tokenizer))
    return out


def make_image(path: Path, seed: int = 0, width: int = 60) -> Path:
    """A picture of four random colours."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), np.uint8)
    Image.fromarray(corners.repeat(20, 0).repeat(width // 2, 1)).save(path)
    return path
