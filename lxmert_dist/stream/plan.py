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

All draws but that of the shards belong to an image or a group of its pairs, so that a lane is
planned from the pairs of its own shards alone: a rank pays for its own lanes.

The state of a run in its data is (seed, epoch, step, ``PLAN_VERSION``, store digest).
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int, Int64

from lxmert_dist import keyed
from lxmert_dist.errors import ConfigError
from lxmert_dist.keyed import Purpose

PLAN_VERSION = 1
"""Changes whenever the same (seed, epoch) would give another order."""


@dataclass(frozen=True)
class PairIndex:
    """The pairs of a split that a run visits, and the image row of each; both ascend."""

    pair_ids: Int[np.ndarray, " P"]
    image_rows: Int[np.ndarray, " P"]
    images_per_shard: int

    def __len__(self) -> int:
        return len(self.pair_ids)

    @property
    def shards(self) -> Int64[np.ndarray, " P"]:
        """The shard of each pair."""
        return self.image_rows.astype(np.int64) // self.images_per_shard


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
                "pairs of an epoch; make it smaller, or read more of them"
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

    pair_ids: Int[np.ndarray, "S P"]
    image_rows: Int[np.ndarray, "S P"]
    group_keys: Int[np.ndarray, "S P"]
    shards: Int64[np.ndarray, " D"]
    first_step: Int64[np.ndarray, " D"]
    last_step: Int64[np.ndarray, " D"]

    def live(self, step: int) -> Int64[np.ndarray, " W"]:
        """The shards of the lane's window at ``step``, in the order of first use."""
        return self.shards[(self.first_step <= step) & (step <= self.last_step)]

    def until(self, steps: int) -> "LanePlan":
        """The first steps alone, as they are in the whole; what is held is let go with the last."""
        begun = self.first_step < steps
        return LanePlan(
            pair_ids=self.pair_ids[:steps],
            image_rows=self.image_rows[:steps],
            group_keys=self.group_keys[:steps],
            shards=self.shards[begun],
            first_step=self.first_step[begun],
            last_step=np.minimum(self.last_step[begun], steps - 1),
        )


def plan_epoch(
    index: PairIndex,
    settings: PlanSettings,
    *,
    seed: int,
    epoch: int,
    lanes: range,
) -> list[LanePlan]:
    """Plan the given lanes of an epoch.

    Args:
        index: the pairs that the epoch visits.
        settings: lanes, window, global batch, group size.
        seed: of the run.
        epoch: from 0.
        lanes: which lanes to plan (those of one rank); the others cost nothing.

    Raises:
        ConfigError: there are fewer pairs than one global batch.
    """
    visits = settings.steps_per_epoch(len(index)) * settings.pairs_per_lane_step
    line = shuffled_shards(index, seed, epoch)
    spread = settings.window_shards * (len(index) / len(line.shards))
    length = len(index) // settings.lanes
    plans = []
    for lane in lanes:
        stretch = _cut(line, lane * length, (lane + 1) * length)
        pairs = _pairs(index, stretch, settings.pairs_per_image, spread, seed, epoch)
        order = stable_order(pairs.key)
        if settings.pairs_per_image > 1:
            order = order[_in_blocks(pairs.group[order], settings.pairs_per_image)]
        plans.append(_lane(index, stretch, pairs, order, visits, settings.pairs_per_lane_step))
    return plans


@dataclass(frozen=True)
class _Line:
    """Shards laid end to end, and the part of them that is wanted."""

    shards: Int64[np.ndarray, " D"]
    first: Int64[np.ndarray, " D"]
    """Position of each one's first pair in the index."""
    count: Int64[np.ndarray, " D"]
    """Pairs of each."""
    start: Int64[np.ndarray, " D"]
    """Where each begins, on the line of all shards."""
    begin: int
    end: int


def shuffled_shards(index: PairIndex, seed: int, epoch: int) -> _Line:
    """All shards that have pairs, permuted."""
    rows = index.image_rows
    bounds = np.arange(0, int(rows[-1]) + 1 + index.images_per_shard, index.images_per_shard)
    offsets = np.searchsorted(rows, bounds.astype(rows.dtype))
    used = np.flatnonzero(np.diff(offsets))
    draws = keyed.bits(seed, epoch, used, Purpose.SHARD_ORDER)
    shards = used[np.argsort(draws, kind="stable")]
    first, count = offsets[shards], offsets[shards + 1] - offsets[shards]
    return _Line(shards, first, count, np.cumsum(count) - count, 0, len(index))


def _cut(line: _Line, begin: int, end: int) -> _Line:
    """The part of a line between two points, with the shards that it touches."""
    some = slice(
        int(np.searchsorted(line.start, begin, "right")) - 1,
        int(np.searchsorted(line.start, end)),
    )
    return _Line(
        line.shards[some], line.first[some], line.count[some], line.start[some], begin, end
    )


@dataclass(frozen=True)
class _Pairs:
    """The L pairs of a lane, in the order of the line."""

    position: Int64[np.ndarray, " L"]
    """In the index."""
    group: Int64[np.ndarray, " L"]
    """Position in the index of the first pair of its group."""
    key: Float64[np.ndarray, " L"]
    """Pairs are visited by ascending key; the unit is a pair of the line."""


def _pairs(
    index: PairIndex, stretch: _Line, size: int, spread: float, seed: int, epoch: int
) -> _Pairs:
    """The pairs of a stretch, those of an image spread over ``spread`` from its shard's start on.

    Consecutive pairs of an image make a group. The g groups of an image share the spread evenly,
    rotated by a draw of the image and jittered within their g-th by a draw of the group.
    """
    positions = _ranges(stretch.first, stretch.count)  # (n,), of all pairs of the shards
    rows = index.image_rows[positions]
    begins = np.flatnonzero(np.diff(rows, prepend=-1))
    counts = np.diff(begins, append=len(rows))
    number, within = np.divmod(_ranges(np.zeros_like(counts), counts), size)
    if size > 1:
        positions = _dealt(index, stretch, positions, seed, epoch)
    first = positions[np.arange(len(rows)) - within]
    groups = -(-counts // size)
    turn = keyed.integers(seed, epoch, rows[begins], Purpose.PAIR_JITTER, 1, below=groups)
    jitter = keyed.uniform(seed, epoch, index.pair_ids[first], Purpose.PAIR_JITTER)
    groups, place = np.repeat(groups, counts), number + np.repeat(turn, counts)
    place -= np.where(place >= groups, groups, 0)
    key = np.repeat(stretch.start, stretch.count) + spread * ((place + jitter) / groups)
    own = slice(stretch.begin - int(stretch.start[0]), stretch.end - int(stretch.start[0]))
    return _Pairs(positions[own], first[own], key[own])


def _ranges(
    first: Int64[np.ndarray, " D"], count: Int64[np.ndarray, " D"]
) -> Int64[np.ndarray, " n"]:
    """For each of D, ``count`` numbers from ``first`` on."""
    ranges: Int64[np.ndarray, " n"] = np.repeat(first - (np.cumsum(count) - count), count)
    ranges += np.arange(len(ranges))
    return ranges


def _dealt(
    index: PairIndex, stretch: _Line, positions: Int64[np.ndarray, " n"], seed: int, epoch: int
) -> Int64[np.ndarray, " n"]:
    """The same pairs, those of each image in the order of a draw of each."""
    draws = keyed.uniform(seed, epoch, index.pair_ids[positions], Purpose.PAIR_JITTER, 2)
    by_row = np.argsort(stretch.first)
    places = _ranges((stretch.start - stretch.start[0])[by_row], stretch.count[by_row])
    keys = (index.image_rows[positions] + draws)[places]
    dealt = np.empty_like(positions)
    dealt[places] = positions[places[stable_order(keys)]]  # stays within each image
    return dealt


def stable_order(keys: Float64[np.ndarray, " L"]) -> Int64[np.ndarray, " L"]:
    """``np.argsort(keys, kind="stable")``, several times faster.

    Keys and places are packed into words, which sort fast; keys that differ in their last bits
    only, and stand in the wrong order for that, are very few: then the slow sort decides.
    """
    place_bits = len(keys).bit_length()
    offsets = keys - keys.min()
    scale = 2.0 ** (64 - place_bits - math.frexp(float(offsets.max()))[1])
    packed = (offsets * scale).astype(np.uint64) << np.uint64(place_bits)
    packed |= np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    order: Int64[np.ndarray, " L"] = (packed & np.uint64((1 << place_bits) - 1)).astype(np.int64)
    ordered = keys[order]
    if (ordered[1:] < ordered[:-1]).any():
        order = np.argsort(keys, kind="stable")
    return order


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
    stretch: _Line,
    pairs: _Pairs,
    order: Int64[np.ndarray, " L"],
    visits: int,
    per_step: int,
) -> LanePlan:
    """The first ``visits`` of a lane's pairs, and when each shard is needed for them."""
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    begins = np.maximum(stretch.start - stretch.begin, 0)
    last = np.maximum.reduceat(np.where(rank < visits, rank, -1), begins)
    first = np.minimum.reduceat(rank, begins)
    used = np.flatnonzero(last >= 0)
    used = used[np.argsort(first[used])]
    visited, keys = pairs.position[order[:visits]], pairs.group[order[:visits]]
    pair_ids = index.pair_ids[visited].reshape(-1, per_step)
    return LanePlan(
        pair_ids=pair_ids,
        image_rows=index.image_rows[visited].reshape(-1, per_step),
        group_keys=index.pair_ids[keys].reshape(-1, per_step),
        shards=stretch.shards[used],
        first_step=first[used] // per_step,
        last_step=last[used] // per_step,
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


if __name__ == "__main__":  # python -m lxmert_dist.stream.plan: the command of this name takes over
    import runpy

    runpy.run_module("lxmert_dist.cli.plan", run_name="__main__", alter_sys=True)
