"""The loader carries the plan out: right features, same steps for any rank, errors, no leaks."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from lxmert_dist.config import ObjectivesConfig
from lxmert_dist.errors import ConfigError, CorruptObjectError
from lxmert_dist.schema import AnswerTargets, Collate, MicroBatch, ModelInputs, PairBatch
from lxmert_dist.store import open_store
from lxmert_dist.stream.loader import (
    EvaluationSteps,
    Loader,
    LoaderSettings,
    Position,
    Rank,
    TrainingSteps,
    Visit,
    gather,
    index_pairs,
    limit_pairs,
)
from lxmert_dist.stream.plan import PlanSettings
from lxmert_dist.stream.window import ShardWindow
from lxmert_dist.tasks import pretraining_collate
from lxmert_dist.tasks.inputs import to_tensor

SETTINGS = LoaderSettings(micro_batch_size=8, prefetch_steps=2, read_ahead_steps=2)
PLAN = PlanSettings(lanes=4, window_shards=2, global_batch_size=32)
GROUPED = replace(PLAN, pairs_per_image=4)
both = pytest.mark.parametrize("plan", [PLAN, GROUPED], ids=["alone", "grouped"])

ALONE, START = Rank(), Position()


@pytest.fixture(scope="module")
def store(tiny_store):
    return open_store(tiny_store)


@pytest.fixture(scope="module")
def train(store):
    return store.split("train")


def keep(pairs: PairBatch) -> MicroBatch:
    """A collate that passes everything on: image rows as tokens, a donor's features as scores."""
    donors = np.stack(
        [pairs.donors[p].gather(np.zeros(1, int), np.zeros(1, int))[0] for p in pairs.pool_ids]
    )
    rows = pairs.image_rows[pairs.image_index, None]
    inputs = ModelInputs.pack(
        to_tensor(rows),
        to_tensor(np.ones(rows.shape, bool)),
        to_tensor(pairs.roi_features.astype(np.float32)),
        to_tensor(pairs.boxes),
        to_tensor(pairs.image_index),
    )
    scores = donors[pairs.image_index].astype(np.float32)
    return MicroBatch(to_tensor(pairs.pair_ids), inputs, AnswerTargets(to_tensor(scores)), {})


def masking(split, spec, **changes) -> Collate:
    """The collate of pretraining, so that a step's identity tells its masks and negatives."""
    return pretraining_collate(
        split.sentences, spec, ObjectivesConfig(), seed=3, max_tokens=12, **changes
    )


def steps_of(
    split, collate=keep, rank=ALONE, start=START, epochs=2, plan=PLAN, settings=SETTINGS, sources=()
):
    index = index_pairs(split, sources)
    steps = TrainingSteps(split, index, plan, settings, collate, 7, epochs, rank, start)
    with Loader(split, steps, settings) as loader:
        return list(loader)


def raw_steps(split, plan, **changes) -> list[PairBatch]:
    """What the collate is given, a whole step at a time unless ``settings`` say otherwise."""
    seen: list[PairBatch] = []

    def collate(pairs: PairBatch) -> MicroBatch:
        seen.append(pairs)
        return keep(pairs)

    whole = replace(SETTINGS, micro_batch_size=plan.global_batch_size)
    steps_of(split, collate, plan=plan, **{"settings": whole, **changes})
    return seen


def pair_ids(step):
    return np.concatenate([b.pair_ids.numpy() for b in step.micro_batches])


@both
def test_every_pair_comes_with_the_features_and_boxes_of_its_image(train, plan):
    everything = np.concatenate([train.read_shard(k) for k in range(train.num_shards)])
    for step in steps_of(train, epochs=1, plan=plan):
        for batch in step.micro_batches:
            rows = np.asarray(train.sentences.image_rows)[batch.pair_ids.numpy()]
            image = batch.inputs.image_index.numpy()
            assert batch.inputs.token_ids.tolist() == rows.tolist()
            assert np.array_equal(batch.inputs.roi_features.numpy()[image], everything[rows])
            assert np.array_equal(batch.inputs.boxes.numpy()[image], train.boxes[rows])


@pytest.mark.parametrize(
    ("plan", "world_size"), [(PLAN, 2), (GROUPED, 2), (GROUPED, 4)], ids=["alone", "2", "4"]
)
def test_ranks_share_the_same_global_steps(train, plan, world_size):
    one = steps_of(train, plan=plan)
    many = [steps_of(train, rank=Rank(r, world_size), plan=plan) for r in range(world_size)]
    assert len(one) > 4
    for whole, *parts in zip(one, *many, strict=True):
        assert {(whole.epoch, whole.step)} == {(part.epoch, part.step) for part in parts}
        assert pair_ids(whole).tolist() == np.concatenate([pair_ids(p) for p in parts]).tolist()
        donors = np.concatenate([b.targets.scores for p in parts for b in p.micro_batches])
        assert np.array_equal(
            np.concatenate([b.targets.scores for b in whole.micro_batches]), donors
        )


@both
@pytest.mark.parametrize(("world_size", "micro_batch_size"), [(1, 32), (2, 16), (4, 3)])
def test_masks_and_negatives_do_not_depend_on_how_a_step_is_cut(
    store, train, plan, world_size, micro_batch_size
):
    collate = masking(train, store.spec)
    settings = replace(SETTINGS, micro_batch_size=micro_batch_size)
    one = steps_of(train, collate, plan=plan)
    many = [
        steps_of(train, collate, Rank(r, world_size), plan=plan, settings=settings)
        for r in range(world_size)
    ]
    assert len({step.identity for step in one}) == len(one) > 4
    for whole, *parts in zip(one, *many, strict=True):
        assert whole.identity == sum(part.identity for part in parts) % 2**64


@both
def test_starting_in_the_middle_gives_the_rest(store, train, plan):
    collate = masking(train, store.spec)
    whole = steps_of(train, collate, plan=plan)
    per_epoch = plan.steps_per_epoch(train.num_pairs)
    rest = steps_of(train, collate, start=Position(1, 2), plan=plan)
    assert [s.identity for s in rest] == [s.identity for s in whole[per_epoch + 2 :]]


def test_ungrouped_pairs_have_images_of_their_own(train):
    for pairs in raw_steps(train, PLAN):
        assert pairs.image_index.tolist() == list(range(32))
        assert np.array_equal(pairs.object_keys, pairs.pair_ids)


def test_a_group_shares_one_image_within_its_lane(train):
    pairs_of_image = []
    rows = np.asarray(train.sentences.image_rows)
    for pairs in raw_steps(train, GROUPED):
        index = pairs.image_index
        assert set(np.diff(index, prepend=-1)) <= {0, 1}
        assert index[0] == 0
        assert np.array_equal(pairs.image_rows[index], rows[pairs.pair_ids])
        assert np.array_equal(rows[pairs.object_keys], pairs.image_rows)
        assert np.array_equal(pairs.pool_ids[index], np.arange(32) // 8)
        same = (np.diff(pairs.object_keys) == 0) & (np.diff(pairs.pool_ids) == 0)
        assert not same.any(), "neighbours of a group share"
        pairs_of_image += np.bincount(index).tolist()
    assert max(pairs_of_image) == 4
    assert np.mean(pairs_of_image) > 2.5  # measured 2.69: 6 sentences an image, on average


def test_a_group_that_two_lanes_cut_has_an_image_and_a_pool_in_each(train):
    visit = Visit(0, 0, *(np.array(ids) for ids in ([4, 3, 5], [1, 1, 1], [3, 3, 3], [0, 0, 1])))
    window = ShardWindow(train, threads=1)
    window.hold(0, np.array([0]))
    pairs = gather(train, window, visit, donors=())
    window.close()
    assert pairs.image_index.tolist() == [0, 0, 1]
    assert pairs.object_keys.tolist() == [3, 3]
    assert pairs.pool_ids.tolist() == [0, 1]


def test_a_batch_keeps_its_features_while_somebody_looks_at_them(train):
    window = ShardWindow(train, threads=1)
    window.hold(0, np.array([0, 1]))
    rows = np.array([train.images_per_shard + 1, 0, 3])
    wanted = np.concatenate([train.read_shard(0), train.read_shard(1)])[rows]
    kept = to_tensor(window.gather(rows))[1:]
    for chosen in (rows[:1], rows):
        assert np.array_equal(window.gather(rows), wanted)
        window.gather(chosen)[:] = 0
    assert np.array_equal(kept.numpy(), wanted[1:])
    window.close()


def test_each_image_of_a_step_is_read_once(train):
    for pairs in raw_steps(train, GROUPED, epochs=1):
        images = len(pairs.image_rows)
        assert images < len(pairs.pair_ids)
        for name in ("roi_features", "boxes", "object_ids", "object_scores", "pool_ids"):
            assert len(getattr(pairs, name)) == images


def test_micro_batches_may_cut_a_group(train):
    cut = replace(SETTINGS, micro_batch_size=3)
    whole = raw_steps(train, GROUPED, epochs=1)
    parts = raw_steps(train, GROUPED, epochs=1, settings=cut)
    cuts = 0
    for number, step in enumerate(whole):
        own = parts[11 * number : 11 * (number + 1)]
        for start, part in zip(range(0, 32, 3), own, strict=True):
            index, shown = part.image_index, step.image_index[start : start + 3]
            assert index[0] == 0
            assert len(part.image_rows) == index[-1] + 1
            for name in ("image_rows", "object_keys", "roi_features", "boxes", "pool_ids"):
                assert np.array_equal(getattr(part, name)[index], getattr(step, name)[shown])
            cuts += start > 0 and step.image_index[start - 1] == shown[0]
    assert cuts > len(whole)


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


def test_evaluated_pairs_have_images_and_draws_of_their_own(train):
    def collate(pairs: PairBatch) -> MicroBatch:
        assert pairs.image_index.tolist() == list(range(len(pairs.pair_ids)))
        assert np.array_equal(pairs.object_keys, pairs.pair_ids)
        return keep(pairs)

    steps = EvaluationSteps(train, index_pairs(train, ()), 16, collate)
    with Loader(train, steps, SETTINGS) as loader:
        assert sum(1 for _ in loader) > 1


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
            collate = masking(train, store.spec, fixed_epoch=0)
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

    def read_shard(self, shard, **how):
        if shard == 2:
            raise CorruptObjectError("train/roi_features/c/2/0/0: checksum")
        return self._split.read_shard(shard, **how)


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
