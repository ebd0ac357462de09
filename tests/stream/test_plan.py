"""The plan: each pair once, balanced, the same for any number of ranks, and spread."""

import numpy as np
import pytest

from lxmert_dist.errors import ConfigError
from lxmert_dist.stream.plan import (
    PairIndex,
    PlanSettings,
    lanes_of_rank,
    plan_epoch,
)

SETTINGS = PlanSettings(lanes=4, window_shards=3, global_batch_size=32)


def make_index(images: int = 600, seed: int = 0) -> PairIndex:
    sentences = np.random.default_rng(seed).integers(1, 20, images)
    rows = np.repeat(np.arange(images), sentences)
    return PairIndex(np.arange(len(rows)) * 2 + 1, rows, images_per_shard=16)


def batches(index: PairIndex, ranks: int, epoch: int = 0, seed: int = 1) -> list[np.ndarray]:
    """The global batches, put together from every rank's lanes."""
    lanes = [
        lane
        for rank in range(ranks)
        for lane in plan_epoch(
            index, SETTINGS, seed=seed, epoch=epoch, lanes=lanes_of_rank(4, rank, ranks)
        )
    ]
    return list(np.concatenate([lane.pair_ids for lane in lanes], axis=1))


def test_every_epoch_visits_each_pair_at_most_once_and_nearly_all():
    index = make_index()
    seen = np.concatenate(batches(index, 1))
    assert len(np.unique(seen)) == len(seen)
    assert set(seen) <= set(index.pair_ids)
    assert len(index) - len(seen) < 2 * SETTINGS.global_batch_size


@pytest.mark.parametrize("ranks", [2, 4])
def test_global_batches_do_not_depend_on_the_number_of_ranks(ranks):
    index = make_index()
    for one, many in zip(batches(index, 1), batches(index, ranks), strict=True):
        assert one.tolist() == many.tolist()


def test_order_changes_with_epoch_and_seed():
    index = make_index()
    first = batches(index, 1)[0].tolist()
    assert first == batches(index, 1)[0].tolist()
    assert first != batches(index, 1, epoch=1)[0].tolist()
    assert first != batches(index, 1, seed=2)[0].tolist()


def test_image_rows_belong_to_the_pairs_and_shards_are_live_when_used():
    index = make_index()
    row_of = dict(zip(index.pair_ids.tolist(), index.image_rows.tolist(), strict=True))
    for lane in plan_epoch(index, SETTINGS, seed=1, epoch=0, lanes=range(4)):
        assert [
            row_of[p] for p in lane.pair_ids.ravel().tolist()
        ] == lane.image_rows.ravel().tolist()
        for step, rows in enumerate(lane.image_rows):
            assert set(rows // 16) <= set(lane.live(step))


def test_the_window_is_bounded():
    index = make_index()
    for lane in plan_epoch(index, SETTINGS, seed=1, epoch=0, lanes=range(4)):
        widest = max(len(lane.live(step)) for step in range(len(lane.pair_ids)))
        # Images of a shard are spread over 3 shards' worth of pairs; shards vary in size.
        assert widest <= 2 * SETTINGS.window_shards + 2


def test_shards_are_read_about_once():
    index = make_index()
    plans = plan_epoch(index, SETTINGS, seed=1, epoch=0, lanes=range(4))
    reads = sum(len(lane.shards) for lane in plans)
    assert reads <= len(np.unique(index.shards)) + SETTINGS.lanes


def test_sentences_of_an_image_seldom_meet():
    index = make_index()
    row_of = dict(zip(index.pair_ids.tolist(), index.image_rows.tolist(), strict=True))

    def repeats(steps: list[np.ndarray]) -> int:
        return sum(len(s) - len({row_of[p] for p in s.tolist()}) for s in steps)

    planned = batches(index, 1)
    blocks = index.pair_ids[: len(planned) * 32].reshape(len(planned), 32)
    assert repeats(planned) < repeats(list(blocks)) / 10


def test_too_few_pairs_and_ranks_that_do_not_divide_are_named():
    with pytest.raises(ConfigError, match="global_batch_size=32"):
        plan_epoch(make_index(2), SETTINGS, seed=1, epoch=0, lanes=range(4))
    with pytest.raises(ConfigError, match=r"3 ranks do not divide data\.lanes=4"):
        lanes_of_rank(4, 0, 3)
