"""What DeepSpeed is told, derived from the settings of a run."""

from typing import Any

from lxmert_dist.config.run import RunConfig
from lxmert_dist.config.sections import TrainConfig
from lxmert_dist.errors import ConfigError

_NEVER = 10**9


def deepspeed_config(config: RunConfig, *, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration for a run on ``world_size`` ranks.

    Raises:
        ConfigError: ranks do not divide the lanes, or the micro-batch a rank's share of a step.
    """
    lanes, train = config.data.lanes, config.train
    if lanes % world_size:
        raise ConfigError(
            f"{world_size} ranks do not divide data.lanes={lanes}; use a number of ranks that "
            f"does, or set data.lanes to a multiple of {world_size}"
        )
    share = train.global_batch_size // world_size  # lanes divide it, and ranks divide lanes
    micro = min(train.micro_batch_size, share)
    if share % micro:
        raise ConfigError(
            f"train.micro_batch_size={micro} does not divide the {share} pairs that each of "
            f"{world_size} ranks takes of train.global_batch_size={train.global_batch_size}"
        )
    return {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": share // micro,
        "gradient_clipping": config.optimizer.clip_norm,
        "zero_optimization": _zero(train, world_size),
        "bf16": {"enabled": train.precision == "bf16"},
        "fp16": _fp16(train),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # ours runs on either device, and compiles nothing
        "steps_per_print": _NEVER,
    }


def _zero(train: TrainConfig, world_size: int) -> dict[str, Any]:
    # One rank has nobody to share with, and in fp32 no masters to keep: sharing would only copy.
    alone = world_size == 1 and train.precision == "fp32" and not train.offload_optimizer
    settings: dict[str, Any] = {
        "stage": 0 if alone else train.zero_stage,
        "reduce_bucket_size": train.reduce_bucket_size,
        "allgather_bucket_size": train.allgather_bucket_size,
    }
    if train.overlap_communication != "auto":
        settings["overlap_comm"] = train.overlap_communication == "on"
    if train.offload_optimizer:
        settings["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    return settings


def _fp16(train: TrainConfig) -> dict[str, Any]:
    if train.precision != "fp16":
        return {"enabled": False}
    return {
        "enabled": True,
        "loss_scale": 0,  # dynamic
        "initial_scale_power": train.initial_scale_power,
        "loss_scale_window": train.scale_window,
        "hysteresis": 1,  # every overflow halves
    }
