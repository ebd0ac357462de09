"""The simulation counts what the loader does, and what a plain simulation with sets finds."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lxmert_dist.errors import ConfigError
from lxmert_dist.schema import MicroBatch, PairBatch
from lxmert_dist.store import open_store
from lxmert_dist.stream import loader
from lxmert_dist.stream.loader import LoaderSettings, Position, Rank, TrainingSteps, index_pairs
from lxmert_dist.stream.plan import LanePlan, PairIndex, PlanSettings, lanes_of_rank, plan_epoch
from lxmert_dist.stream.simulate import EpochLoad, simulate_epoch
from lxmert_dist.stream.window import ShardWindow

PLAN = PlanSettings(lanes=4, window_shards=2, global_batch_size=32)
GROUPED = replace(PLAN, pairs_per_image=4)
SEED, EPOCH = 7, 1


@pytest.fixture(scope="module")
def train(tiny_store):
    return open_store(tiny_store).split("train")


@pytest.fixture(scope="module")
def shard_bytes(tiny_store):
    shards = open_store(tiny_store).manifest.splits["train"].shards
    return np.array([shard.chunk.num_bytes for shard in shards])


def simulate(index, plan, sizes, world_size, prefetch=2) -> EpochLoad:
    return simulate_epoch(
        index,
        plan,
        sizes,
        seed=SEED,
        epoch=EPOCH,
        world_size=world_size,
        read_ahead_steps=prefetch,
    )


def keep(pairs: PairBatch) -> MicroBatch:
    raise AssertionError("nothing is collated")


class Counted:
    """A split that remembers which shards were read."""

    def __init__(self, split):
        self._split = split
        self.read: list[int] = []

    def __getattr__(self, name):
        return getattr(self._split, name)

    def read_shard(self, shard, **how):
        self.read.append(shard)
        return self._split.read_shard(shard, **how)


def load_rank(split, plan, rank, prefetch):
    """An epoch of the loader's own steps: all reads, reads and window by step, what it gathered."""
    counted, reads, windows, seen = Counted(split), [], [], []
    settings = LoaderSettings(plan.global_batch_size, read_ahead_steps=prefetch)
    place = {"rank": rank, "start": Position(EPOCH, 0)}
    index = index_pairs(split, ())
    steps = TrainingSteps(counted, index, plan, settings, keep, SEED, EPOCH + 1, **place)
    window = ShardWindow(counted, threads=1)
    for pairs in steps(window):
        for shard in window._reads:
            window.shard(shard)  # until everything that was asked for has come
        reads.append(len(counted.read) - sum(reads))
        windows.append(list(window._reads))
        seen.append(pairs)
    assert not window._reads
    window.close()
    return counted.read, reads, windows, seen


def repeats(rows: list[int]) -> int:
    return sum(count - 1 for count in Counter(rows).values())


@pytest.mark.parametrize("plan", [PLAN, GROUPED], ids=["alone", "grouped"])
@pytest.mark.parametrize(("world_size", "prefetch"), [(1, 1), (2, 3), (4, 2)])
def test_it_counts_what_the_loader_does(
    train, shard_bytes, plan, world_size, prefetch, monkeypatch
):
    monkeypatch.setattr(loader, "collate_step", lambda pairs, *_: pairs)
    index = index_pairs(train, ())
    load = simulate(index, plan, shard_bytes, world_size, prefetch)
    everyone: list[list[int]] = [[] for _ in range(load.steps)]
    visited: list[int] = []
    for rank, own in enumerate(load.ranks):
        read, reads, windows, seen = load_rank(train, plan, Rank(rank, world_size), prefetch)
        assert own.objects_read == len(read)
        assert own.bytes_read == sum(shard_bytes[read])
        assert own.reads.tolist() == reads
        assert own.window_bytes.tolist() == [sum(shard_bytes[shards]) for shards in windows]
        images = [pairs.image_rows.tolist() for pairs in seen]
        assert own.images == sum(map(len, images))
        assert own.repeats.tolist() == [repeats(rows) for rows in images]
        assert own.pairs == sum(len(pairs.pair_ids) for pairs in seen)
        visited += [pair for pairs in seen for pair in pairs.pair_ids.tolist()]
        for step, rows in enumerate(images):
            everyone[step] += rows
    assert load.steps == len(seen)
    assert load.repeats.tolist() == [repeats(rows) for rows in everyone]
    assert load.pairs == len(set(visited))
    assert load.left_out == len(index) - len(visited)
    assert load.read_ratio == load.bytes_read / shard_bytes.sum()
    most = max(own.bytes_read for own in load.ranks)
    assert load.imbalance == pytest.approx(most / (load.bytes_read / world_size))


def make_index(images: int, images_per_shard: int = 64) -> PairIndex:
    """About as many sentences an image as the published data have: 51 on average."""
    sentences = np.random.default_rng(0).integers(10, 93, images)
    rows = np.repeat(np.arange(images), sentences)
    return PairIndex(np.arange(len(rows)), rows, images_per_shard)


def stays(lanes, prefetch: int) -> list[tuple[set[int], set[int]]]:
    """What is asked for and what is held in each step, with sets and loops."""
    found: list[tuple[set[int], set[int]]] = []
    holders: dict[int, set[int]] = {}
    for step in range(len(lanes[0].pair_ids)):
        asked = set()
        for number, lane in enumerate(lanes):
            for shard, first in zip(lane.shards.tolist(), lane.first_step.tolist(), strict=True):
                if step == max(0, first - prefetch):
                    if not holders.get(shard):
                        asked.add(shard)
                    holders.setdefault(shard, set()).add(number)
        found.append((asked, {shard for shard, who in holders.items() if who}))
        for number, lane in enumerate(lanes):
            for shard in lane.shards[lane.last_step == step].tolist():
                holders[shard].discard(number)
    return found


@pytest.mark.parametrize("world_size", [1, 3, 6])
@pytest.mark.parametrize(("lanes", "again", "shared"), [(6, 5, 0), (24, 0, 1)])
def test_shards_that_lanes_share_are_counted_as_they_are_held(lanes, again, shared, world_size):
    """``again``, ``shared``: at least so many are read twice by one rank, or once for two lanes."""
    index = make_index(300, images_per_shard=16)
    plan = PlanSettings(lanes, window_shards=1, global_batch_size=24)
    sizes = np.arange(100, 100 + index.shards.max() + 1)
    load = simulate(index, plan, sizes, world_size)
    for rank, own in enumerate(load.ranks):
        numbers = lanes_of_rank(lanes, rank, world_size)
        planned = plan_epoch(index, plan, seed=SEED, epoch=EPOCH, lanes=numbers)
        expected = stays(planned, 2)
        assert own.reads.tolist() == [len(asked) for asked, _ in expected]
        assert own.window_bytes.tolist() == [sum(sizes[list(held)]) for _, held in expected]
        assert own.bytes_read == sum(sum(sizes[list(asked)]) for asked, _ in expected)
        if world_size == 1:
            uses = sum(len(lane.shards) for lane in planned)
            assert own.objects_read >= again + len({s for _, held in expected for s in held})
            assert uses >= shared + own.objects_read


def lane_holding(first: int, last: int, steps: int = 10) -> LanePlan:
    """A lane that holds shard 3 in the given steps."""
    pairs = np.arange(steps)[:, None]
    shard, begin, end = (np.array([number]) for number in (3, first, last))
    return LanePlan(pairs, pairs, pairs, shard, begin, end)


@pytest.mark.parametrize(("first", "reads"), [(5, 1), (6, 1), (7, 2), (9, 2)])
def test_a_shard_is_held_before_it_is_let_go_in_the_same_step(monkeypatch, first, reads):
    """One lane holds it to the end of step 4, the other asks for it at ``first - 2``."""
    lanes = [lane_holding(first, 9), lane_holding(0, 4)]
    assert sum(len(asked & {3}) for asked, _ in stays(lanes, 2)) == reads
    monkeypatch.setattr("lxmert_dist.stream.simulate.plan_epoch", lambda *_, **__: lanes)
    load = simulate(make_index(1), PlanSettings(2, 1, 2), np.full(4, 7), 1)
    assert load.objects_read == reads
    assert load.bytes_read == 7 * reads
    assert load.window_bytes.tolist() == [7 if s <= 4 or s >= first - 2 else 0 for s in range(10)]


def test_every_rank_has_the_same_pairs_and_one_rank_reads_no_more_than_many():
    index = make_index(2000)
    plan = PlanSettings(lanes=8, window_shards=2, global_batch_size=64)
    sizes = np.full(32, 9437188)
    loads = {n: simulate(index, plan, sizes, n) for n in (1, 2, 4, 8)}
    for n, load in loads.items():
        assert {own.pairs for own in load.ranks} == {load.pairs // n}
        assert load.left_out == loads[1].left_out
        assert np.array_equal(load.repeats, loads[1].repeats)
        assert load.bytes_read >= loads[1].bytes_read
        assert load.imbalance >= 1
    assert loads[8].objects_read <= 32 + 8


def test_shards_of_unwanted_pairs_count_as_stored_and_not_as_read():
    index = make_index(640)
    kept = index.shards < 5
    some = PairIndex(index.pair_ids[kept], index.image_rows[kept], 64)
    plan = PlanSettings(lanes=1, window_shards=1, global_batch_size=32)
    load = simulate(some, plan, np.full(10, 10), 1)
    assert (load.bytes_read, load.stored_bytes, load.read_ratio) == (50, 100, 0.5)


def test_ranks_that_do_not_divide_the_lanes_are_refused():
    with pytest.raises(ConfigError, match="3 ranks do not divide"):
        simulate(make_index(100), PLAN, np.full(2, 1), 3)


def test_the_published_size_reads_each_byte_about_once():
    """9.18M pairs of 180K images on 64 ranks; seconds."""
    index = make_index(180_000)
    plan = PlanSettings(lanes=64, window_shards=8, global_batch_size=256)
    load = simulate(index, plan, np.full(2813, 9437188), 64, prefetch=4)
    assert load.read_ratio < 1.03  # measured 1.0224
    assert load.imbalance < 1.05  # measured 1.024
    assert load.repeats.mean() < 0.05  # measured 0.012
    assert load.window_bytes.max() < 6e9  # measured 4.95e9
    assert load.left_out < 2 * 256
