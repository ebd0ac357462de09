"""A batch of invented pairs with a sentence of every length from 3 to 20."""

import torch
from torch import Tensor

from lxmert_dist.config.sections import ObjectivesConfig
from lxmert_dist.schema import DataSpec, MicroBatch, ModelInputs, PairBatch, PretrainTargets
from lxmert_dist.store.sentences import SentenceTable
from lxmert_dist.tasks import pretraining_collate

LENGTHS = torch.arange(3, 21)
PAIRS = len(LENGTHS)


def pretraining_batch(spec: DataSpec, *, visual_mask: bool = False) -> MicroBatch:
    """All six losses have terms; with a mask, 2 objects or more are real.

    The losses of objects are then divided by all places, as transformers divides them.
    """
    draw = torch.Generator().manual_seed(3)
    tokens, objects = 20, spec.num_objects

    def integers(below: int, *shape: int) -> Tensor:
        return torch.randint(below, shape, generator=draw)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=draw)

    real = torch.arange(tokens) < LENGTHS[:, None]
    there = torch.ones(PAIRS, objects, dtype=torch.bool)
    if visual_mask:
        there = torch.arange(objects) < 2 + torch.arange(PAIRS)[:, None] % (objects - 1)
    inputs = ModelInputs.pack(
        integers(spec.vocab_size, PAIRS, tokens) * real,
        real,
        uniform(PAIRS, objects, spec.feature_dim),
        uniform(PAIRS, objects, 4),
        object_mask=there if visual_mask else None,
    )
    words = (uniform(len(inputs.token_ids)) < 0.3).nonzero().flatten()
    masked = (uniform(PAIRS, objects) < 0.3) & there
    rows = masked.flatten().nonzero().flatten()
    questions = (uniform(PAIRS) < 0.5).nonzero().flatten()
    targets = PretrainTargets(
        masked_tokens=words,
        masked_lm=integers(spec.vocab_size, len(words)),
        is_matched=integers(2, PAIRS),
        object_ids=integers(spec.num_object_classes, PAIRS, objects),
        object_scores=uniform(PAIRS, objects) * there,
        attribute_ids=integers(spec.num_attribute_classes, PAIRS, objects),
        attribute_scores=uniform(PAIRS, objects) * there,
        masked_objects=masked,
        roi_features=3 * uniform(len(rows), spec.feature_dim),
        masked_object_rows=rows,
        original_rows=torch.arange(len(rows)),
        questions=questions,
        answer_ids=integers(spec.num_answers, len(questions)),
    )
    every = float(PAIRS * objects)
    counts = dict.fromkeys(("object_label", "attribute_label", "roi_feature"), every)
    counts |= {"masked_lm": len(words), "matching": PAIRS, "image_qa": len(questions)}
    assert min(counts.values()) > 2
    return MicroBatch(torch.arange(PAIRS), inputs, targets, counts)


def collated(
    sentences: SentenceTable,
    spec: DataSpec,
    raw: PairBatch,
    objectives: ObjectivesConfig | None = None,
    **arguments: object,
) -> MicroBatch:
    settings = {"seed": 1, "max_tokens": 9, **arguments}
    return pretraining_collate(sentences, spec, objectives or ObjectivesConfig(), **settings)(raw)


def pretrain_targets(batch: MicroBatch) -> PretrainTargets:
    assert isinstance(batch.targets, PretrainTargets)
    return batch.targets
