"""Sharing an image changes no loss and no gradient: pairs computed apart give the same."""

from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from lxmert_dist.config import ObjectivesConfig
from lxmert_dist.schema import Collate, MicroBatch, PairBatch
from lxmert_dist.store import open_store
from lxmert_dist.stream.loader import Loader, LoaderSettings, TrainingSteps, index_pairs
from lxmert_dist.stream.plan import PlanSettings
from lxmert_dist.tasks import PretrainingTask, pretraining_collate
from sizes import MODEL

OBJECTIVES = {
    "released": ObjectivesConfig(),
    "masked": ObjectivesConfig(
        label_scope="masked", visual_mean_over="masked", object_mask_rate=0.4, feature_loss="l2"
    ),
}


@pytest.fixture(scope="module")
def store(tiny_store):
    return open_store(tiny_store)


def masking(store, objectives: ObjectivesConfig) -> Collate:
    sentences = store.split("train").sentences
    return pretraining_collate(sentences, store.spec, objectives, seed=3, max_tokens=12)


@pytest.fixture(scope="module")
def step(store) -> PairBatch:
    """Half a step (two lanes) as the loader gathers it: 16 pairs, up to 4 of them an image."""
    split, mask, seen = store.split("train"), masking(store, ObjectivesConfig()), []

    def collate(pairs: PairBatch) -> MicroBatch:
        seen.append(pairs)
        return mask(pairs)

    settings = LoaderSettings(micro_batch_size=32)
    plan = PlanSettings(lanes=4, window_shards=2, global_batch_size=32, pairs_per_image=4)
    steps = TrainingSteps(split, index_pairs(split, ()), plan, settings, collate, 7, 1)
    with Loader(split, steps, settings) as loader:
        next(iter(loader))
    return seen[0].select(slice(16))


def copied(pairs: PairBatch) -> list[PairBatch]:
    """Each pair with a copy of its image."""
    of_pairs = ("epoch", "step", "donors", "pair_ids", "image_index")
    of_images = {f.name: getattr(pairs, f.name) for f in fields(pairs) if f.name not in of_pairs}
    copies = {
        name: values[pairs.image_index] for name, values in of_images.items() if values is not None
    }
    return [replace(pairs, image_index=np.arange(len(pairs.pair_ids)), **copies)]


def one_by_one(pairs: PairBatch) -> list[PairBatch]:
    return [pairs.select(slice(k, k + 1)) for k in range(len(pairs.pair_ids))]


def in_uneven_parts(pairs: PairBatch) -> list[PairBatch]:
    """Micro-batches that cut groups."""
    return [pairs.select(slice(k, k + 5)) for k in range(0, len(pairs.pair_ids), 5)]


def train(
    store, objectives: ObjectivesConfig, batches: list[PairBatch]
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Sums (losses, right answers, counts) and gradients of one step of a float64 model."""
    torch.manual_seed(0)
    task = PretrainingTask(MODEL, objectives, store.spec).double()
    collate = masking(store, objectives)
    sums: Counter[str] = Counter()
    for raw in batches:
        batch = collate(raw)
        report = task(batch)
        sum(report.losses.values()).backward()
        sums.update({name: loss.item() for name, loss in report.losses.items()})
        sums.update({name: right.item() for name, (right, _) in report.metrics.items()})
        sums.update({f"{name} terms": terms for name, terms in batch.counts.items()})
    return dict(sums), {name: p.grad for name, p in task.named_parameters()}


@pytest.mark.parametrize("apart", [copied, one_by_one, in_uneven_parts])
@pytest.mark.parametrize("objectives", OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_grouped_pairs_train_as_pairs_apart(
    store, step, objectives, apart: Callable[[PairBatch], list[PairBatch]]
):
    assert len(step.image_rows) < 0.5 * len(step.pair_ids)
    sums, gradients = train(store, objectives, [step])
    other_sums, other_gradients = train(store, objectives, apart(step))
    assert sums == pytest.approx(other_sums, rel=1e-6)  # fp32 sums: measured 1.1e-7
    assert len(sums) == 6 + 5 + 6
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        worst = float((gradient - other_gradients[name]).abs().max())
        assert worst < 1e-10 * largest, name  # measured 1.6e-12
