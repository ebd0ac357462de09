"""Which answer is drawn (shares are in ``test_statistics.py``), and how answers are written."""

import numpy as np
import pytest

from lxmert_dist.objectives.answers import draw_answers, normalise_answer
from lxmert_dist.schema import IGNORED


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Yes", "yes"),
        ("yes.", "yes"),
        ("a dog .", "dog"),
        ("The Dog", "dog"),
        ("an apple", "apple"),
        ("a the cat", "cat"),
        ("the a cat", "a cat"),
        ("three", "3"),
        ("Ten.", "10"),
        ("eleven", "eleven"),
        ("Grey", "gray"),
        ("2.", "2"),
        ("another", "another"),
        ("theatre", "theatre"),
        ("", ""),
    ],
)
def test_normalise(raw: str, expected: str) -> None:
    assert normalise_answer(raw) == expected


def test_none_one_and_mismatched() -> None:
    drawn = draw_answers(
        np.array([5, 6, 7, 8]),
        np.array([True, True, False, True]),
        np.array([0, 0, 1, 2, 3]),
        np.array([4, 5, 6]),
        np.array([0.1, 1.0, 1.0]),
        seed=2,
        epoch=0,
    )
    assert drawn.tolist() == [IGNORED, 4, IGNORED, 6]
    assert drawn.dtype == np.int64


def test_a_batch_without_answers() -> None:
    nothing = np.zeros(0)
    drawn = draw_answers(
        np.arange(3),
        np.ones(3, bool),
        np.zeros(4, np.int64),
        nothing.astype(np.int64),
        nothing,
        seed=2,
        epoch=0,
    )
    assert (drawn == IGNORED).all()


def test_draws_do_not_depend_on_the_batch() -> None:
    random = np.random.default_rng(0)
    counts = random.integers(0, 5, 200)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    ids = np.arange(offsets[-1])
    scores = random.random(offsets[-1]).astype(np.float32) + 0.01
    matched = np.ones(200, bool)
    whole = draw_answers(np.arange(200), matched, offsets, ids, scores, seed=1, epoch=5)
    for start, stop in ((0, 1), (17, 60), (199, 200)):
        part = draw_answers(
            np.arange(start, stop),
            matched[start:stop],
            offsets[start : stop + 1] - offsets[start],
            ids[offsets[start] : offsets[stop]],
            scores[offsets[start] : offsets[stop]],
            seed=1,
            epoch=5,
        )
        assert (part == whole[start:stop]).all()
