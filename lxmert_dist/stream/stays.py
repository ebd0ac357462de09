"""How long a rank holds each shard: what reads, memory and their least bound follow from."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from lxmert_dist.errors import ConfigError
from lxmert_dist.stream.plan import LanePlan, PairIndex, PlanSettings, lanes_of_rank, plan_epoch

GIB = 1 << 30


@dataclass(frozen=True)
class Stays:
    """The R stays of shards in a rank's window; every stay is one read.

    Lanes whose stays overlap share one; where a lane lets go before another begins, the shard is
    read again.
    """

    shards: Int64[np.ndarray, " R"]
    begin: Int64[np.ndarray, " R"]
    """The step before which each is asked for."""
    first: Int64[np.ndarray, " R"]
    """The step that first needs it."""
    end: Int64[np.ndarray, " R"]
    """The last step that needs it."""


def stays_of(lanes: list[LanePlan], read_ahead_steps: int) -> Stays:
    """The stays of an epoch in the window of the rank that has these lanes."""
    shards = np.concatenate([lane.shards for lane in lanes])
    first = np.concatenate([lane.first_step for lane in lanes])
    end = np.concatenate([lane.last_step for lane in lanes])
    order = np.lexsort((first, shards))
    shards, first, end = shards[order], first[order], end[order]
    begin = np.maximum(first - read_ahead_steps, 0)
    # On a line where every shard has a stretch of its own, one running maximum serves them all.
    stretch = shards * (end.max() + 1)
    held_until = np.maximum.accumulate(stretch + end)
    opens = np.flatnonzero(np.append(True, stretch[1:] + begin[1:] > held_until[:-1]))
    closes = np.append(opens[1:], len(shards)) - 1
    return Stays(shards[opens], begin[opens], first[opens], (held_until - stretch)[closes])


def held_at_once(
    begin: Int64[np.ndarray, " R"],
    end: Int64[np.ndarray, " R"],
    sizes: Int64[np.ndarray, " R"],
    steps: int,
) -> Int64[np.ndarray, " S"]:
    """The sum of the sizes of what is held in each step, from ``begin`` to ``end`` included."""
    change = np.zeros(steps + 1, np.int64)
    np.add.at(change, begin, sizes)
    np.add.at(change, end + 1, -sizes)
    held: Int64[np.ndarray, " S"] = np.cumsum(change)[:-1]
    return held


def shards_needed(lanes: list[LanePlan], read_ahead_steps: int) -> int:
    """How many shards a rank must be able to hold; with fewer, an epoch would stand still.

    Buffers are given in the order in which shards are first needed, so what is read ahead never
    stands in the way. Whatever a rank has room for beyond this is used to read ahead.
    """
    stays = stays_of(lanes, read_ahead_steps)
    ones = np.ones_like(stays.shards)
    return int(held_at_once(stays.first, stays.end, ones, len(lanes[0].pair_ids)).max())


def most_shards_needed(
    index: PairIndex,
    plan: PlanSettings,
    *,
    seed: int,
    epochs: range,
    world_size: int,
    read_ahead_steps: int,
) -> int:
    """As :func:`shards_needed`, for any rank in any of the epochs, all of which are planned."""
    ranks = [lanes_of_rank(plan.lanes, rank, world_size) for rank in range(world_size)]
    most = 0
    for epoch in epochs:
        lanes = plan_epoch(index, plan, seed=seed, epoch=epoch, lanes=range(plan.lanes))
        needs = [shards_needed([lanes[k] for k in own], read_ahead_steps) for own in ranks]
        most = max(most, *needs)
    return most


def check_memory(memory_bytes: int, shard_bytes: int, needed: int) -> None:
    """Refuse a bound (0 is none) that has no room for as many shards as are needed.

    Raises:
        ConfigError: says how much is enough.
    """
    if memory_bytes and memory_bytes < needed * shard_bytes:
        least = math.ceil(needed * shard_bytes / GIB * 1000) / 1000
        raise ConfigError(
            f"data.memory_gib={memory_bytes / GIB:.4g} is too little: the plan holds up to "
            f"{needed} shards of {shard_bytes / 1e6:.3g} MB on a rank; set data.memory_gib to at "
            f"least {least:g}, or make data.window_shards smaller"
        )
