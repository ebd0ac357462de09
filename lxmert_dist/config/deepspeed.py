"""What DeepSpeed is told, derived from the settings of a run."""

from typing import Any

from lxmert_dist.config.run import RunConfig
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
        "zero_optimization": {"stage": train.zero_stage},
        "bf16": {"enabled": train.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": _NEVER,
    }
