"""The two trees of settings: what ``launch/pretrain.py`` and ``launch/finetune.py`` read."""

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field, model_validator

from lxmert_dist.config.sections import (
    CheckpointConfig,
    ClusterConfig,
    DataConfig,
    ModelConfig,
    ObjectivesConfig,
    OptimizerConfig,
    Section,
    TrackingConfig,
    TrainConfig,
)


class RunConfig(Section):
    """What pretraining and fine-tuning share."""

    name: str
    """Of the run, in the tracker."""
    directory: str
    """Where the run keeps its log, and by default its checkpoints; local. A file may leave it out:
    then it is ``runs/<name>``, with ``_scratch`` for fine-tuning from scratch."""
    seed: Annotated[int, Field(ge=0)] = 9595
    prepare: Literal["none", "easy-vqa"] = "none"
    """What builds the store, if there is none yet at ``data.store``."""
    data: DataConfig
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _sizes_fit(self) -> "RunConfig":
        data, train = self.data, self.train
        if train.global_batch_size % data.lanes:
            raise ValueError(
                f"data.lanes={data.lanes} must divide "
                f"train.global_batch_size={train.global_batch_size}"
            )
        if data.max_tokens > self.model.max_positions:
            raise ValueError(
                f"data.max_tokens={data.max_tokens} is more than "
                f"model.max_positions={self.model.max_positions}"
            )
        return self

    @property
    def checkpoint_uri(self) -> str:
        """Where the checkpoints of this run are."""
        return self.checkpoint.uri or f"{self.directory}/checkpoints"

    def fingerprint(self) -> str:
        """16 hex digits over every setting that changes what is trained.

        Where things are kept, how often they are logged, the precision, the ZeRO stage and the
        micro-batch may change between two starts of a run; the rest may not.
        """
        tree = self.model_dump(
            exclude={"name", "directory", "prepare", "checkpoint", "tracking", "cluster"}
        )
        tree["data"] = {
            k: v
            for k, v in tree["data"].items()
            if k not in ("store", "prefetch_steps", "reader_threads")
        }
        tree["train"] = {k: tree["train"][k] for k in ("epochs", "max_steps", "global_batch_size")}
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


class PretrainConfig(RunConfig):
    """Settings of a pretraining run."""

    objectives: ObjectivesConfig = ObjectivesConfig()


class FinetuneConfig(RunConfig):
    """Settings of a fine-tuning run on questions with answers."""

    init: str
    """Checkpoint directory or URI of a pretraining run, or ``scratch``."""
    test_split: str = "test"
    """Scored once, after the last epoch."""
    references: dict[str, float] = Field(default_factory=dict)
    """Accuracies in percent to print beside ours, by name."""
