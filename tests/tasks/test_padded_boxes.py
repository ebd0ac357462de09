"""Images that differ in their number of boxes: padding takes no part in anything."""

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from lxmert_dist.config.sections import ModelConfig, ObjectivesConfig
from lxmert_dist.schema import (
    DataSpec,
    LossReport,
    MicroBatch,
    PairBatch,
    PretrainTargets,
)
from lxmert_dist.store.sentences import SentenceTable
from lxmert_dist.tasks import (
    AnsweringTask,
    PretrainingTask,
    answering_collate,
    pretraining_collate,
)

PAIRS = np.arange(0, 60, 3)
TOLERANCE = 1e-5
OBJECTIVES = [
    ObjectivesConfig(
        label_scope=scope,
        visual_mean_over=mean,
        weigh_labels_by_score=scored,
        object_mask_rate=0.5,
        object_random_fraction=0.5,
        object_replace_fraction=0.3,
    )
    for scope, mean, scored in (
        ("all", "all", True),
        ("all", "all", False),
        ("masked", "masked", True),
        ("masked", "all", False),
    )
]


def per_image(batch: PairBatch) -> dict[str, np.ndarray]:
    """The arrays that have a row of O an image."""
    shape = batch.object_ids.shape
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return {n: v for n, v in values.items() if isinstance(v, np.ndarray) and v.shape[:2] == shape}


@pytest.fixture
def varying(make_batch: Callable[..., PairBatch], spec: DataSpec) -> PairBatch:
    """A batch as a store with 1 to 5 boxes an image gives it."""
    batch = make_batch(PAIRS)
    counts = 1 + np.arange(len(PAIRS)) % spec.num_objects
    real = np.arange(spec.num_objects) < counts[:, None]
    padded = {n: v * real[(...,) + (None,) * (v.ndim - 2)] for n, v in per_image(batch).items()}
    padded = {n: v.astype(getattr(batch, n).dtype) for n, v in padded.items()}
    donors = tuple(
        replace(pool, num_boxes=1 + np.arange(pool.num_images) % spec.num_objects)
        for pool in batch.donors
    )
    return replace(batch, num_boxes=counts, donors=donors, **padded)


def alone(batch: PairBatch, pair: int) -> PairBatch:
    """A pair of its own, with its real boxes alone."""
    one = batch.select(slice(pair, pair + 1))
    assert one.num_boxes is not None
    count = int(one.num_boxes[0])
    return replace(one, num_boxes=None, **{n: v[:, :count] for n, v in per_image(one).items()})


def assert_sums(whole: LossReport, parts: list[LossReport]) -> None:
    """Worst measured: 1.2e-7 of a loss."""
    for name, loss in whole.losses.items():
        total = sum(float(part.losses[name]) for part in parts)
        assert float(loss) == pytest.approx(total, rel=TOLERANCE), name
    for name, (right, count) in whole.metrics.items():
        parts_right = sum(float(part.metrics[name][0]) for part in parts)
        assert float(right) == pytest.approx(parts_right, rel=1e-6), name  # sums of scores round
        assert float(count) == sum(float(part.metrics[name][1]) for part in parts), name


@pytest.mark.parametrize("objectives", OBJECTIVES)
def test_a_padded_batch_is_its_images_one_at_a_time(
    objectives: ObjectivesConfig,
    varying: PairBatch,
    sentences: SentenceTable,
    spec: DataSpec,
    model_config: ModelConfig,
) -> None:
    collate = pretraining_collate(sentences, spec, objectives, seed=1, max_tokens=9)
    torch.manual_seed(0)
    task = PretrainingTask(model_config, objectives, spec)
    whole = collate(varying)
    parts = [collate(alone(varying, pair)) for pair in range(len(PAIRS))]
    assert whole.inputs.object_mask is not None
    assert all(part.inputs.object_mask is None for part in parts)
    for name, count in whole.counts.items():
        assert count == sum(part.counts[name] for part in parts), name
    with torch.no_grad():
        report = task(whole)
        assert min(map(float, report.losses.values())) > 0
        assert_sums(report, [task(part) for part in parts])


def test_answers_of_a_padded_batch(
    varying: PairBatch, sentences: SentenceTable, spec: DataSpec, model_config: ModelConfig
) -> None:
    collate = answering_collate(sentences, spec, max_tokens=9)
    torch.manual_seed(0)
    task = AnsweringTask(model_config, spec, spec.num_answers)
    with torch.no_grad():
        report = task(collate(varying))
        assert_sums(report, [task(collate(alone(varying, k))) for k in range(len(PAIRS))])


def spoiled(batch: MicroBatch) -> MicroBatch:
    """Numbers in all places of padding."""
    inputs, targets = batch.inputs, batch.targets
    assert inputs.object_mask is not None
    assert isinstance(targets, PretrainTargets)
    there = inputs.object_mask

    def fill(values: torch.Tensor, value: float) -> torch.Tensor:
        return torch.where(there.view(*there.shape, *[1] * (values.ndim - 2)), values, value)

    return replace(
        batch,
        inputs=replace(
            inputs, roi_features=fill(inputs.roi_features, 7.0), boxes=fill(inputs.boxes, 0.5)
        ),
        targets=replace(
            targets,
            object_ids=fill(targets.object_ids, 3),
            object_scores=fill(targets.object_scores, 0.9),
            attribute_ids=fill(targets.attribute_ids, 2),
            attribute_scores=fill(targets.attribute_scores, 0.8),
        ),
    )


@pytest.mark.parametrize("objectives", OBJECTIVES)
def test_what_is_in_padding_changes_no_loss_metric_or_gradient(
    objectives: ObjectivesConfig,
    varying: PairBatch,
    sentences: SentenceTable,
    spec: DataSpec,
    model_config: ModelConfig,
) -> None:
    """Bit for bit."""
    batch = pretraining_collate(sentences, spec, objectives, seed=1, max_tokens=9)(varying)
    torch.manual_seed(0)
    task = PretrainingTask(model_config, objectives, spec)
    seen = []
    for one in (batch, spoiled(batch)):
        task.zero_grad()
        report = task(one)
        torch.stack(list(report.losses.values())).sum().backward()
        numbers = [*report.losses.values(), *(n for m in report.metrics.values() for n in m)]
        seen.append([*numbers, *(parameter.grad for parameter in task.parameters())])
    assert not torch.equal(batch.inputs.roi_features, spoiled(batch).inputs.roi_features)
    for a, b in zip(*seen, strict=True):
        assert torch.equal(a, b)


def test_masks_and_donors_keep_to_real_boxes_in_micro_batches(
    varying: PairBatch, sentences: SentenceTable, spec: DataSpec
) -> None:
    part = varying.select(slice(4, 9))
    assert part.num_boxes is not None
    assert part.num_boxes.tolist() == [5, 1, 2, 3, 4]
    batch = pretraining_collate(sentences, spec, OBJECTIVES[0], seed=1, max_tokens=9)(part)
    targets, real = batch.targets, torch.from_numpy(part.real_objects)
    assert isinstance(targets, PretrainTargets)
    assert torch.equal(batch.inputs.object_mask, real)
    assert targets.masked_objects.any()
    assert not targets.masked_objects[~real].any()
    assert not batch.inputs.roi_features[~real].any()
    assert batch.counts["object_label"] == 15
