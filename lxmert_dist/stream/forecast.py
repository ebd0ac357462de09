"""When a node will want each shard again: what a cache on its disk needs to know.

Shards are permuted and cut into lanes by arithmetic on the shards alone, so that the coming epochs
cost milliseconds. How long an epoch takes is measured on the way. A forecast that is wrong costs
reads, never the order of the data.
"""

import math
import time

import numpy as np

from lxmert_dist.stream.plan import PairIndex, PlanSettings, shuffled_shards

LOOK_AHEAD = 16
"""How many epochs. What a node will not want in these, it may never want."""

EPOCH_S = 3600.0
"""How long an epoch takes before the first step is done: a guess."""


class Forecast:
    """Of some lanes, those of one node. Its epochs begin in turn, by :meth:`begin`."""

    def __init__(
        self, index: PairIndex, plan: PlanSettings, *, seed: int, epochs: int, lanes: range
    ) -> None:
        """Plan nothing yet.

        Args:
            index: the pairs that an epoch visits.
            plan: its settings.
            seed: of the run.
            epochs: of the run.
            lanes: of all ranks of this node.
        """
        self._index = index
        self._plan = plan
        self._seed = seed
        self._epochs = epochs
        self._lanes = lanes
        self._next: dict[tuple[int, int], float] = {}
        self._start: tuple[float, float] | None = None

    def begin(self, epoch: int) -> None:
        """Look ahead from an epoch on."""
        coming = range(epoch, min(epoch + LOOK_AHEAD, self._epochs))
        uses = np.concatenate([self._uses(number) for number in coming], axis=1)
        uses = uses[:, np.lexsort((uses[2], uses[0]))]
        shards, lanes, times = uses
        again = np.where(shards[1:] == shards[:-1], times[1:], np.inf)
        following = np.append(again, np.inf)
        now = times < epoch + 1
        keys = zip(lanes[now].astype(int).tolist(), shards[now].astype(int).tolist(), strict=True)
        self._next = dict(zip(keys, following[now].tolist(), strict=True))

    def next_uses(self, lane: int, shards: list[int], place: float) -> list[float]:
        """When shards are wanted again, after their use by a lane in the epoch that has begun.

        Args:
            lane: of this node.
            shards: of this lane.
            place: where the run is now, in epochs since its beginning.

        Returns:
            Seconds since 1970; infinity where none of the coming epochs says.
        """
        seconds = self._seconds_per_epoch(place)
        now = time.time()
        return [
            now + seconds * (self._next.get((lane, shard), math.inf) - place) for shard in shards
        ]

    def _seconds_per_epoch(self, place: float) -> float:
        now = time.monotonic()
        if self._start is None:
            self._start = (now, place)
        began, start = self._start
        return (now - began) / (place - start) if place > start else EPOCH_S

    def _uses(self, epoch: int) -> np.ndarray:
        """Shard, lane and time, in epochs, of each use in an epoch; (3, uses)."""
        line = shuffled_shards(self._index, self._seed, epoch)
        length = len(self._index) // self._plan.lanes
        # A lane begins without the sentences that earlier shards would have left to it.
        early = self._plan.window_shards * (len(self._index) / len(line.shards)) / 2
        first = line.start // length
        last = (line.start + line.count - 1) // length
        found = []
        for later in range(int((last - first).max()) + 1):
            lanes = first + later
            own = (lanes <= last) & (lanes >= self._lanes.start) & (lanes < self._lanes.stop)
            within = np.maximum(line.start - lanes * length - early, 0) / length
            found.append(np.stack([line.shards, lanes, epoch + within])[:, own])
        return np.concatenate(found, axis=1)
