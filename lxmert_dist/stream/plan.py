"""The plan of an epoch: which pairs each lane visits in which step. Pure arithmetic, no I/O.

Images carry very different numbers of sentences, so everything is balanced by pairs:

1. The shards (groups of images that are read together) are permuted by a keyed hash.
2. Their pairs, laid end to end, are cut into ``lanes`` runs of equal length.
3. Within a lane, the sentences of one image are spread over the next ``window_shards`` shards,
   with jitter, so that one read of an image serves all of its sentences while the sentences of
   one image seldom meet in a batch.
4. A step takes ``global_batch_size / lanes`` pairs of every lane; a rank owns a contiguous slice
   of lanes. Lanes do not depend on the number of ranks, so neither do the global batches.

With ``pairs_per_image = k`` the sentences of an image are dealt anew in every epoch into groups of
k, and one smaller group where k does not divide them. A group takes the place of a sentence in 3,
and its pairs stand together, so that they can share the image. Where a group does not fit a step
(or a lane) it is cut, which costs a second copy of its image and changes nothing else; when k
divides ``global_batch_size / lanes``, only some of the smaller groups are.

The state of a run in its data is (seed, epoch, step, ``PLAN_VERSION``, store digest).
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from lxmert_dist import keyed
from lxmert_dist.errors import ConfigError
from lxmert_dist.keyed import Purpose

PLAN_VERSION = 1
"""Changes whenever the same (seed, epoch) would give another order."""


@dataclass(frozen=True)
class PairIndex:
    """The pairs of a split that a run visits, and the image row of each; both ascend."""

    pair_ids: Int64[np.ndarray, " P"]
    image_rows: Int64[np.ndarray, " P"]
    images_per_shard: int

    def __len__(self) -> int:
        return len(self.pair_ids)

    @property
    def shards(self) -> Int64[np.ndarray, " P"]:
        """The shard of each pair."""
        return self.image_rows // self.images_per_shard


@dataclass(frozen=True)
class PlanSettings:
    """What a plan depends on besides the pairs, the seed and the epoch."""

    lanes: int
    window_shards: int
    global_batch_size: int
    pairs_per_image: int = 1

    @property
    def pairs_per_lane_step(self) -> int:
        """Pairs that one lane gives to one step."""
        return self.global_batch_size // self.lanes

    def steps_per_epoch(self, num_pairs: int) -> int:
        """Full steps in an epoch; the incomplete rest of each lane is left out of that epoch.

        Raises:
            ConfigError: there are not enough pairs for one step.
        """
        steps = num_pairs // self.lanes // self.pairs_per_lane_step
        if not steps:
            raise ConfigError(
                f"train.global_batch_size={self.global_batch_size} is more than the {num_pairs} "
                "pairs of the split; make it smaller, or read more sources"
            )
        return steps


@dataclass(frozen=True)
class LanePlan:
    """One lane of one epoch.

    ``pair_ids`` holds the pairs in the order of their visit, ``steps x pairs_per_step``, and
    ``group_keys`` the pair id that names each one's group (with groups of one: its own).
    ``shards`` are in the order of first use; the lane holds shard i from ``first_step[i]`` to
    ``last_step[i]``, both included.
    """

    pair_ids: Int64[np.ndarray, "S P"]
    image_rows: Int64[np.ndarray, "S P"]
    group_keys: Int64[np.ndarray, "S P"]
    shards: Int64[np.ndarray, " D"]
    first_step: Int64[np.ndarray, " D"]
    last_step: Int64[np.ndarray, " D"]

    def live(self, step: int) -> Int64[np.ndarray, " W"]:
        """The shards of the lane's window at ``step``, in the order of first use."""
        return self.shards[(self.first_step <= step) & (step <= self.last_step)]


def plan_epoch(
    index: PairIndex, settings: PlanSettings, *, seed: int, epoch: int, lanes: range
) -> list[LanePlan]:
    """Plan the given lanes of an epoch.

    Args:
        index: the pairs that the run visits.
        settings: lanes, window, global batch, group size.
        seed: of the run.
        epoch: from 0.
        lanes: which lanes to plan (those of one rank); the others cost nothing.

    Raises:
        ConfigError: there are fewer pairs than one global batch.
    """
    steps = settings.steps_per_epoch(len(index))
    size = settings.pairs_per_image
    if size > 1:
        index = _shuffled_in_images(index, seed, epoch)
    group_keys, place = _groups(index, size, seed, epoch)
    order, start_of_shard = _order_by_shard(index, seed, epoch)
    lane_length = len(index) // settings.lanes
    mean_shard = len(index) / max(1, len(np.unique(index.shards)))
    spread = settings.window_shards * mean_shard
    key = start_of_shard + spread * place[order]
    plans = []
    for lane in lanes:
        cut = slice(lane * lane_length, (lane + 1) * lane_length)
        within = order[cut][np.argsort(key[cut], kind="stable")]
        if size > 1:
            within = within[_in_blocks(group_keys[within], size)]
        visited = within[: steps * settings.pairs_per_lane_step]
        plans.append(_lane(index, group_keys, visited, steps))
    return plans


def _order_by_shard(
    index: PairIndex, seed: int, epoch: int
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    """Positions into the index with the shards permuted, and where each one's shard starts."""
    shards, first, count = np.unique(index.shards, return_index=True, return_counts=True)
    shuffled = np.argsort(keyed.bits(seed, epoch, shards, Purpose.SHARD_ORDER), kind="stable")
    first, count = first[shuffled], count[shuffled]
    start = np.cumsum(count) - count
    starts = np.repeat(start, count)
    return np.repeat(first, count) + np.arange(len(index)) - starts, starts


def _shuffled_in_images(index: PairIndex, seed: int, epoch: int) -> PairIndex:
    """The same pairs, those of each image in the order of a draw of each."""
    draws = keyed.uniform(seed, epoch, index.pair_ids, Purpose.PAIR_JITTER, 2)
    order = np.argsort(index.image_rows + draws, kind="stable")  # stays within each image
    return replace(index, pair_ids=index.pair_ids[order])


def _groups(
    index: PairIndex, size: int, seed: int, epoch: int
) -> tuple[Int64[np.ndarray, " P"], Float64[np.ndarray, " P"]]:
    """For each pair, the first pair of its group, and where in [0, 1) of its image's spread it is.

    Consecutive pairs of an image make a group. The g groups of an image share the interval evenly,
    rotated by a draw of the image and jittered within their g-th by a draw of the group.
    """
    _, first, count = np.unique(index.image_rows, return_index=True, return_counts=True)
    number = np.arange(len(index)) - np.repeat(first, count)
    keys = index.pair_ids[np.arange(len(index)) - number % size]
    groups = np.repeat(-(-count // size), count)
    turn = keyed.integers(seed, epoch, index.image_rows, Purpose.PAIR_JITTER, 1, below=groups)
    jitter = keyed.uniform(seed, epoch, keys, Purpose.PAIR_JITTER)
    return keys, ((number // size + turn) % groups + jitter) / groups


def _in_blocks(group_keys: Int64[np.ndarray, " L"], size: int) -> Int64[np.ndarray, " L"]:
    """An order of a lane's pairs in which no full group crosses a multiple of ``size``.

    The pairs of smaller groups are gathered into blocks of ``size``; a block stands where the first
    of its pairs stood. What is left of them comes last.
    """
    begins = np.flatnonzero(np.diff(group_keys, prepend=-1))
    lengths = np.diff(begins, append=len(group_keys))
    place = np.repeat(begins, lengths)
    loose = np.flatnonzero(np.repeat(lengths < size, lengths))
    place[loose] = loose[np.arange(len(loose)) // size * size]
    place[loose[len(loose) - len(loose) % size :]] = len(group_keys)
    return np.argsort(place, kind="stable")


def _lane(
    index: PairIndex,
    group_keys: Int64[np.ndarray, " P"],
    visited: Int64[np.ndarray, " V"],
    steps: int,
) -> LanePlan:
    shards = index.shards[visited]
    per_step = len(visited) // steps
    used, first = np.unique(shards, return_index=True)
    last = len(shards) - 1 - np.unique(shards[::-1], return_index=True)[1]
    by_first_use = np.argsort(first, kind="stable")
    return LanePlan(
        pair_ids=index.pair_ids[visited].reshape(steps, per_step),
        image_rows=index.image_rows[visited].reshape(steps, per_step),
        group_keys=group_keys[visited].reshape(steps, per_step),
        shards=used[by_first_use],
        first_step=first[by_first_use] // per_step,
        last_step=last[by_first_use] // per_step,
    )


def lanes_of_rank(lanes: int, rank: int, world_size: int) -> range:
    """The contiguous slice of lanes that a rank owns.

    Raises:
        ConfigError: the ranks do not divide the lanes.
    """
    if lanes % world_size:
        raise ConfigError(
            f"{world_size} ranks do not divide data.lanes={lanes}; "
            f"use a number of ranks that does, or set data.lanes to a multiple of {world_size}"
        )
    share = lanes // world_size
    return range(rank * share, (rank + 1) * share)
