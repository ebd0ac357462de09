import numpy as np
import pytest

from lxmert_dist.detect.colours import BASIC_COLOURS, COLOUR_NAMES, nearest_colours


def test_every_basic_colour_is_nearest_to_itself():
    ids, scores = nearest_colours(np.array(list(BASIC_COLOURS.values()), np.float32))
    np.testing.assert_array_equal(ids, np.arange(len(COLOUR_NAMES)))
    assert (scores > 0.5).all()
    assert (scores <= 1).all()


@pytest.mark.parametrize(
    ("colour", "name"),
    [((0, 255, 0), "green"), ((250, 240, 245), "white"), ((150, 50, 40), "brown")],
)
def test_names_colours_that_are_not_in_the_table(colour, name):
    ids, _ = nearest_colours(np.array([colour], np.float32))
    assert COLOUR_NAMES[ids[0]] == name


def test_score_is_the_softmax_of_the_nearest():
    colour = np.array([[200, 20, 30]], np.float32)
    weights = np.exp(
        [-np.linalg.norm(colour[0] - np.array(rgb)) / 32 for rgb in BASIC_COLOURS.values()]
    )
    _, scores = nearest_colours(colour)
    assert scores[0] == pytest.approx(weights.max() / weights.sum(), rel=1e-5)
