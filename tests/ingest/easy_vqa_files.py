"""A small data set in easy-VQA's files, and a detector that costs nothing."""

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

from lxmert_dist.schema import RoiRecord

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}
SHAPES = ("circle", "rectangle")
ANSWERS = ("circle", "rectangle", "triangle", "red", "blue", "yes", "no")


class MeanDetector:
    """Describes an image by its mean colour; remembers the pixels that it saw."""

    num_objects = min_objects = 2
    feature_dim = 3
    object_classes = ("thing",)
    attribute_classes = ("plain", "dark")
    name = "mean colour"

    def __init__(self):
        self.seen = {}
        self.batches = []

    def detect(self, image_ids, images):
        self.batches.append(len(images))
        return [self._record(i, image) for i, image in zip(image_ids, images, strict=True)]

    def _record(self, image_id, image):
        self.seen[image_id] = hashlib.sha256(image.tobytes()).hexdigest()
        mean = (image.mean((0, 1)) / 255).astype(np.float32)
        return RoiRecord(
            image_id=image_id,
            height=image.shape[0],
            width=image.shape[1],
            boxes=np.tile(np.array([0, 0, 1, 1], np.float32), (2, 1)),
            roi_features=np.tile(mean, (2, 1)),
            object_ids=np.zeros(2, np.int64),
            object_scores=np.ones(2, np.float32),
            attribute_ids=np.full(2, int(mean.mean() < 0.5), np.int64),
            attribute_scores=np.ones(2, np.float32),
        )


def write_part(root: Path, name: str, images: int, seed: int) -> list[list]:
    """Images of random colour, and two questions that settle each; returns the questions."""
    rng = np.random.default_rng(seed)
    directory = root / name / "images"
    directory.mkdir(parents=True)
    questions = []
    for number in range(images):
        colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
        pixels = rng.integers(0, 40, (8, 10, 3)) + np.array(COLOURS[colour]) // 2
        Image.fromarray(pixels.astype(np.uint8)).save(directory / f"{number}.png")
        questions += [
            [f"what is the {colour} shape?", str(shape), number],
            [f"is there not a {colour} shape?", "no", number],
        ]
    write_questions(root, name, questions)
    return questions


def write_questions(root: Path, name: str, questions: list[list]) -> None:
    """Replace the questions of a part."""
    (root / name / "questions.json").write_text(json.dumps(questions))


def write_data(root: Path, *, train: int = 30, test: int = 6, test_seed: int = 1) -> Path:
    """Both parts and the answer table."""
    write_part(root, "train", train, seed=0)
    write_part(root, "test", test, seed=test_seed)
    (root / "answers.txt").write_text("\n".join(ANSWERS) + "\n")
    return root
