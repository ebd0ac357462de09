"""Which launcher started this process, and which rank it is."""

import os
import re
from collections.abc import Mapping, MutableMapping
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
            names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
            local_size = _tasks_of_node(env)
        case _:
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
            local_size = int(env.get("LOCAL_WORLD_SIZE", env.get("LOCAL_SIZE", "1")))
    rank, size, local_rank = (_number(env, name, launcher) for name in names)
    if size > 1:
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in env]
        if missing:
            raise ConfigError(
                f"--launcher {launcher}: {' and '.join(missing)} must tell where rank 0 is"
            )
    return World(rank, size, local_rank, max(local_size, local_rank + 1), best_device(local_rank))


def tell_meeting_place(launcher: Launcher, env: MutableMapping[str, str]) -> None:
    """Under Slurm, which does not, tell the ranks where they meet: so ``srun python`` is enough.

    Rank 0 is on the first node of the step. The port is one of the job and step, below those that
    the system gives out by itself; a ``MASTER_ADDR`` or ``MASTER_PORT`` in ``env`` stands.
    """
    nodes = env.get("SLURM_STEP_NODELIST", env.get("SLURM_JOB_NODELIST", ""))
    job, step = env.get("SLURM_JOB_ID", ""), env.get("SLURM_STEP_ID", "0")
    if launcher != "slurm":
        return
    if nodes:
        env.setdefault("MASTER_ADDR", _first_node(nodes))
    if job.isdecimal() and step.isdecimal():
        env.setdefault("MASTER_PORT", str(12000 + (int(job) + 101 * int(step)) % 20000))


def _first_node(nodes: str) -> str:
    """Of a list such as ``gpu[003-007,9],login``: ``gpu003``."""
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first)


def _tasks_of_node(env: Mapping[str, str]) -> int:
    """Ranks on this node, of a list such as ``2(x3),1`` over the step's nodes."""
    listed = env.get("SLURM_STEP_TASKS_PER_NODE", env.get("SLURM_TASKS_PER_NODE", ""))
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", listed):
        counts += [int(count)] * int(times or 1)
    node = int(env.get("SLURM_NODEID", "0"))
    return counts[node] if node < len(counts) else 1


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
