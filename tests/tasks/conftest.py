"""A small split and a small model for the tests of the tasks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lxmert_dist.config.sections import ModelConfig
from lxmert_dist.schema import DataSpec, PairBatch, Sentence
from lxmert_dist.store.sentence_builder import SentenceBuilder
from lxmert_dist.store.sentences import SentenceTable
from sizes import MODEL, SPEC

IMAGES, PER_IMAGE = 20, 6


@dataclass(frozen=True)
class ArrayPool:
    """A donor pool over an array (N, O, F)."""

    features: np.ndarray
    num_boxes: np.ndarray | None = None

    @property
    def num_images(self) -> int:
        return len(self.features)

    def gather(self, images: np.ndarray, objects: np.ndarray) -> np.ndarray:
        return self.features[images, objects]


@pytest.fixture
def spec() -> DataSpec:
    return SPEC


@pytest.fixture
def model_config() -> ModelConfig:
    return MODEL


@pytest.fixture
def write_sentences(tmp_path: Path, spec: DataSpec) -> Callable[..., SentenceTable]:
    """A function that writes a split's sentences, with ``answers`` or without.

    Pair p is of image p // PER_IMAGE, has 3 + p % 7 pieces (all of value 10 + p % 50), and the
    pairs with even ids have one or two answers.
    """

    def write(shift: int = 0, answered: bool = True) -> SentenceTable:
        names = [f"answer {number}" for number in range(spec.num_answers)]
        builder = SentenceBuilder(
            {f"image {row}": row for row in range(IMAGES)},
            {name: number for number, name in enumerate(names)},
            spec.vocab_size,
        )
        for pair in range(IMAGES * PER_IMAGE):
            first, second = names[(pair + shift) % 7], names[(pair + shift + 3) % 7]
            both = {first: 1.0} if pair % 4 else {first: 0.9, second: 0.3}
            builder.add(
                Sentence(
                    image_id=f"image {pair // PER_IMAGE}",
                    uid=f"sentence {pair}",
                    source="vqa",
                    token_ids=[10 + pair % 50] * (3 + pair % 7),
                    answers=both if answered and pair % 2 == 0 else {},
                )
            )
        path = tmp_path / f"sentences-{shift}-{answered}.arrow"
        builder.write(path, IMAGES)
        return SentenceTable(path)

    return write


@pytest.fixture
def sentences(write_sentences: Callable[..., SentenceTable]) -> SentenceTable:
    return write_sentences()


@pytest.fixture
def make_batch(spec: DataSpec) -> Callable[..., PairBatch]:
    """A function from pair ids to the raw batch that ``stream`` would read."""
    draw = np.random.default_rng(3)
    shape = (IMAGES, spec.num_objects)
    features = draw.normal(size=(*shape, spec.feature_dim)).astype(np.float16)
    corners = np.sort(draw.random((*shape, 2, 2)), axis=2).reshape(*shape, 4)
    object_ids = draw.integers(spec.num_object_classes, size=shape)
    attribute_ids = draw.integers(spec.num_attribute_classes, size=shape)
    scores = draw.random((2, *shape)).astype(np.float32)

    def make(pair_ids: list[int] | np.ndarray, epoch: int = 0) -> PairBatch:
        pairs = np.asarray(pair_ids, np.int64)
        rows = pairs // PER_IMAGE
        return PairBatch(
            epoch=epoch,
            step=0,
            pair_ids=pairs,
            image_index=np.arange(len(pairs)),
            image_rows=rows,
            object_keys=pairs,
            roi_features=features[rows],
            boxes=corners[rows].astype(np.float32),
            object_ids=object_ids[rows],
            object_scores=scores[0][rows],
            attribute_ids=attribute_ids[rows],
            attribute_scores=scores[1][rows],
            pool_ids=rows % 2,
            donors=(ArrayPool(features[::2]), ArrayPool(features[1::2])),
        )

    return make
