"""The two trees of settings: what ``launch/pretrain.py`` and ``launch/finetune.py`` read."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lxmert_dist.config.presets import PRESETS
from lxmert_dist.config.sections import (
    AnswerLoss,
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

_HOW_DATA_ARE_READ = (
    "store",
    "prefetch_steps",
    "read_ahead_steps",
    "reader_threads",
    "backend",
    "patience_s",
    "memory_gib",
    "cache",
    "cache_gib",
)


class RunConfig(Section):
    """What pretraining and fine-tuning share."""

    name: str
    """Of the run, in the tracker."""
    directory: str
    """Where the run keeps its log, and by default its checkpoints; local. A file may leave it out:
    then it is ``runs/<name>``, with ``_scratch`` for fine-tuning from scratch."""
    preset: Literal["lxmert", "paper", "huggingface", "corrected"] = "lxmert"
    """Whose semantics (``presets.py``): the defaults of the sections. What is set, wins."""
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

    @model_validator(mode="before")
    @classmethod
    def _under_preset(cls, tree: Any) -> Any:
        """Lay what is set over the preset; what is of the wrong type is left to the fields."""
        if not isinstance(tree, Mapping):
            return tree
        overlay = PRESETS.get(str(tree.get("preset", "lxmert")), {})
        sections = {
            name: _over(settings, tree.get(name, {}))
            for name, settings in overlay.items()
            if name in cls.model_fields
        }
        return {**tree, **sections}

    @model_validator(mode="after")
    def _sizes_fit(self) -> "RunConfig":
        data, train = self.data, self.train
        if train.global_batch_size % data.lanes:
            raise ValueError(
                f"data.lanes={data.lanes} must divide "
                f"train.global_batch_size={train.global_batch_size}"
            )
        if data.curriculum and not train.max_steps:
            raise ValueError(
                "data.curriculum needs train.max_steps, which says how many steps the run has"
            )
        if data.max_tokens > self.model.max_positions:
            raise ValueError(
                f"data.max_tokens={data.max_tokens} must be at most "
                f"model.max_positions={self.model.max_positions}"
            )
        if self.cluster.timeout_seconds <= data.patience_s:
            raise ValueError(
                f"cluster.timeout_seconds={self.cluster.timeout_seconds} must be more than "
                f"data.patience_s={data.patience_s:g}: ranks that wait for one whose data are late "
                "must not give up before it does"
            )
        return self

    @property
    def checkpoint_uri(self) -> str:
        """Where the checkpoints of this run are."""
        return self.checkpoint.uri or f"{self.directory}/checkpoints"

    def fingerprint(self) -> str:
        """16 hex digits over every setting that changes what is trained.

        Where things are kept, how they are read, how often they are logged, the precision, the ZeRO
        stage and the micro-batch (but for ``loss_norm = "per_replica"``) may change between two
        starts of a run; the rest may not. A preset counts by the settings that it gives.
        """
        tree = self.model_dump(
            exclude={"name", "directory", "preset", "prepare", "checkpoint", "tracking", "cluster"}
        )
        tree["data"] = {k: v for k, v in tree["data"].items() if k not in _HOW_DATA_ARE_READ}
        sizes = ["epochs", "max_steps", "global_batch_size"]
        if tree.get("objectives", {}).get("loss_norm") == "per_replica":
            sizes.append("micro_batch_size")  # a replica is a micro-batch
        tree["train"] = {k: tree["train"][k] for k in sizes}
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


class PretrainConfig(RunConfig):
    """Settings of a pretraining run."""

    init: str = "scratch"
    """``scratch``, or a checkpoint, run directory or export (``launch/convert.py``) to take weights
    from."""
    objectives: ObjectivesConfig = ObjectivesConfig()


class FinetuneConfig(RunConfig):
    """Settings of a fine-tuning run on sentences with answers.

    The store decides what is learned: its answers are the classes, and where its sentences are
    about two images (NLVR2), both are read.
    """

    init: str
    """Checkpoint directory or URI of a pretraining run, or ``scratch``."""
    loss: AnswerLoss = "bce"
    """``bce``: each answer is judged by itself, against its soft score, as published for VQA and
    GQA. ``cross_entropy``: one answer is right, the one of the highest score: NLVR2, classes."""
    test_split: str = "test"
    """Scored once, after the last epoch; empty for none."""
    references: dict[str, float] = Field(default_factory=dict)
    """Accuracies in percent to print beside ours, by name."""


def _over(preset: Mapping[str, Any], given: Any) -> Any:
    """A section's preset with what is given laid over it; of a section, what was set counts."""
    if isinstance(given, Section):
        given = {name: getattr(given, name) for name in given.model_fields_set}
    return {**preset, **given} if isinstance(given, Mapping) else given
