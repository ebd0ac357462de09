"""What masking touches and what it leaves alone; its rates are in ``test_statistics.py``."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

import sizes
from lxmert_dist.config.sections import ObjectivesConfig
from lxmert_dist.objectives.masking import mask_objects, mask_tokens
from lxmert_dist.schema import IGNORED, PairBatch

SPEC = replace(sizes.SPEC, vocab_size=50, num_objects=6, feature_dim=3)
OBJECTIVES = ObjectivesConfig()
WORD = 7


@dataclass(frozen=True)
class Pool:
    """Every object's first feature is 1 + its number in the pool; keeps what was asked."""

    num_images: int
    num_boxes: np.ndarray | None = None

    def gather(self, images: np.ndarray, objects: np.ndarray) -> np.ndarray:
        names = 1 + images * SPEC.num_objects + objects
        return np.repeat(names[:, None], SPEC.feature_dim, axis=1).astype(np.float32)


def sentences(pairs: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lengths = 3 + np.arange(pairs) % (width - 2)
    columns = np.arange(width)
    ids = np.where(columns < lengths[:, None] - 1, WORD, SPEC.pad_id)
    ids[:, 0] = SPEC.cls_id
    ids[np.arange(pairs), lengths - 1] = SPEC.sep_id
    return ids, lengths, np.arange(pairs)


def batch(pairs: int, images: int = 40) -> PairBatch:
    shape = (pairs, SPEC.num_objects)
    zeros = np.zeros(shape, np.int64)
    return PairBatch(
        epoch=0,
        step=0,
        pair_ids=np.arange(pairs),
        image_index=np.arange(pairs),
        image_rows=np.arange(pairs),
        object_keys=np.arange(pairs),
        roi_features=np.full((*shape, SPEC.feature_dim), -1, np.float32),
        boxes=np.zeros((*shape, 4), np.float32),
        object_ids=zeros,
        object_scores=zeros.astype(np.float32),
        attribute_ids=zeros,
        attribute_scores=zeros.astype(np.float32),
        pool_ids=np.arange(pairs) % 2,
        donors=(Pool(images), Pool(1)),
    )


def test_only_words_are_chosen_and_the_labels_are_what_was_there() -> None:
    ids, lengths, pairs = sentences(2000, 20)
    masked = mask_tokens(ids, lengths, pairs, SPEC, OBJECTIVES, seed=1, epoch=0)
    chosen = masked.labels != IGNORED
    assert chosen.any()
    assert not chosen[ids != WORD].any(), "special tokens and padding are never chosen"
    assert (masked.labels[chosen] == ids[chosen]).all()
    assert (masked.token_ids[~chosen] == ids[~chosen]).all()


@pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 2}])
def test_epochs_and_seeds_mask_other_tokens(other: dict[str, int]) -> None:
    ids, lengths, pairs = sentences(2000, 20)
    key = {"seed": 1, "epoch": 0}
    first, second = (
        mask_tokens(ids, lengths, pairs, SPEC, OBJECTIVES, **k).labels != IGNORED
        for k in (key, key | other)
    )
    assert 0 < (first & second).sum() < 0.3 * first.sum()  # 0.15 where they are independent


def test_token_masks_depend_neither_on_batch_nor_on_padding() -> None:
    ids, lengths, pairs = sentences(500, 12)
    whole = mask_tokens(ids, lengths, pairs, SPEC, OBJECTIVES, seed=1, epoch=3)
    rows = np.random.default_rng(0).permutation(500)[:77]
    wide = np.pad(ids[rows], ((0, 0), (0, 4)), constant_values=SPEC.pad_id)
    part = mask_tokens(wide, lengths[rows], pairs[rows], SPEC, OBJECTIVES, seed=1, epoch=3)
    assert (part.token_ids[:, :12] == whole.token_ids[rows]).all()
    assert (part.labels[:, :12] == whole.labels[rows]).all()
    assert (part.labels[:, 12:] == IGNORED).all()


@pytest.mark.parametrize(("replaced", "random"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_token_fates(replaced: float, random: float) -> None:
    objectives = ObjectivesConfig(
        token_mask_rate=1.0, token_replace_fraction=replaced, token_random_fraction=random
    )
    ids, lengths, pairs = sentences(200, 12)
    seen = mask_tokens(ids, lengths, pairs, SPEC, objectives, seed=1, epoch=0).token_ids
    words = seen[ids == WORD]
    if replaced:
        assert (words == SPEC.mask_id).all()
    elif random:
        assert len(np.unique(words)) == SPEC.vocab_size
    else:
        assert (words == WORD).all()


@pytest.mark.parametrize(("zeroed", "swapped"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_object_fates(zeroed: float, swapped: float) -> None:
    objectives = ObjectivesConfig(
        object_mask_rate=1.0, object_replace_fraction=zeroed, object_random_fraction=swapped
    )
    masked = mask_objects(batch(50), objectives, seed=1, epoch=0)
    assert masked.chosen.all()
    fate = 0 if zeroed else 1 if swapped else -1
    assert (np.sign(masked.roi_features) == fate).all()


def test_objects_that_are_not_chosen_and_the_raw_batch_stay() -> None:
    raw = batch(500)
    masked = mask_objects(raw, OBJECTIVES, seed=1, epoch=0)
    assert masked.chosen.any()
    assert (masked.roi_features[~masked.chosen] == -1).all()
    assert (raw.roi_features == -1).all()


def test_donors_are_of_the_pool_of_the_image() -> None:
    objectives = ObjectivesConfig(
        object_mask_rate=1.0, object_replace_fraction=0.0, object_random_fraction=1.0
    )
    names = mask_objects(batch(2000), objectives, seed=1, epoch=0).roi_features[..., 0]
    for pool, images in ((0, 40), (1, 1)):
        drawn = np.unique(names[pool::2]) - 1
        assert (drawn == np.arange(images * SPEC.num_objects)).all()


def test_donors_are_as_likely_each_real_object_of_the_pool() -> None:
    """Where images differ in their number of objects; the shares are within 5 sigma."""
    objectives = ObjectivesConfig(
        object_mask_rate=1.0, object_replace_fraction=0.0, object_random_fraction=1.0
    )
    counts = np.array([1, 6, 3, 2])
    raw = replace(batch(20_000), donors=(Pool(4, counts), Pool(4, counts)))
    names = mask_objects(raw, objectives, seed=1, epoch=0).roi_features[..., 0].ravel() - 1
    found, numbers = np.unique(names, return_counts=True)
    real = [image * SPEC.num_objects + k for image, n in enumerate(counts) for k in range(n)]
    assert found.tolist() == real
    expected = names.size / len(real)
    assert np.abs(numbers - expected).max() < 5 * np.sqrt(expected)


def test_padding_is_never_chosen_and_changes_no_other_draw() -> None:
    raw = batch(500)
    counts = 1 + np.arange(500) % SPEC.num_objects
    some = mask_objects(replace(raw, num_boxes=counts), OBJECTIVES, seed=1, epoch=0)
    every = mask_objects(raw, OBJECTIVES, seed=1, epoch=0)
    real = np.arange(SPEC.num_objects) < counts[:, None]
    assert (some.chosen == (every.chosen & real)).all()
    assert (some.roi_features[real] == every.roi_features[real]).all()
    assert (some.roi_features[~real] == -1).all()


def test_images_with_the_same_key_have_the_same_mask() -> None:
    raw = replace(batch(60), object_keys=np.repeat(np.arange(30), 2))
    chosen = mask_objects(raw, OBJECTIVES, seed=1, epoch=0).chosen
    assert (chosen[0::2] == chosen[1::2]).all()
    assert (chosen[0:-2:2] != chosen[2::2]).any()


def test_object_masks_do_not_depend_on_the_batch() -> None:
    raw = batch(300)
    whole = mask_objects(raw, OBJECTIVES, seed=1, epoch=2)
    part = mask_objects(raw.select(slice(100, 150)), OBJECTIVES, seed=1, epoch=2)
    assert (part.chosen == whole.chosen[100:150]).all()
    assert (part.roi_features == whole.roi_features[100:150]).all()
    other = mask_objects(raw, OBJECTIVES, seed=2, epoch=2)
    assert (other.chosen != whole.chosen).any()


def test_features_keep_their_dtype() -> None:
    raw = batch(10)
    half = replace(raw, roi_features=raw.roi_features.astype(np.float16))
    assert mask_objects(half, OBJECTIVES, seed=1, epoch=0).roi_features.dtype == np.float16
