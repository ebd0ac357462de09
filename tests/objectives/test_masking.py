"""Rates and independence of the masks. Bounds are 5 standard deviations of the binomial."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from lxmert_dist.config.sections import ObjectivesConfig
from lxmert_dist.objectives.masking import mask_objects, mask_tokens
from lxmert_dist.schema import IGNORED, DataSpec, PairBatch

SPEC = DataSpec(
    vocab_size=50,
    pad_id=0,
    cls_id=1,
    sep_id=2,
    mask_id=3,
    num_objects=6,
    feature_dim=3,
    num_object_classes=9,
    num_attribute_classes=6,
    num_answers=7,
)
OBJECTIVES = ObjectivesConfig()
WORD = 7


@dataclass(frozen=True)
class Pool:
    """Every object's first feature is 1 + its number in the pool; keeps what was asked."""

    num_images: int

    def gather(self, images: np.ndarray, objects: np.ndarray) -> np.ndarray:
        names = 1 + images * SPEC.num_objects + objects
        return np.repeat(names[:, None], SPEC.feature_dim, axis=1).astype(np.float32)


def near(found: float, rate: float, draws: int) -> bool:
    return abs(found - rate) < 5 * np.sqrt(rate * (1 - rate) / draws)


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
        image_rows=np.arange(pairs),
        roi_features=np.full((*shape, SPEC.feature_dim), -1, np.float32),
        boxes=np.zeros((*shape, 4), np.float32),
        object_ids=zeros,
        object_scores=zeros.astype(np.float32),
        attribute_ids=zeros,
        attribute_scores=zeros.astype(np.float32),
        pool_ids=np.arange(pairs) % 2,
        donors=(Pool(images), Pool(1)),
    )


def test_token_rates() -> None:
    ids, lengths, pairs = sentences(20_000, 20)
    masked = mask_tokens(ids, lengths, pairs, SPEC, OBJECTIVES, seed=1, epoch=0)
    chosen = masked.labels != IGNORED
    words = ids == WORD
    assert words.sum() >= 1e5
    assert not chosen[~words].any(), "special tokens and padding are never chosen"
    assert (masked.labels[chosen] == ids[chosen]).all()
    assert (masked.token_ids[~chosen] == ids[~chosen]).all()
    assert near(chosen.sum() / words.sum(), 0.15, words.sum())
    seen, draws = masked.token_ids[chosen], chosen.sum()
    vocab = SPEC.vocab_size
    assert near((seen == SPEC.mask_id).mean(), 0.8 + 0.1 / vocab, draws)
    assert near((seen == WORD).mean(), 0.1 + 0.1 / vocab, draws)
    rest = seen[(seen != SPEC.mask_id) & (seen != WORD)]
    counts = np.bincount(rest, minlength=vocab)
    others = np.delete(counts, [SPEC.mask_id, WORD])
    assert others.min() > 0, "the whole vocabulary is drawn from, special tokens included"
    expected = others.mean()
    assert ((others - expected) ** 2 / expected).sum() < 48 + 5 * np.sqrt(2 * 48)  # chi-squared


def test_token_positions_are_equally_likely_and_epochs_differ() -> None:
    ids, lengths, pairs = sentences(30_000, 6)
    full = lengths == 6
    first, second = (
        mask_tokens(ids, lengths, pairs, SPEC, OBJECTIVES, seed=1, epoch=epoch).labels[full]
        != IGNORED
        for epoch in (0, 1)
    )
    for column in range(1, 5):
        assert near(first[:, column].mean(), 0.15, len(first))
    assert near((first & second)[:, 1:5].mean(), 0.15**2, 4 * len(first))


def test_token_masks_depend_neither_on_batch_nor_on_padding() -> None:
    ids, lengths, pairs = sentences(500, 12)
    whole = mask_tokens(ids, lengths, pairs, SPEC, OBJECTIVES, seed=1, epoch=3)
    rows = np.random.default_rng(0).permutation(500)[:77]
    wide = np.pad(ids[rows], ((0, 0), (0, 4)), constant_values=SPEC.pad_id)
    part = mask_tokens(wide, lengths[rows], pairs[rows], SPEC, OBJECTIVES, seed=1, epoch=3)
    assert (part.token_ids[:, :12] == whole.token_ids[rows]).all()
    assert (part.labels[:, :12] == whole.labels[rows]).all()
    assert (part.labels[:, 12:] == IGNORED).all()


@pytest.mark.parametrize(("replace_fraction", "random_fraction"), [(1, 0), (0, 1), (0, 0)])
def test_token_fates(replace_fraction: float, random_fraction: float) -> None:
    objectives = ObjectivesConfig(
        token_mask_rate=1.0,
        replace_fraction=float(replace_fraction),
        random_fraction=float(random_fraction),
    )
    ids, lengths, pairs = sentences(200, 12)
    seen = mask_tokens(ids, lengths, pairs, SPEC, objectives, seed=1, epoch=0).token_ids
    words = seen[ids == WORD]
    if replace_fraction:
        assert (words == SPEC.mask_id).all()
    elif random_fraction:
        assert len(np.unique(words)) == SPEC.vocab_size
    else:
        assert (words == WORD).all()


def test_object_rates() -> None:
    raw = batch(40_000)
    masked = mask_objects(raw, OBJECTIVES, seed=1, epoch=0)
    total = masked.chosen.size
    assert total >= 1e5
    assert near(masked.chosen.mean(), 0.15, total)
    first = masked.roi_features[..., 0]
    assert (first[~masked.chosen] == -1).all()
    fates, draws = first[masked.chosen], masked.chosen.sum()
    assert near((fates == 0).mean(), 0.8, draws)
    assert near((fates > 0).mean(), 0.1, draws)
    assert near((fates == -1).mean(), 0.1, draws)
    assert (raw.roi_features == -1).all(), "the raw batch is left alone"


def test_donors_are_uniform_over_the_pool_of_the_pair() -> None:
    objectives = ObjectivesConfig(object_mask_rate=1.0, replace_fraction=0.0, random_fraction=1.0)
    names = mask_objects(batch(40_000), objectives, seed=1, epoch=0).roi_features[..., 0]
    large, small = names[0::2].astype(int).ravel() - 1, names[1::2].astype(int).ravel() - 1
    for drawn, size in ((large, 40 * 6), (small, 1 * 6)):
        counts = np.bincount(drawn, minlength=size)
        assert len(counts) == size
        expected = drawn.size / size
        free = size - 1
        assert ((counts - expected) ** 2 / expected).sum() < free + 5 * np.sqrt(2 * free)


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
