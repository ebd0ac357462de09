"""Batches as training has them, of invented content and real lengths.

Shapes: B pairs, T tokens, I images, O objects.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from lxmert_dist.config import ObjectivesConfig
from lxmert_dist.schema import DataSpec, MicroBatch, PairBatch, Sentence
from lxmert_dist.store.sentence_builder import SentenceBuilder
from lxmert_dist.store.sentences import SentenceTable
from lxmert_dist.tasks import answering_collate, pretraining_collate

PUBLISHED = DataSpec(
    vocab_size=30522,
    pad_id=0,
    cls_id=101,
    sep_id=102,
    mask_id=103,
    num_objects=36,
    feature_dim=2048,
    num_object_classes=1600,
    num_attribute_classes=400,
    num_answers=9500,
)

VQA = replace(PUBLISHED, num_answers=3129)

PIECES = {
    3: 1, 4: 3, 5: 9, 6: 15, 7: 17, 8: 15, 9: 12, 10: 9, 11: 6, 12: 5, 13: 3, 14: 2, 16: 2, 18: 1,
}  # fmt: skip
"""How many of a hundred sentences have how many word pieces: made up after questions and captions,
mean 8.3, which with [CLS] and [SEP] is 10.3 of 20."""

QUESTIONS = 0.3
"""Share of the pairs that have answers; half of them lose it to the mismatch."""


def make_batch(
    folder: Path, pairs: int, pairs_per_image: int, *, task: str = "pretraining", multiple: int = 1
) -> MicroBatch:
    """``pairs`` pairs, ``pairs_per_image`` of each image, as the task's collate makes them.

    Of ``pretraining``: swapped, masked and labelled. Of ``answering``: each a question with one
    answer of VQA's.
    """
    draw = np.random.default_rng(7)
    images = pairs // pairs_per_image
    spec, asked = (PUBLISHED, QUESTIONS) if task == "pretraining" else (VQA, 1.0)
    sentences = _sentences(folder, draw, pairs, pairs_per_image, asked, spec.num_answers)
    shape = (images, spec.num_objects)
    corners = np.sort(draw.random((*shape, 2, 2), dtype=np.float32), axis=2).reshape(*shape, 4)
    # RoI features are what is left of a ReLU's mean: not negative, mostly small.
    features = draw.exponential(0.4, (*shape, spec.feature_dim)).astype(np.float16)
    raw = PairBatch(
        epoch=0,
        step=0,
        pair_ids=np.arange(pairs),
        image_index=np.arange(pairs) // pairs_per_image,
        image_rows=np.arange(images),
        object_keys=np.arange(images) * pairs_per_image,
        roi_features=features,
        boxes=corners,
        object_ids=draw.integers(spec.num_object_classes, size=shape),
        object_scores=draw.random(shape, dtype=np.float32),
        attribute_ids=draw.integers(spec.num_attribute_classes, size=shape),
        attribute_scores=draw.random(shape, dtype=np.float32),
        pool_ids=np.zeros(images, np.int64),
        donors=(_Pool(features),),
    )
    shapes = {"max_tokens": 20, "multiple": multiple}
    if task == "pretraining":
        return pretraining_collate(sentences, spec, ObjectivesConfig(), seed=1, **shapes)(raw)
    return answering_collate(sentences, spec, loss="cross_entropy", **shapes)(raw)


class _Pool:
    """The batch's own images as donors."""

    def __init__(self, features: np.ndarray) -> None:
        self._features = features
        self.num_images = len(features)
        self.num_boxes = None

    def gather(self, images: np.ndarray, objects: np.ndarray) -> np.ndarray:
        return self._features[images, objects]


def _sentences(
    folder: Path,
    draw: np.random.Generator,
    pairs: int,
    per_image: int,
    questions: float,
    num_answers: int,
) -> SentenceTable:
    lengths = np.repeat(list(PIECES), list(PIECES.values()))
    builder = SentenceBuilder(
        {str(row): row for row in range(pairs // per_image)},
        {str(number): number for number in range(num_answers)},
        PUBLISHED.vocab_size,
    )
    for pair in range(pairs):
        asks = draw.random() < questions
        builder.add(
            Sentence(
                image_id=str(pair // per_image),
                uid=str(pair),
                source="vqa" if asks else "captions",
                token_ids=draw.integers(1000, 30000, draw.choice(lengths)).tolist(),
                answers={str(draw.integers(num_answers)): 1.0} if asks else {},
            )
        )
    path = folder / f"sentences-{pairs}-{per_image}.arrow"
    builder.write(path, pairs // per_image)
    return SentenceTable(path)


def packed_share(batch: MicroBatch) -> float:
    """Real word pieces over those of 20 a sentence."""
    return len(batch.inputs.token_ids) / (20 * len(batch.pair_ids))
