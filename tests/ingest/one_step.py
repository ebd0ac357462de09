"""The first step of pretraining on a store."""

import torch

from lxmert_dist.config.sections import ObjectivesConfig
from lxmert_dist.store import Store
from lxmert_dist.stream.loader import Loader, LoaderSettings, TrainingSteps, index_pairs
from lxmert_dist.stream.plan import PlanSettings
from lxmert_dist.tasks import PretrainingTask, pretraining_collate
from sizes import MODEL


def train_one_step(store: Store) -> None:
    """Stream, collate, go forward and back; every loss must be finite and reach the weights."""
    split, objectives = store.split("train"), ObjectivesConfig()
    settings = LoaderSettings(micro_batch_size=16)
    steps = TrainingSteps(
        split,
        index_pairs(split, ()),
        PlanSettings(lanes=2, window_shards=2, global_batch_size=16),
        settings,
        pretraining_collate(split.sentences, store.spec, objectives, seed=1, max_tokens=20),
        seed=1,
        passes=1,
    )
    with Loader(split, steps, settings) as loader:
        (batch,) = next(iter(loader)).micro_batches
    torch.manual_seed(0)
    task = PretrainingTask(MODEL, objectives, store.spec)
    losses = task(batch).losses
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values()), losses
    assert all(weight.grad is not None for weight in task.parameters())
    assert sum(weight.grad.abs().sum() for weight in task.parameters()) > 0
