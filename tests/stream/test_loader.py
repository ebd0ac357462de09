"""The loader carries the plan out: right features, same steps for any rank, errors, no leaks."""

import threading

import numpy as np
import pytest

from lxmert_dist.config import ObjectivesConfig
from lxmert_dist.errors import ConfigError, CorruptObjectError
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
    limit_pairs,
)
from lxmert_dist.stream.plan import PlanSettings
from lxmert_dist.tasks import pretraining_collate
from lxmert_dist.tasks.inputs import to_tensor

SETTINGS = LoaderSettings(micro_batch_size=8, prefetch_steps=2)
PLAN = PlanSettings(lanes=4, window_shards=2, global_batch_size=32)

ALONE, START = Rank(), Position()


@pytest.fixture(scope="module")
def store(tiny_store):
    return open_store(tiny_store)


@pytest.fixture(scope="module")
def train(store):
    return store.split("train")


def keep(pairs: PairBatch) -> MicroBatch:
    """A collate that passes everything on, with the donors' first features as scores."""
    donors = np.stack(
        [pairs.donors[p].gather(np.zeros(1, int), np.zeros(1, int))[0] for p in pairs.pool_ids]
    )
    inputs = ModelInputs(
        to_tensor(pairs.image_rows[:, None]),
        to_tensor(np.ones((len(pairs.image_rows), 1), bool)),
        to_tensor(pairs.roi_features.astype(np.float32)),
        to_tensor(pairs.boxes),
    )
    return MicroBatch(
        to_tensor(pairs.pair_ids), inputs, AnswerTargets(to_tensor(donors.astype(np.float32))), {}
    )


def steps_of(split, collate=keep, rank=ALONE, start=START, epochs=2, **changes):
    index = index_pairs(split, changes.pop("sources", ()))
    steps = TrainingSteps(split, index, PLAN, SETTINGS, collate, 7, epochs, rank, start)
    with Loader(split, steps, SETTINGS) as loader:
        return list(loader)


def pair_ids(step):
    return np.concatenate([b.pair_ids.numpy() for b in step.micro_batches])


def test_every_pair_comes_with_the_features_and_boxes_of_its_image(train):
    everything = np.concatenate([train.read_shard(k) for k in range(train.num_shards)])
    for step in steps_of(train, epochs=1):
        for batch in step.micro_batches:
            rows = np.asarray(train.sentences.image_rows)[batch.pair_ids.numpy()]
            assert batch.inputs.token_ids[:, 0].tolist() == rows.tolist()
            assert np.array_equal(batch.inputs.roi_features.numpy(), everything[rows])
            assert np.array_equal(batch.inputs.boxes.numpy(), train.boxes[rows])


def test_two_ranks_share_the_same_global_steps(train):
    one = steps_of(train)
    two = [steps_of(train, rank=Rank(r, 2)) for r in range(2)]
    assert len(one) > 4
    for whole, *halves in zip(one, *two, strict=True):
        assert (whole.epoch, whole.step) == (halves[0].epoch, halves[0].step)
        assert pair_ids(whole).tolist() == np.concatenate([pair_ids(h) for h in halves]).tolist()
        assert whole.identity == sum(h.identity for h in halves) % 2**64
        donors = np.concatenate([b.targets.scores for h in halves for b in h.micro_batches])
        assert np.array_equal(
            np.concatenate([b.targets.scores for b in whole.micro_batches]), donors
        )


def test_starting_in_the_middle_gives_the_rest(train):
    whole = steps_of(train)
    per_epoch = PLAN.steps_per_epoch(train.num_pairs)
    rest = steps_of(train, start=Position(1, 2))
    assert [s.identity for s in rest] == [s.identity for s in whole[per_epoch + 2 :]]


def test_only_the_wanted_sources_are_visited(train):
    wanted = train.sentences.sources.index("questions")
    seen = np.concatenate([pair_ids(s) for s in steps_of(train, sources=("questions",))])
    assert set(np.asarray(train.sentences.source_ids)[seen]) == {wanted}
    with pytest.raises(ConfigError, match="poems"):
        index_pairs(train, ("poems",))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_visits_each_pair_once(train, world_size):
    index = limit_pairs(index_pairs(train, ()), 50, lambda n: np.arange(n)[::-1])
    seen, lengths = [], set()
    for rank in range(world_size):
        steps = EvaluationSteps(train, index, 7, keep, Rank(rank, world_size))
        with Loader(train, steps, SETTINGS) as loader:
            batches = list(loader)
        lengths.add(len(batches))
        seen += [p for b in batches if b.counted for p in pair_ids(b).tolist()]
    assert sorted(seen) == index.pair_ids.tolist()
    assert len(lengths) == 1


def test_ranks_without_pairs_keep_in_step_but_do_not_count(train):
    index = limit_pairs(index_pairs(train, ()), 2, np.arange)
    for rank in range(3):
        with Loader(
            train, EvaluationSteps(train, index, 1, keep, Rank(rank, 3)), SETTINGS
        ) as loader:
            batches = list(loader)
        assert [b.counted for b in batches] == ([False] if rank == 0 else [True])


def test_evaluation_inputs_do_not_depend_on_batch_size_or_ranks(store, train):

    def identities(batch_size, world_size):
        total = 0
        for rank in range(world_size):
            collate = pretraining_collate(
                train.sentences,
                store.spec,
                ObjectivesConfig(),
                seed=3,
                max_tokens=12,
                fixed_epoch=0,
            )
            index = index_pairs(train, ())
            steps = EvaluationSteps(train, index, batch_size, collate, Rank(rank, world_size))
            with Loader(train, steps, SETTINGS) as loader:
                total += sum(step.identity for step in loader if step.counted)
        return total % 2**64

    assert identities(16, 1) == identities(5, 2)


class Broken:
    """A split whose third shard cannot be read."""

    def __init__(self, split):
        self._split = split

    def __getattr__(self, name):
        return getattr(self._split, name)

    def read_shard(self, shard):
        if shard == 2:
            raise CorruptObjectError("train/roi_features/c/2/0/0: checksum")
        return self._split.read_shard(shard)


def test_a_broken_shard_stops_the_loop_and_every_thread(train):
    before = threading.active_count()
    with pytest.raises(CorruptObjectError, match="c/2/0/0"):
        steps_of(Broken(train))
    assert threading.active_count() == before


def test_leaving_early_ends_every_thread(train):
    before = threading.active_count()
    steps = TrainingSteps(train, index_pairs(train, ()), PLAN, SETTINGS, keep, 7, 100)
    with Loader(train, steps, SETTINGS) as loader:
        next(iter(loader))
    assert threading.active_count() == before
