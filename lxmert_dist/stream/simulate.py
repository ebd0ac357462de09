"""What an epoch will read, hold and repeat, rank by rank: its plan carried out without features.

It counts what :class:`~lxmert_dist.stream.loader.TrainingSteps` does: before step t a rank holds
the shards that its lanes need up to step t + ``read_ahead_steps``; a shard is read when the first
of its lanes holds it and dropped when the last lets go.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int64

from lxmert_dist.stream.plan import LanePlan, PairIndex, PlanSettings, lanes_of_rank, plan_epoch
from lxmert_dist.stream.stays import held_at_once, stays_of


@dataclass(frozen=True)
class RankLoad:
    """One rank's epoch; S steps.

    ``reads``: objects asked for before each step, those of the first step being the first fill of
    the window. ``window_bytes``: features held during each step, apart from steps that are
    collated and wait. ``repeats``: copies of an image beyond its first, within this rank's share of
    each step.
    """

    pairs: int
    bytes_read: int
    images: int
    """Copies of images that are gathered and encoded; a group of pairs shares one."""
    reads: Int64[np.ndarray, " S"]
    window_bytes: Int64[np.ndarray, " S"]
    repeats: Int64[np.ndarray, " S"]

    @property
    def objects_read(self) -> int:
        """How many objects are read."""
        return int(self.reads.sum())


@dataclass(frozen=True)
class EpochLoad:
    """An epoch over all ranks; S steps.

    ``repeats``: copies of an image beyond its first in the global batch of each step.
    """

    ranks: list[RankLoad]
    repeats: Int64[np.ndarray, " S"]
    left_out: int
    """Pairs that are not visited in this epoch."""
    stored_bytes: int
    """Of all feature objects."""

    @property
    def steps(self) -> int:
        """S, how many global batches there are."""
        return len(self.repeats)

    @property
    def pairs(self) -> int:
        """How many pairs all ranks visit."""
        return sum(load.pairs for load in self.ranks)

    @property
    def images(self) -> int:
        """Copies of images that all ranks gather."""
        return sum(load.images for load in self.ranks)

    @property
    def objects_read(self) -> int:
        """How many objects all ranks read."""
        return sum(load.objects_read for load in self.ranks)

    @property
    def bytes_read(self) -> int:
        """Features that all ranks read."""
        return sum(load.bytes_read for load in self.ranks)

    @property
    def read_ratio(self) -> float:
        """Bytes read over bytes in the store; 1 where every object is read once."""
        return self.bytes_read / self.stored_bytes

    @property
    def window_bytes(self) -> Int64[np.ndarray, " S"]:
        """Features that all ranks together hold during each step."""
        windows = np.stack([load.window_bytes for load in self.ranks])
        total: Int64[np.ndarray, " S"] = windows.sum(axis=0)
        return total

    @property
    def imbalance(self) -> float:
        """Bytes of the rank that reads most over their mean."""
        return max(load.bytes_read for load in self.ranks) * len(self.ranks) / self.bytes_read


def simulate_epoch(
    index: PairIndex,
    settings: PlanSettings,
    shard_bytes: Int64[np.ndarray, " D"],
    *,
    seed: int,
    epoch: int,
    world_size: int,
    read_ahead_steps: int,
) -> EpochLoad:
    """Plan an epoch for all ranks and count.

    Args:
        index: the pairs that the run visits.
        settings: of the plan.
        shard_bytes: of every feature object of the split, also of those that no pair needs.
        seed: of the run.
        epoch: from 0.
        world_size: number of ranks; must divide the lanes.
        read_ahead_steps: as in ``LoaderSettings``.

    Raises:
        ConfigError: the ranks do not divide the lanes, or there are fewer pairs than one step
            takes.
    """
    slices = [lanes_of_rank(settings.lanes, rank, world_size) for rank in range(world_size)]
    lanes = plan_epoch(index, settings, seed=seed, epoch=epoch, lanes=range(settings.lanes))
    ranks = [
        _rank([lanes[number] for number in numbers], shard_bytes, read_ahead_steps)
        for numbers in slices
    ]
    return EpochLoad(
        ranks=ranks,
        repeats=_repeats(_images(lanes)),
        left_out=len(index) - sum(load.pairs for load in ranks),
        stored_bytes=int(shard_bytes.sum()),
    )


def _rank(
    lanes: list[LanePlan], shard_bytes: Int64[np.ndarray, " D"], read_ahead_steps: int
) -> RankLoad:
    steps = len(lanes[0].pair_ids)
    stays = stays_of(lanes, read_ahead_steps)
    sizes = shard_bytes[stays.shards]
    images = _images(lanes)
    return RankLoad(
        pairs=sum(lane.pair_ids.size for lane in lanes),
        bytes_read=int(sizes.sum()),
        images=int((images >= 0).sum()),
        reads=np.bincount(stays.begin, minlength=steps),
        window_bytes=held_at_once(stays.begin, stays.end, sizes, steps),
        repeats=_repeats(images),
    )


def _images(lanes: list[LanePlan]) -> Int[np.ndarray, "S P"]:
    """The image of each pair of each step; -1 where a pair shares its neighbour's copy."""
    return np.concatenate(
        [
            np.where(np.diff(lane.group_keys, axis=1, prepend=-1) != 0, lane.image_rows, -1)
            for lane in lanes
        ],
        axis=1,
    )


def _repeats(images: Int[np.ndarray, "S P"]) -> Int64[np.ndarray, " S"]:
    """Copies of an image beyond its first in each step, those that are shared left out."""
    ordered = np.sort(images, axis=1)
    same = (np.diff(ordered, axis=1) == 0) & (ordered[:, 1:] >= 0)
    counts: Int64[np.ndarray, " S"] = same.sum(axis=1)
    return counts
