"""Mismatched sentences: rate, uniformity, never of the same image."""

import numpy as np
import pytest

from lxmert_dist.errors import DataError
from lxmert_dist.objectives.matching import DrawnSentences, draw_sentences

IMAGES = np.repeat(np.arange(10), [1, 2, 3, 4, 5, 6, 7, 8, 9, 5]).astype(np.uint32)
PAIRS = len(IMAGES)


def draw(
    pair_ids: np.ndarray,
    candidates: np.ndarray | None = None,
    *,
    rate: float = 0.5,
    epoch: int = 0,
) -> DrawnSentences:
    return draw_sentences(pair_ids, IMAGES, candidates, rate=rate, seed=4, epoch=epoch)


def many(
    candidates: np.ndarray | None = None, epochs: int = 3000, rate: float = 0.5
) -> tuple[np.ndarray, DrawnSentences]:
    """Pairs of some images over many epochs."""
    pairs = np.arange(PAIRS)
    draws = [draw(pairs, candidates, rate=rate, epoch=epoch) for epoch in range(epochs)]
    drawn, matched = (np.concatenate(column) for column in zip(*draws, strict=True))
    return np.tile(pairs, epochs), DrawnSentences(drawn, matched)


def test_rate_and_uniform_negatives() -> None:
    pairs, drawn = many()
    assert len(pairs) >= 1e5
    assert abs(drawn.is_matched.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(pairs))
    assert (drawn.pair_ids == pairs)[drawn.is_matched].all()
    swapped = ~drawn.is_matched
    assert (IMAGES[drawn.pair_ids] != IMAGES[pairs])[swapped].all()
    for own in (0, 30, PAIRS - 1):
        picks = drawn.pair_ids[swapped & (pairs == own)]
        others = np.flatnonzero(~np.isin(IMAGES, IMAGES[own]))
        counts = np.bincount(picks, minlength=PAIRS)[others]
        expected, free = len(picks) / len(others), len(others) - 1
        assert ((counts - expected) ** 2 / expected).sum() < free + 5 * np.sqrt(2 * free)


def test_candidates_restrict_the_draw() -> None:
    candidates = np.array([0, 7, 20, 33, 49])
    _, drawn = many(candidates, epochs=100, rate=1.0)
    assert set(drawn.pair_ids) == set(candidates)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_rates_at_the_ends(rate: float) -> None:
    drawn = draw(np.arange(PAIRS), rate=rate)
    assert (drawn.is_matched == (rate == 0)).all()


def test_draws_depend_on_the_pair_alone() -> None:
    whole = draw(np.arange(PAIRS))
    rows = np.array([41, 3, 12, 30])
    part = draw(rows)
    assert (part.pair_ids == whole.pair_ids[rows]).all()
    assert (part.is_matched == whole.is_matched[rows]).all()


def test_no_other_image_is_an_error() -> None:
    with pytest.raises(DataError, match="mismatch_rate"):
        draw(np.arange(45, 50), np.arange(45, 50), rate=1.0)
