"""Carries a plan out: reads shards ahead, gathers pairs, collates, and hands out steps."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from jaxtyping import Int64

from lxmert_dist.errors import ConfigError
from lxmert_dist.schema import Collate, DonorPool, PairBatch, StepBatch
from lxmert_dist.store import Split
from lxmert_dist.stream.forecast import Forecast
from lxmert_dist.stream.identity import identity
from lxmert_dist.stream.passes import Pass, pairs_of_pass, whole_passes
from lxmert_dist.stream.plan import LanePlan, PairIndex, PlanSettings, lanes_of_rank, plan_epoch
from lxmert_dist.stream.stays import check_memory, shards_needed
from lxmert_dist.stream.window import ShardWindow, WindowPool


@dataclass(frozen=True)
class Rank:
    """Which part of every step a loader delivers."""

    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True)
class Position:
    """Where a run is in its data: the next step to visit."""

    epoch: int = 0
    """Number of the pass."""
    step: int = 0
    """Within the pass."""


@dataclass(frozen=True)
class LoaderSettings:
    """How much is read and kept ahead."""

    micro_batch_size: int
    prefetch_steps: int = 4
    """Steps that are collated and wait."""
    read_ahead_steps: int = 64
    """Steps before its first use at which a shard is asked for, in training."""
    reader_threads: int = 2
    memory_bytes: int = 0
    """Bound of the features that are held, of training; 0 is what the plan needs."""


class Steps(Protocol):
    """What produces a loader's steps in its background thread."""

    def __call__(self, window: ShardWindow) -> Iterator[StepBatch]:
        """Yield the steps in order, reading through ``window``."""
        ...


def index_pairs(split: Split, sources: tuple[str, ...]) -> PairIndex:
    """The pairs of a split whose source is wanted (all, if none is named).

    Raises:
        ConfigError: the split has no such source.
    """
    table = split.sentences
    unknown = sorted(set(sources) - set(table.sources))
    if unknown:
        raise ConfigError(
            f"data.sources names {', '.join(unknown)}, but the store has "
            f"{', '.join(table.sources)}; name these"
        )
    wanted = [number for number, name in enumerate(table.sources) if not sources or name in sources]
    rows = table.image_rows.view(np.int32)
    if len(wanted) == len(table.sources):
        return PairIndex(np.arange(len(rows), dtype=np.int32), rows, split.images_per_shard)
    pair_ids = np.flatnonzero(np.isin(table.source_ids, wanted)).astype(np.int32)
    return PairIndex(pair_ids, rows[pair_ids], split.images_per_shard)


class Loader:
    """Iterates over :class:`StepBatch`; reading and collating run ahead in threads of this process.

    Use it as a context manager: leaving it ends every thread, also after an error. An error of a
    reader or of the collation is raised in the loop, at the step that needed it.
    """

    def __init__(self, split: Split, steps: Steps, settings: LoaderSettings) -> None:
        """Prepare to carry out ``steps`` on ``split``; nothing is read before ``__enter__``."""
        most = settings.memory_bytes // split.shard_bytes if settings.memory_bytes else None
        self.window = ShardWindow(split, settings.reader_threads, most)
        self._split = split
        self._steps = steps
        self._ready: queue.Queue[StepBatch | BaseException | None] = queue.Queue(
            settings.prefetch_steps
        )
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._produce, name="loader", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self.window.stop()
        while self._thread.is_alive():
            self._drain()
            self._thread.join(timeout=0.05)
        self.window.close()

    def __iter__(self) -> Iterator[StepBatch]:
        while True:
            started = time.perf_counter()
            item = self._ready.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield replace(item, wait_seconds=time.perf_counter() - started)

    def stats(self) -> dict[str, float]:
        """``Split.take_stats``, and as ``window_bytes`` the memory of the window's buffers."""
        return {**self._split.take_stats(), "window_bytes": self.window.held_bytes}

    def _produce(self) -> None:
        try:
            for step in self._steps(self.window):
                self._put(step)
                if self._stopped.is_set():
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: StepBatch | BaseException | None) -> None:
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._ready.put(item, timeout=0.1)
                return

    def _drain(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._ready.get_nowait()


@dataclass(frozen=True)
class TrainingSteps:
    """The steps of a rank from a position on, pass after pass, until ``passes`` are done.

    ``passes`` as a number means as many over every pair of ``index``.
    """

    split: Split
    index: PairIndex
    """Every pair that some pass may visit."""
    plan: PlanSettings
    settings: LoaderSettings
    collate: Collate
    seed: int
    passes: Sequence[Pass] | int
    rank: Rank = Rank()
    start: Position = Position()
    node_lanes: range | None = None
    """Lanes of all ranks of this node, which share a cache; None where there is no cache."""

    def __call__(self, window: ShardWindow) -> Iterator[StepBatch]:
        """Yield the steps in order, reading through ``window``.

        Raises:
            ConfigError: ``settings.memory_bytes`` is less than a pass needs.
        """
        passes = self.passes
        if isinstance(passes, int):
            passes = whole_passes(self.index, self.plan, passes)
        forecast = None
        if self.node_lanes is not None:
            # Of all pairs: nearly where the shards are in a pass that visits a share of them.
            forecast = Forecast(
                self.index, self.plan, seed=self.seed, epochs=len(passes), lanes=self.node_lanes
            )
        for one in passes[self.start.epoch :]:
            first = self.start.step if one.number == self.start.epoch else 0
            yield from self._pass(window, one, first, forecast)

    def _pass(
        self, window: ShardWindow, one: Pass, first: int, forecast: Forecast | None
    ) -> Iterator[StepBatch]:
        numbers = lanes_of_rank(self.plan.lanes, self.rank.rank, self.rank.world_size)
        index = pairs_of_pass(self.split, self.index, one, self.seed)
        whole = plan_epoch(index, self.plan, seed=self.seed, epoch=one.number, lanes=numbers)
        lanes = [lane.until(one.steps) for lane in whole]
        ahead = self.settings.read_ahead_steps
        check_memory(
            self.settings.memory_bytes, self.split.shard_bytes, shards_needed(lanes, ahead)
        )
        if forecast is not None:
            forecast.begin(one.number)
        for step in range(first, one.steps):
            place = one.number + step / one.steps
            # Memory is given in the order of the calls: what is needed sooner comes first.
            for due in range(step if step == first else step + ahead, step + ahead + 1):
                for number, lane in zip(numbers, lanes, strict=True):
                    shards = (
                        lane.live(step) if due == first else lane.shards[lane.first_step == due]
                    )
                    uses = None
                    if forecast is not None:
                        uses = forecast.next_uses(number, shards.tolist(), place)
                    window.hold(number, shards, uses)
            yield self._step(window, lanes, one.number, step)
            for number, lane in zip(numbers, lanes, strict=True):
                window.release(number, lane.shards[lane.last_step == step])

    def _step(self, window: ShardWindow, lanes: list[LanePlan], epoch: int, step: int) -> StepBatch:
        """One step; nothing in it refers to the window any more."""
        visit = Visit(
            epoch=epoch,
            step=step,
            pair_ids=_joined([lane.pair_ids[step] for lane in lanes]),
            image_rows=_joined([lane.image_rows[step] for lane in lanes]),
            group_keys=_joined([lane.group_keys[step] for lane in lanes]),
            pool_ids=np.repeat(np.arange(len(lanes)), self.plan.pairs_per_lane_step),
        )
        pools = [WindowPool(window, lane.live(step), self.split.num_boxes) for lane in lanes]
        pairs = gather(self.split, window, visit, pools)
        return collate_step(pairs, self.settings.micro_batch_size, self.collate)


def _joined(parts: list[np.ndarray]) -> Int64[np.ndarray, " B"]:
    return np.concatenate(parts, dtype=np.int64)


@dataclass(frozen=True)
class EvaluationSteps:
    """Every pair once, in the store's order, one micro-batch a step; nothing is left out.

    No pairs share an image, and donor objects come from a pair's own shard, so that fixed draws
    give fixed inputs whatever the batch and the number of ranks. All ranks make the same number of
    steps; where a rank has no pair left it repeats its last one and ``counted`` is told so.
    """

    split: Split
    index: PairIndex
    batch_size: int
    collate: Collate
    rank: Rank = Rank()

    def __call__(self, window: ShardWindow) -> Iterator[StepBatch]:
        """Yield the steps in order, reading through ``window``."""
        cuts = self._cuts()
        shards_of = self.index.shards
        for step, positions in enumerate(cuts):
            for reader, soon in enumerate(cuts[step : step + 2], start=step):
                window.hold(reader, np.unique(shards_of[soon]))
            pair_ids = self.index.pair_ids[positions].astype(np.int64)
            rows = self.index.image_rows[positions].astype(np.int64)
            shards, pool_ids = np.unique(shards_of[positions], return_inverse=True)
            pools = [
                WindowPool(window, shards[k : k + 1], self.split.num_boxes)
                for k in range(len(shards))
            ]
            visit = Visit(0, step, pair_ids, rows, group_keys=pair_ids, pool_ids=pool_ids)
            pairs = gather(self.split, window, visit, pools)
            batch = collate_step(pairs, len(pair_ids), self.collate)
            yield replace(batch, counted=step < self._own_steps())
            window.release(step, shards)

    def _share(self) -> tuple[int, int]:
        world, total = self.rank.world_size, len(self.index)
        return total * self.rank.rank // world, total * (self.rank.rank + 1) // world

    def _own_steps(self) -> int:
        begin, end = self._share()
        return -(-(end - begin) // self.batch_size)

    def _cuts(self) -> list[np.ndarray]:
        """Positions in the index, step by step; as many steps as the largest share needs."""
        begin, end = self._share()
        largest = -(-len(self.index) // self.rank.world_size)
        firsts = range(begin, begin + largest, self.batch_size)
        return [
            np.arange(first, min(first + self.batch_size, end))
            if first < end
            else np.array([max(end - 1, 0)])
            for first in firsts
        ]


def limit_pairs(index: PairIndex, limit: int, choose: Callable[[int], np.ndarray]) -> PairIndex:
    """At most ``limit`` pairs of an index, those first in the permutation ``choose(n)``."""
    if not limit or limit >= len(index):
        return index
    kept = np.sort(choose(len(index))[:limit])
    return replace(index, pair_ids=index.pair_ids[kept], image_rows=index.image_rows[kept])


@dataclass(frozen=True)
class Visit:
    """What a rank visits in one step, pair by pair.

    Neighbours with the same group key and the same donor pool share one image.
    """

    epoch: int
    step: int
    pair_ids: Int64[np.ndarray, " B"]
    image_rows: Int64[np.ndarray, " B"]
    group_keys: Int64[np.ndarray, " B"]
    pool_ids: Int64[np.ndarray, " B"]


def gather(
    split: Split, window: ShardWindow, visit: Visit, donors: Sequence[DonorPool]
) -> PairBatch:
    """The pairs of a step and everything of their images, each image read once."""
    changes = [np.diff(ids, prepend=-1) != 0 for ids in (visit.group_keys, visit.pool_ids)]
    begins = np.logical_or(*changes)  # (B,), True where a pair has another image than the last
    rows = visit.image_rows[begins]  # (I,)
    return PairBatch(
        epoch=visit.epoch,
        step=visit.step,
        pair_ids=visit.pair_ids,
        image_index=np.cumsum(begins) - 1,
        image_rows=rows,
        object_keys=visit.group_keys[begins],
        roi_features=window.gather(rows),
        boxes=split.boxes[rows],
        object_ids=split.object_ids[rows].astype(np.int64),
        object_scores=split.object_scores[rows].astype(np.float32),
        attribute_ids=split.attribute_ids[rows].astype(np.int64),
        attribute_scores=split.attribute_scores[rows].astype(np.float32),
        pool_ids=visit.pool_ids[begins],
        donors=donors,
        num_boxes=None if split.num_boxes is None else split.num_boxes[rows].astype(np.int64),
    )


def collate_step(pairs: PairBatch, micro_batch_size: int, collate: Collate) -> StepBatch:
    """Cut a rank's pairs into micro-batches and collate each."""
    starts = range(0, len(pairs.pair_ids), micro_batch_size)
    batches = [collate(pairs.select(slice(k, k + micro_batch_size))) for k in starts]
    images = len(pairs.image_rows)
    return StepBatch(
        pairs.epoch,
        pairs.step,
        batches,
        identity=sum(identity(batch) for batch in batches) % 2**64,
        images=images,
        repeats=images - len(np.unique(pairs.image_rows)),
    )
