"""What every plan has, over random stores and settings."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from lxmert_dist.stream.plan import (
    LanePlan,
    PairIndex,
    PlanSettings,
    lanes_of_rank,
    plan_epoch,
    stable_order,
)

FIELDS = ("pair_ids", "image_rows", "group_keys", "shards", "first_step", "last_step")


@dataclass(frozen=True)
class Case:
    """A store and how an epoch of it is cut."""

    index: PairIndex
    settings: PlanSettings
    seed: int
    epoch: int

    def plan(self, lanes: range | None = None) -> list[LanePlan]:
        return plan_epoch(
            self.index,
            self.settings,
            seed=self.seed,
            epoch=self.epoch,
            lanes=range(self.settings.lanes) if lanes is None else lanes,
        )


def random_case(number: int) -> Case:
    """Images without sentences, shards of one image, gaps in the ids, groups of 1 to 8 pairs."""
    draw = np.random.default_rng(number)
    sentences = draw.integers(0, draw.integers(2, 60), draw.integers(100, 800))
    rows = np.repeat(np.arange(len(sentences)), sentences)
    ids = np.sort(draw.choice(3 * len(rows), len(rows), replace=False))
    lanes, dtype = int(draw.choice([8, 16])), draw.choice([np.int32, np.int64])
    index = PairIndex(ids.astype(dtype), rows.astype(dtype), int(draw.integers(1, 33)))
    per_lane = int(draw.integers(1, max(2, min(9, len(rows) // lanes))))
    window, size = int(draw.integers(1, 9)), int(draw.choice([1, 2, 3, 4, 8]))
    settings = PlanSettings(lanes, window, lanes * per_lane, size)
    return Case(index, settings, int(draw.integers(1000)), int(draw.integers(50)))


@pytest.fixture(params=range(24))
def case(request) -> Case:
    return random_case(request.param)


def same(one: LanePlan, other: LanePlan) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in FIELDS)


def test_no_pair_is_lost_or_repeated(case):
    lanes, per_step = case.plan(), case.settings.pairs_per_lane_step
    seen = np.concatenate([lane.pair_ids.ravel() for lane in lanes])
    assert len(np.unique(seen)) == len(seen)
    row_of = dict(zip(case.index.pair_ids.tolist(), case.index.image_rows.tolist(), strict=True))
    rows = np.concatenate([lane.image_rows.ravel() for lane in lanes])
    assert [row_of[pair] for pair in seen.tolist()] == rows.tolist()
    keys = np.concatenate([lane.group_keys.ravel() for lane in lanes])
    assert [row_of[pair] for pair in keys.tolist()] == rows.tolist()
    # Less than a step of each lane, and less than a pair a lane where the cuts fall.
    assert len(case.index) - len(seen) < case.settings.lanes * (per_step + 1)


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_a_rank_plans_its_lanes_as_one_rank_plans_all(case, world_size):
    shares = [lanes_of_rank(case.settings.lanes, rank, world_size) for rank in range(world_size)]
    many = [lane for share in shares for lane in case.plan(share)]
    assert all(map(same, many, case.plan()))


def test_shards_are_held_from_their_first_to_their_last_pair(case):
    for lane in case.plan():
        used: dict[int, list[int]] = {}
        for step, rows in enumerate(lane.image_rows // case.index.images_per_shard):
            for shard in rows.tolist():
                used.setdefault(shard, []).append(step)
        assert list(used) == lane.shards.tolist()
        assert [steps[0] for steps in used.values()] == lane.first_step.tolist()
        assert [steps[-1] for steps in used.values()] == lane.last_step.tolist()


def test_the_pairs_of_a_shard_stay_within_the_window(case):
    alone = replace(case, settings=replace(case.settings, pairs_per_image=1))
    counts = np.unique(case.index.shards, return_counts=True)[1]
    window = case.settings.window_shards * counts.mean()
    for lane in alone.plan():
        shards = lane.image_rows.ravel() // case.index.images_per_shard
        for shard in lane.shards:
            visits = np.flatnonzero(shards == shard)
            # All that may come between: what starts within the window.
            assert visits[-1] - visits[0] <= window + 2 * counts.max()


def test_an_epoch_that_ends_early_is_the_beginning_of_the_whole(case):
    for whole in case.plan():
        steps = (len(whole.pair_ids) + 1) // 2
        part = whole.until(steps)
        for name in ("pair_ids", "image_rows", "group_keys"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)[:steps])
        assert all(np.array_equal(part.live(k), whole.live(k)) for k in range(steps))
        assert part.last_step.max() < steps


@pytest.mark.parametrize("levels", [1, 3, 500, 2**40])
@pytest.mark.parametrize("scale", [2.0**-60, 0.37, 1e9])
def test_the_fast_sort_is_the_stable_one(levels, scale):
    for size in (1, 2, 7, 1024, 5000):
        draw = np.random.default_rng(size)
        keys = scale * (3 + draw.integers(0, levels, size) / levels)
        assert np.array_equal(stable_order(keys), np.argsort(keys, kind="stable"))


def test_keys_that_differ_in_their_last_bit_alone_are_told_apart():
    close = np.nextafter(1.0, 2.0)
    keys = np.array([0.0, close, 1.0, 4096.0])
    assert stable_order(keys).tolist() == [0, 2, 1, 3]
