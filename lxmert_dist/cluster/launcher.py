"""Which launcher started this process, and which rank it is."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

from lxmert_dist.errors import ConfigError

if TYPE_CHECKING:
    from lxmert_dist.train.world import World

Launcher = Literal["process", "deepspeed", "torchrun", "slurm", "ray"]
LAUNCHERS: tuple[Launcher, ...] = get_args(Launcher)


def detect(env: Mapping[str, str]) -> Launcher:
    """The launcher that left its marks in the environment; ``process`` if there are none."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in env:
        return "ray"
    if "TORCHELASTIC_RUN_ID" in env:
        return "torchrun"
    if "RANK" in env and "WORLD_SIZE" in env:
        return "deepspeed"
    if "SLURM_PROCID" in env and int(env.get("SLURM_NTASKS", "1")) > 1:
        return "slurm"
    return "process"


def world(launcher: Launcher, env: Mapping[str, str]) -> "World":
    """This process among the ranks.

    Raises:
        ConfigError: the launcher was named, but did not set what it should.
    """
    from lxmert_dist.train.world import World, best_device  # with torch, which --help does without

    match launcher:
        case "process":
            return World(device=best_device(0))
        case "slurm":
            names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE")
        case _:
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    rank, size, local_rank = (_number(env, name, launcher) for name in names[:3])
    if size > 1:
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in env]
        if missing:
            raise ConfigError(
                f"--launcher {launcher}: {' and '.join(missing)} must tell where rank 0 is"
            )
    local_size = int(env.get(names[3], env.get("LOCAL_SIZE", "1")))
    return World(rank, size, local_rank, max(local_size, local_rank + 1), best_device(local_rank))


def _number(env: Mapping[str, str], name: str, launcher: Launcher) -> int:
    try:
        return int(env[name])
    except (KeyError, ValueError):
        raise ConfigError(
            f"--launcher {launcher}: the environment has no number {name}; start the ranks with "
            f"{launcher}, or leave --launcher out"
        ) from None


def use_threads(threads: int, local_size: int, env: Mapping[str, str]) -> None:
    """Share the cores among the ranks of a host, unless somebody decided already.

    Args:
        threads: setting ``train.threads``; 0 means an even share.
        local_size: ranks on this host.
        env: an ``OMP_NUM_THREADS`` in it stands.
    """
    import torch

    if threads:
        torch.set_num_threads(threads)
    elif "OMP_NUM_THREADS" not in env:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_size))
