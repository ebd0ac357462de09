"""What a rank is given over two epochs, down to every tensor; by the path that training takes."""

import hashlib
from dataclasses import dataclass, fields

import torch

from lxmert_dist.config import ObjectivesConfig
from lxmert_dist.schema import MicroBatch, StepBatch
from lxmert_dist.store import Store, open_store
from lxmert_dist.store.read_settings import ReadSettings
from lxmert_dist.stream.loader import Loader, LoaderSettings, TrainingSteps, index_pairs
from lxmert_dist.stream.plan import PlanSettings
from lxmert_dist.tasks import pretraining_collate

SETTINGS = LoaderSettings(micro_batch_size=8, prefetch_steps=2, read_ahead_steps=2)
PLAN = PlanSettings(lanes=2, window_shards=2, global_batch_size=16)
EPOCHS = 2
DEFAULTS = ReadSettings()
FEATURES = "train/roi_features/c/"
SHARD = f"{FEATURES}3/0/0"


@dataclass(frozen=True)
class Delivered:
    """What came out of a loader, in order."""

    pair_ids: tuple[int, ...]
    digests: tuple[str, ...]
    """Of every tensor of every micro-batch: inputs, targets, counts."""


def train_loader(store: Store, epochs: int = EPOCHS) -> Loader:
    """A loader over the training split with the collate of pretraining."""
    split = store.split("train")
    collate = pretraining_collate(
        split.sentences, store.spec, ObjectivesConfig(), seed=3, max_tokens=12
    )
    steps = TrainingSteps(split, index_pairs(split, ()), PLAN, SETTINGS, collate, 7, epochs)
    return Loader(split, steps, SETTINGS)


def deliver(uri: str, settings: ReadSettings = DEFAULTS) -> Delivered:
    """Open the store at ``uri`` and go through two epochs of its training split."""
    with train_loader(open_store(uri, settings)) as loader:
        return delivered(list(loader))


def delivered(steps: list[StepBatch]) -> Delivered:
    """Sum up steps."""
    batches = [batch for step in steps for batch in step.micro_batches]
    pair_ids = [pair for batch in batches for pair in batch.pair_ids.tolist()]
    return Delivered(tuple(pair_ids), tuple(digest(batch) for batch in batches))


def digest(batch: MicroBatch) -> str:
    """SHA-256 over names, shapes, types and bytes of all tensors of a micro-batch."""
    hashed = hashlib.sha256(repr(sorted(batch.counts.items())).encode())
    for part in (batch, batch.inputs, batch.targets):
        for entry in fields(part):
            value = getattr(part, entry.name)
            if isinstance(value, torch.Tensor):
                hashed.update(f"{entry.name} {value.dtype} {tuple(value.shape)}".encode())
                hashed.update(value.contiguous().numpy().tobytes())
    return hashed.hexdigest()
