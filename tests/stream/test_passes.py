"""Passes: exact amounts, a walk that leaves no pair out, stages, the same rest from any step."""

from bisect import bisect_right
from collections import Counter

import numpy as np
import pytest

from lxmert_dist.errors import ConfigError
from lxmert_dist.schema import AnswerTargets, MicroBatch, ModelInputs, PairBatch
from lxmert_dist.store import open_store
from lxmert_dist.stream.loader import (
    LoaderSettings,
    Position,
    Rank,
    TrainingSteps,
    index_pairs,
)
from lxmert_dist.stream.passes import (
    Pass,
    Share,
    pairs_by_source,
    pairs_of_pass,
    plan_passes,
    whole_passes,
)
from lxmert_dist.stream.plan import PlanSettings
from lxmert_dist.stream.window import ShardWindow
from lxmert_dist.tasks.inputs import to_tensor

PLAN = PlanSettings(lanes=8, window_shards=2, global_batch_size=32, pairs_per_image=2)
AMOUNTS = {"captions": 1000, "questions": 333}
SEED = 7


@pytest.fixture(scope="module")
def train(tiny_store):
    return open_store(tiny_store).split("train")


def visits(split, passes, seed=SEED) -> list[np.ndarray]:
    index = index_pairs(split, ())
    return [pairs_of_pass(split, index, one, seed).pair_ids for one in passes]


def test_without_weights_every_pass_is_every_pair(train):
    amounts = pairs_by_source(train, ())
    assert sum(amounts.values()) == train.num_pairs
    passes = plan_passes(amounts, [(0, {})], PLAN, epochs=3)
    steps = train.num_pairs // 8 // 4
    assert [(one.number, one.first_step, one.steps) for one in passes] == [
        (0, 0, steps),
        (1, steps, steps),
        (2, 2 * steps, steps),
    ]
    index = index_pairs(train, ())
    assert all(pairs_of_pass(train, index, one, SEED) is index for one in passes)
    whole = whole_passes(index, PLAN, 3)
    assert [(one.first_step, one.steps) for one in whole] == [
        (one.first_step, one.steps) for one in passes
    ]


def test_max_steps_end_the_last_pass_early():
    passes = plan_passes(AMOUNTS, [(0, {})], PLAN, epochs=3, max_steps=50)
    assert [(one.first_step, one.steps) for one in passes] == [(0, 41), (41, 9)]
    assert plan_passes(AMOUNTS, [(0, {})], PLAN, epochs=1, max_steps=50)[-1].end == 41


@pytest.mark.parametrize("weight", [0.5, 0.3, 0.07, 1e-9])
def test_a_source_is_walked_through_at_its_weight(train, weight):
    amounts = pairs_by_source(train, ())
    source = np.asarray(train.sentences.source_ids)
    questions = np.flatnonzero(source == train.sentences.sources.index("questions"))
    share = max(1, round(weight * len(questions)))
    passes = plan_passes(amounts, [(0, {"questions": weight})], PLAN, epochs=9)
    assert len({one.steps for one in passes}) == 1
    walked: list[int] = []
    for pairs in visits(train, passes):
        assert (np.diff(pairs) > 0).all()
        own = np.intersect1d(pairs, questions)
        assert len(own) == share
        assert len(pairs) == amounts["captions"] + share
        walked += own.tolist()
    # So many rounds through all of them, and a part of one.
    rounds, rest = divmod(9 * share, len(questions))
    counts = Counter(Counter(walked)[pair] for pair in questions.tolist())
    expected = Counter({rounds: len(questions) - rest, rounds + 1: rest})
    assert counts == +expected


def test_two_halves_are_the_whole_in_another_order_for_another_seed(train):
    passes = plan_passes(pairs_by_source(train, ()), [(0, {"captions": 0.5})], PLAN, epochs=2)
    captions = set(index_pairs(train, ("captions",)).pair_ids.tolist())
    one, other = (set(pairs.tolist()) & captions for pairs in visits(train, passes))
    assert one | other == captions
    assert len(one & other) <= 1  # an odd number of them
    again = set(visits(train, passes, SEED + 1)[0].tolist()) & captions
    assert abs(len(one & again) / len(one) - 0.5) < 0.1  # measured 0.47
    # A half is drawn over all images, not from one end of the store.
    assert abs(np.mean(list(one)) / np.mean(list(captions)) - 1) < 0.1  # measured 0.01


def test_stages_begin_passes_of_their_own():
    stages = [(0, {"captions": 0.2, "questions": 0.0}), (10, {}), (60, {"captions": 0.5})]
    passes = plan_passes(AMOUNTS, stages, PLAN, max_steps=100)
    captions = [Share("captions", k * 200, 200) for k in range(2)]
    assert passes[:4] == (
        Pass(0, 0, 6, (captions[0],)),
        Pass(1, 6, 4, (captions[1],)),
        Pass(2, 10, 41, (Share("captions", 400, 1000), Share("questions", 0, 333))),
        Pass(3, 51, 9, (Share("captions", 400, 1000), Share("questions", 0, 333))),
    )
    assert [(one.first_step, one.steps) for one in passes[4:]] == [(60, 26), (86, 14)]
    assert [one.shares[0] for one in passes[4:]] == [
        Share("captions", 400, 500),
        Share("captions", 900, 500),
    ]
    # A stage that the run does not reach changes nothing.
    assert plan_passes(AMOUNTS, stages, PLAN, max_steps=40) == plan_passes(
        AMOUNTS, stages[:2], PLAN, max_steps=40
    )


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([(0, {"poems": 0.5})], "weights are given for poems.*captions, questions"),
        ([(0, {}), (9, {"poems": 0.0})], "poems"),
        ([(0, {"captions": 0.0, "questions": 0.0})], "stage at step 0 visits no pairs"),
        (
            [(0, {}), (9, {"captions": 0.0, "questions": 0.05})],
            "stage at step 9: .*global_batch_size=32 is more than the 17 pairs",
        ),
        ([(0, {"captions": 0.001, "questions": 0.001})], "32 is more than the 2 pairs"),
    ],
)
def test_what_cannot_be_visited_is_named(stages, message):
    with pytest.raises(ConfigError, match=message):
        plan_passes(AMOUNTS, stages, PLAN, max_steps=100)


def keep(pairs: PairBatch) -> MicroBatch:
    """The pair ids, and as donor scores what the pools hold."""
    pools = np.array([[pairs.donors[p].num_images] for p in pairs.pool_ids])[pairs.image_index]
    rows = pairs.image_rows[pairs.image_index, None]
    inputs = ModelInputs.pack(
        to_tensor(rows),
        to_tensor(np.ones(rows.shape, bool)),
        to_tensor(pairs.roi_features.astype(np.float32)),
        to_tensor(pairs.boxes),
        to_tensor(pairs.image_index),
    )
    targets = AnswerTargets(to_tensor(pools.astype(np.float32)))
    return MicroBatch(to_tensor(pairs.pair_ids), inputs, targets, {})


Step = tuple[int, int, list[int], list[float]]


def steps_of(split, passes, start=0, world_size=1) -> list[Step]:
    """Pass, step, pairs and pools of every step from ``start`` on, put together from all ranks."""
    number = bisect_right([one.end for one in passes], start)
    position = Position(number, start - passes[number].first_step)
    settings = LoaderSettings(micro_batch_size=32, prefetch_steps=2, read_ahead_steps=2)
    ranks = []
    for rank in range(world_size):
        steps = TrainingSteps(
            split,
            index_pairs(split, ()),
            PLAN,
            settings,
            keep,
            SEED,
            passes,
            Rank(rank, world_size),
            position,
        )
        window = ShardWindow(split, threads=1)
        ranks.append(list(steps(window)))
        assert not window._reads, "every shard was let go"
        window.close()
    return [
        (
            parts[0].epoch,
            parts[0].step,
            [pair for part in parts for pair in part.micro_batches[0].pair_ids.tolist()],
            [n for part in parts for n in part.micro_batches[0].targets.scores.ravel().tolist()],
        )
        for parts in zip(*ranks, strict=True)
    ]


def random_passes(split, number: int) -> tuple[Pass, ...]:
    """Up to four stages of random weights; some begin inside a pass, some turn a source off."""
    draw = np.random.default_rng(number)
    firsts = [0, *sorted(draw.choice(np.arange(1, 60), int(draw.integers(4)), replace=False))]
    stages = []
    for first in firsts:
        weights = {name: float(draw.choice([0.25, 0.6, 1.0])) for name in ("captions", "questions")}
        if draw.random() < 0.3:
            weights[draw.choice(["captions", "questions"])] = 0.0
        stages.append((int(first), weights))
    return plan_passes(pairs_by_source(split, ()), stages, PLAN, max_steps=70)


@pytest.mark.parametrize("number", range(4))
def test_a_run_goes_on_from_any_step_with_any_number_of_ranks(train, number):
    passes = random_passes(train, number)
    whole = steps_of(train, passes)
    places = [(one.number, step) for one in passes for step in range(one.steps)]
    assert [step[:2] for step in whole] == places
    assert len(whole) == 70
    for one in passes:
        seen = [pair for step in whole[one.first_step : one.end] for pair in step[2]]
        assert len(set(seen)) == len(seen)
        assert set(seen) <= set(visits(train, [one])[0].tolist())
    draw = np.random.default_rng(number)
    starts = [*draw.integers(1, 70, 2).tolist(), passes[-1].first_step]
    for start, world_size in zip(starts, (2, 4, 8), strict=True):
        assert steps_of(train, passes, start, world_size) == whole[start:]
