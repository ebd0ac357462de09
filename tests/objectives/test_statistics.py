"""Rates, shares and uniformity of every draw, over a million draws each.

Bounds are computed for 6 standard deviations, a chance of 2e-9, or one in chi-squared that is as
unlikely. Seeds are fixed: a test that passes once, passes always.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import chdtri
from scipy.stats import norm

import sizes
from lxmert_dist.config.sections import ObjectivesConfig
from lxmert_dist.keyed import Purpose, bits, uniform
from lxmert_dist.objectives.answers import draw_answers
from lxmert_dist.objectives.masking import MaskedObjects, mask_objects, mask_tokens
from lxmert_dist.objectives.matching import draw_sentences
from lxmert_dist.schema import IGNORED, PairBatch

MILLION = 1_000_000
SIGMAS = 6.0
CHANCE = 2 * norm.sf(SIGMAS)
OBJECTIVES = ObjectivesConfig()
OBJECTS = 36
WORD = 7
SPEC = replace(sizes.SPEC, vocab_size=101, num_objects=OBJECTS, feature_dim=1)


def assert_rate(hits: np.ndarray, rate: float) -> None:
    """Hits are independent and each has the chance ``rate``."""
    deviation = np.sqrt(rate * (1 - rate) / hits.size)
    assert abs(hits.mean() - rate) < SIGMAS * deviation


def assert_shares(drawn: np.ndarray, shares: Sequence[float] | np.ndarray) -> None:
    """Numbers are drawn with these chances (chi-squared), and no others are."""
    counts, expected = np.bincount(drawn, minlength=len(shares)), np.asarray(shares) * drawn.size
    assert len(counts) == len(shares)
    assert expected.min() > 5, "too few draws for the test to mean anything"
    assert ((counts - expected) ** 2 / expected).sum() < chdtri(len(shares) - 1, CHANCE)


def assert_uniform(drawn: np.ndarray, number: int) -> None:
    assert_shares(drawn, np.full(number, 1 / number))


class Names:
    """A donor pool where every feature is 1 + the number of its object in the pool."""

    num_images = 50
    num_boxes = None

    def gather(self, images: np.ndarray, objects: np.ndarray) -> np.ndarray:
        return (1 + images * OBJECTS + objects)[:, None].astype(np.float32)


def mask_a_million_objects(objectives: ObjectivesConfig) -> MaskedObjects:
    """The feature of an object is -1 where it is left as it is."""
    images = -(-MILLION // OBJECTS)
    ids = np.zeros((images, OBJECTS), np.int64)
    scores = ids.astype(np.float32)
    batch = PairBatch(
        epoch=0,
        step=0,
        pair_ids=np.arange(images),
        image_index=np.arange(images),
        image_rows=np.arange(images),
        object_keys=np.arange(images),
        roi_features=np.full((images, OBJECTS, 1), -1, np.float32),
        boxes=np.zeros((images, OBJECTS, 4), np.float32),
        object_ids=ids,
        object_scores=scores,
        attribute_ids=ids,
        attribute_scores=scores,
        pool_ids=np.zeros(images, np.int64),
        donors=(Names(),),
    )
    return mask_objects(batch, objectives, seed=9595, epoch=1)


def test_tokens_are_chosen_at_the_rate_and_hidden_by_the_shares() -> None:
    pairs, words = MILLION // 20, 20
    ids = np.full((pairs, words + 2), WORD)
    ids[:, 0], ids[:, -1] = SPEC.cls_id, SPEC.sep_id
    lengths = np.full(pairs, words + 2)
    masked = mask_tokens(ids, lengths, np.arange(pairs), SPEC, OBJECTIVES, seed=9595, epoch=1)
    chosen = masked.labels != IGNORED
    inner = chosen[:, 1:-1]
    assert not chosen[:, [0, -1]].any()
    assert_rate(inner, 0.15)
    for column in inner.T:
        assert_rate(column, 0.15)
    # A random token may be [MASK] or the word itself, so the shares are those of what is seen.
    shares = np.full(SPEC.vocab_size, 0.1 / SPEC.vocab_size)
    shares[SPEC.mask_id] += 0.8
    shares[WORD] += 0.1
    assert_shares(masked.token_ids[chosen], shares)


def test_a_million_random_tokens_are_uniform_over_the_whole_vocabulary() -> None:
    objectives = ObjectivesConfig(
        token_mask_rate=1.0, token_replace_fraction=0.0, token_random_fraction=1.0
    )
    pairs, words = MILLION // 20, 20
    ids = np.full((pairs, words + 2), WORD)
    lengths = np.full(pairs, words + 2)
    masked = mask_tokens(ids, lengths, np.arange(pairs), SPEC, objectives, seed=9595, epoch=1)
    assert_uniform(masked.token_ids[:, 1:-1].ravel(), SPEC.vocab_size)


def test_objects_are_chosen_at_the_rate_and_hidden_by_the_shares() -> None:
    masked = mask_a_million_objects(OBJECTIVES)
    assert_rate(masked.chosen, 0.15)
    seen = masked.roi_features[..., 0]
    assert (seen[~masked.chosen] == -1).all()
    fates = np.sign(seen[masked.chosen]).astype(int) + 1  # kept, zeros, swapped
    assert_shares(fates, (0.1, 0.8, 0.1))


def test_masks_of_one_image_are_independent() -> None:
    chosen = mask_a_million_objects(OBJECTIVES).chosen
    share = np.array([0.85**OBJECTS, OBJECTS * 0.15 * 0.85 ** (OBJECTS - 1)])
    number = np.minimum(chosen.sum(1), 2)  # none, one, more
    assert_shares(number, (*share, 1 - share.sum()))
    assert_rate(chosen[:, :-1] & chosen[:, 1:], 0.15**2)


def test_a_million_donors_are_uniform_over_images_and_objects() -> None:
    objectives = ObjectivesConfig(
        object_mask_rate=1.0, object_replace_fraction=0.0, object_random_fraction=1.0
    )
    names = mask_a_million_objects(objectives).roi_features.astype(int).ravel() - 1
    assert_uniform(names, Names.num_images * OBJECTS)


def test_sentences_are_swapped_at_the_rate_for_uniform_ones_of_other_images() -> None:
    images = np.repeat(np.arange(20), np.arange(1, 21)).astype(np.uint32)  # image k: k + 1 of them
    number = len(images)
    pairs = np.arange(number)
    draws = [
        draw_sentences(pairs, images, None, rate=0.5, seed=9595, epoch=epoch)
        for epoch in range(-(-2 * MILLION // number))
    ]
    matched = np.stack([draw.is_matched for draw in draws])  # (epochs, pairs)
    drawn = np.stack([draw.pair_ids for draw in draws])
    assert_rate(matched, 0.5)
    assert (~matched).sum() > 0.99 * MILLION
    assert (drawn == pairs)[matched].all()
    assert (images[drawn] != images)[~matched].all()
    for own in pairs:
        others = np.flatnonzero(images != images[own])
        picks = drawn[~matched[:, own], own]
        assert_uniform(np.searchsorted(others, picks), len(others))


def test_a_million_answers_are_proportional_to_their_scores() -> None:
    scores = np.array([0.3, 0.6, 0.9, 1.0], np.float32)
    drawn = draw_answers(
        np.arange(MILLION),
        np.ones(MILLION, bool),
        np.arange(MILLION + 1) * 4,
        np.tile(np.array([8, 3, 5, 1]), MILLION),
        np.tile(scores, MILLION),
        seed=9595,
        epoch=1,
    )
    places = np.full(9, -1)
    places[[8, 3, 5, 1]] = np.arange(4)
    assert_shares(places[drawn], scores / scores.sum())


KEYS = {"seed": 9595, "epoch": 1, "shift": 0, "purpose": Purpose.TOKEN_MASK, "k": 0}


def draws(**changes: int) -> np.ndarray:
    """A million draws under one key; ``shift`` moves every pair id."""
    key = {**KEYS, **changes}
    ids = np.arange(MILLION) + key["shift"]
    return uniform(key["seed"], key["epoch"], ids, Purpose(key["purpose"]), key["k"])


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 9596},
        {"epoch": 2},
        {"shift": 1},
        {"purpose": Purpose.TOKEN_REPLACEMENT},
        {"k": 1},
        {"seed": 1, "epoch": 9595},
    ],
)
def test_a_draw_is_a_function_of_its_key_and_of_all_of_it(change: dict[str, int]) -> None:
    one, other = draws(), draws(**change)
    assert (one == draws()).all()
    assert_uniform((one * 1000).astype(int), 1000)
    # The correlation of independent draws has a standard deviation of 1 / sqrt(n).
    assert abs(np.corrcoef(one, other)[0, 1]) < SIGMAS / np.sqrt(MILLION)
    assert (one != other).mean() > 0.999


def test_no_two_purposes_are_correlated() -> None:
    correlations = np.corrcoef([draws(purpose=purpose) for purpose in Purpose])
    np.fill_diagonal(correlations, 0)
    assert abs(correlations).max() < SIGMAS / np.sqrt(MILLION)


def test_every_bit_is_fair() -> None:
    drawn = bits(9595, 1, np.arange(MILLION), Purpose.MATCH)
    for place in range(64):
        assert_rate((drawn >> np.uint64(place)) & np.uint64(1), 0.5)
