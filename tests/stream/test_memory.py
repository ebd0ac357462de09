"""Features are held in as few buffers as the plan says, which is enough, and nothing hangs."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from lxmert_dist.errors import ConfigError, StoreError
from lxmert_dist.schema import AnswerTargets, MicroBatch, ModelInputs, PairBatch
from lxmert_dist.store import open_store
from lxmert_dist.stream.loader import (
    EvaluationSteps,
    Loader,
    LoaderSettings,
    Position,
    Rank,
    TrainingSteps,
    index_pairs,
)
from lxmert_dist.stream.plan import LanePlan, PlanSettings, plan_epoch
from lxmert_dist.stream.stays import check_memory, most_shards_needed, shards_needed
from lxmert_dist.tasks.inputs import to_tensor
from tiny_store import make_tiny_store

SEED = 7
ALONE, START = Rank(), Position()
PLAN = PlanSettings(lanes=4, window_shards=2, global_batch_size=32)
SETTINGS = LoaderSettings(
    micro_batch_size=32, prefetch_steps=2, read_ahead_steps=2, reader_threads=3
)


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """40 shards of 4 images."""
    uri = str(tmp_path_factory.mktemp("memory") / "store")
    make_tiny_store(uri, images_per_shard=4)
    return open_store(uri).split("train")


def digest(pairs: PairBatch) -> MicroBatch:
    """Every feature, and one of a donor of each pool, as a batch that refers to nothing else."""
    donors = [d.gather(np.array([d.num_images - 1]), np.array([0])).sum() for d in pairs.donors]
    sums = pairs.roi_features.astype(np.float32).sum(axis=(1, 2))[pairs.image_index]
    inputs = ModelInputs.pack(
        to_tensor(pairs.image_rows[pairs.image_index, None]),
        to_tensor(np.ones((len(pairs.pair_ids), 1), bool)),
        to_tensor(pairs.roi_features.astype(np.float32)),
        to_tensor(pairs.boxes),
        to_tensor(pairs.image_index),
    )
    scores = np.stack([sums, np.resize(donors, len(sums)).astype(np.float32)], axis=1)
    return MicroBatch(to_tensor(pairs.pair_ids), inputs, AnswerTargets(to_tensor(scores)), {})


def loader_of(split, settings=SETTINGS, plan=PLAN, epochs=2, rank=ALONE, start=START):
    index = index_pairs(split, ())
    steps = TrainingSteps(split, index, plan, settings, digest, SEED, epochs, rank, start)
    return Loader(split, steps, settings)


def everything(loader: Loader, found: list[bytes] | None = None) -> list[bytes]:
    """The bytes of every batch; they are put into ``found`` as they come."""
    found = [] if found is None else found
    with loader:
        for step in loader:
            for batch in step.micro_batches:
                tensors = (batch.pair_ids, batch.targets.scores, batch.inputs.roi_features)
                found.append(b"".join(tensor.numpy().tobytes() for tensor in tensors))
    return found


def needed(split, plan, settings, world_size, epochs=2) -> int:
    return most_shards_needed(
        index_pairs(split, ()),
        plan,
        seed=SEED,
        epochs=range(epochs),
        world_size=world_size,
        read_ahead_steps=settings.read_ahead_steps,
    )


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(("lanes", "prefetch"), [(4, 1), (4, 6), (8, 2), (16, 3)])
def test_the_least_memory_is_enough_and_gives_the_same_batches(train, lanes, prefetch, world_size):
    plan = replace(PLAN, lanes=lanes)
    settings = replace(SETTINGS, prefetch_steps=prefetch, read_ahead_steps=prefetch)
    least = needed(train, plan, settings, world_size)
    bounded = replace(settings, memory_bytes=least * train.shard_bytes)
    for number in range(world_size):
        rank = Rank(number, world_size)
        free = loader_of(train, settings, plan, rank=rank)
        tight = loader_of(train, bounded, plan, rank=rank)
        assert everything(tight) == everything(free)
        assert tight.window.slabs.made <= least


def test_less_than_the_least_is_refused_with_what_is_enough(train):
    least = needed(train, PLAN, SETTINGS, 1, epochs=1)
    settings = replace(SETTINGS, memory_bytes=least * train.shard_bytes - 1)
    with pytest.raises(ConfigError, match=rf"data.memory_gib.* up to {least} shards"):
        everything(loader_of(train, settings, epochs=1))


def test_the_value_that_is_named_is_enough():
    shard_bytes = 9_437_188
    for shards in (1, 7, 100, 511):
        with pytest.raises(ConfigError) as caught:
            check_memory(shards * shard_bytes - 1, shard_bytes, shards)
        value = float(str(caught.value).split("at least ")[1].split(",")[0])
        check_memory(int(value * 2**30), shard_bytes, shards)
        assert value * 2**30 < shards * shard_bytes + 2**30 / 900
    check_memory(0, shard_bytes, 10**6)


def simulated_need(lanes: list[LanePlan], prefetch: int) -> int:
    """Buffers in use when the last shard of a step is waited for, with sets and loops."""
    most, held = 0, {}
    for step in range(len(lanes[0].pair_ids)):
        for number, lane in enumerate(lanes):
            for shard, first in zip(lane.shards.tolist(), lane.first_step.tolist(), strict=True):
                if step == max(0, first - prefetch):
                    users, soonest = held.get(shard, (set(), first))
                    held[shard] = (users | {number}, min(soonest, first))
        most = max(most, sum(first <= step for _, first in held.values()))
        for number, lane in enumerate(lanes):
            for shard in lane.shards[lane.last_step == step].tolist():
                held[shard][0].discard(number)
                if not held[shard][0]:
                    del held[shard]
    return most


@pytest.mark.parametrize(("lanes", "prefetch"), [(1, 1), (4, 9), (16, 2), (16, 30)])
def test_the_least_is_what_a_plain_count_says(train, lanes, prefetch):
    plan = replace(PLAN, lanes=lanes)
    for epoch in range(4):
        planned = plan_epoch(
            index_pairs(train, ()), plan, seed=SEED, epoch=epoch, lanes=range(lanes)
        )
        assert shards_needed(planned, prefetch) == simulated_need(planned, prefetch)


@pytest.mark.parametrize("start", [Position(0, 3), Position(1, 9)])
def test_the_least_memory_is_enough_after_a_resume(train, start):
    plan = replace(PLAN, lanes=16)
    least = needed(train, plan, SETTINGS, 1)
    bounded = replace(SETTINGS, memory_bytes=least * train.shard_bytes)
    rest = everything(loader_of(train, bounded, plan, start=start))
    assert everything(loader_of(train, plan=plan))[-len(rest) :] == rest


def test_no_more_buffers_are_made_in_later_epochs(train):
    made = set()
    loader = loader_of(train, epochs=6)
    with loader:
        for step in loader:
            if step.epoch >= 2:
                made.add(loader.window.slabs.made)
    assert max(made) <= 2 + min(made)
    assert max(made) < train.num_shards


def test_nothing_that_a_step_hands_on_keeps_a_buffer(train):
    """With all steps kept, a bounded pool would stand still."""
    least = needed(train, PLAN, SETTINGS, 1)
    bounded = replace(SETTINGS, memory_bytes=least * train.shard_bytes)
    with loader_of(train, bounded) as loader:
        assert len(list(loader)) > 20


def test_evaluation_holds_what_two_steps_need(train):
    loader = Loader(train, EvaluationSteps(train, index_pairs(train, ()), 16, digest), SETTINGS)
    with loader:
        for _ in loader:
            assert loader.window.held_bytes <= 8 * train.shard_bytes
    assert loader.window.slabs.made <= 8


class Faulty:
    """A split that fails, or stands still, at a shard."""

    def __init__(self, split, shard: int, fault: str = "fail") -> None:
        self._split, self._shard, self._fault = split, shard, fault
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __getattr__(self, name):
        return getattr(self._split, name)

    def read_shard(self, shard, **how):
        if shard == self._shard:
            self.reached.set()
            if self._fault == "fail":
                raise StoreError(f"shard {shard} is out of reach")
            assert self.go_on.wait(30)
        return self._split.read_shard(shard, **how)


def test_a_failed_read_does_not_take_the_memory_of_what_comes_before(train):
    least = needed(train, PLAN, SETTINGS, 1, epochs=1)
    bounded = replace(SETTINGS, memory_bytes=least * train.shard_bytes)
    lanes = plan_epoch(index_pairs(train, ()), PLAN, seed=SEED, epoch=0, lanes=range(4))
    uses = sorted(
        (first, shard)
        for lane in lanes
        for shard, first in zip(lane.shards.tolist(), lane.first_step.tolist(), strict=True)
    )
    once = [use for use in uses if sum(use[1] == shard for _, shard in uses) == 1]
    step, shard = once[-1]
    before = threading.active_count()
    done = []
    with pytest.raises(StoreError, match="out of reach"):
        everything(loader_of(Faulty(train, shard), bounded), done)
    assert threading.active_count() == before
    assert done == everything(loader_of(train, epochs=1))[:step]
    assert step > 10


def test_leaving_while_readers_wait_for_memory_ends_every_thread(train):
    """One read stands still with the whole line behind it; it goes on when all others gave up."""
    least = needed(train, PLAN, SETTINGS, 1)
    settings = replace(SETTINGS, memory_bytes=least * train.shard_bytes)
    index = index_pairs(train, ())
    lanes = plan_epoch(index, PLAN, seed=SEED, epoch=0, lanes=range(4))
    faulty = Faulty(train, int(lanes[0].shards[0]), "stand still")
    before = threading.active_count()
    with loader_of(faulty, settings):
        assert faulty.reached.wait(30)
        threading.Timer(0.3, faulty.go_on.set).start()
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
    assert threading.active_count() == before


def test_leaving_while_somebody_keeps_the_memory_ends_every_thread(train):
    least = needed(train, PLAN, SETTINGS, 1)
    loader = loader_of(train, replace(SETTINGS, memory_bytes=least * train.shard_bytes))
    slabs = loader.window.slabs
    hoard = [slabs.take(slabs.ticket()) for _ in range(least)]  # nothing is left for the plan
    before = threading.active_count()
    with loader:
        threading.Event().wait(0.2)
    assert threading.active_count() == before
    del hoard
