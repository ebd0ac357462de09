"""The typed settings of a run: TOML and overrides in, a frozen tree out."""

from lxmert_dist.config.deepspeed import deepspeed_config
from lxmert_dist.config.load import dump_toml, flat_settings, load_config
from lxmert_dist.config.run import FinetuneConfig, PretrainConfig, RunConfig
from lxmert_dist.config.sections import (
    CheckpointConfig,
    ClusterConfig,
    DataConfig,
    ModelConfig,
    ObjectivesConfig,
    OptimizerConfig,
    TrackingConfig,
    TrainConfig,
)

__all__ = [
    "CheckpointConfig",
    "ClusterConfig",
    "DataConfig",
    "FinetuneConfig",
    "ModelConfig",
    "ObjectivesConfig",
    "OptimizerConfig",
    "PretrainConfig",
    "RunConfig",
    "TrackingConfig",
    "TrainConfig",
    "deepspeed_config",
    "dump_toml",
    "flat_settings",
    "load_config",
]
