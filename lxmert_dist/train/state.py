"""What a checkpoint says of its run, beside the tensors."""

from dataclasses import dataclass, field
from typing import Any

FORMAT = 1


@dataclass(frozen=True)
class TrainState:
    """Where a run is, and what it belongs to."""

    step: int
    """Optimiser steps done."""
    epoch: int
    """Of the next step."""
    epoch_step: int
    """Of the next step, within its epoch."""
    plan_version: int
    store_digest: str
    fingerprint: str
    config: dict[str, Any]
    data_spec: dict[str, int]
    tokenizer_digest: str
    answers: list[str]
    object_classes: list[str]
    attribute_classes: list[str]
    tracker_run_id: str | None = None
    skipped: int = 0
    """Steps whose gradients overflowed, so that they changed nothing."""
    loss_scaler: dict[str, float] = field(default_factory=dict)
    """fp16: where the dynamic loss scale is."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the validation after this very step; empty if there was none."""
    format: int = FORMAT
    versions: dict[str, str | None] = field(default_factory=dict)
    detector: str = ""
    """What the store's features are of; empty in a checkpoint of before it was kept."""
