"""Mismatched sentences, never of the same image; their shares are in ``test_statistics.py``."""

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
    candidates: np.ndarray | None = None, rate: float = 0.5, epochs: int = 100
) -> tuple[np.ndarray, DrawnSentences]:
    """Pairs of some images over many epochs."""
    pairs = np.arange(PAIRS)
    draws = [draw(pairs, candidates, rate=rate, epoch=epoch) for epoch in range(epochs)]
    drawn, matched = (np.concatenate(column) for column in zip(*draws, strict=True))
    return np.tile(pairs, epochs), DrawnSentences(drawn, matched)


def test_swapped_sentences_are_of_other_images_and_the_rest_are_their_own() -> None:
    pairs, drawn = many()
    assert drawn.is_matched.any()
    assert (drawn.pair_ids == pairs)[drawn.is_matched].all()
    assert (IMAGES[drawn.pair_ids] != IMAGES[pairs])[~drawn.is_matched].all()


def test_candidates_restrict_the_draw() -> None:
    candidates = np.array([0, 7, 20, 33, 49])
    _, drawn = many(candidates, rate=1.0)
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
