"""Boxes, shapes and colours of easy-VQA's images."""

import numpy as np
import pytest

from lxmert_dist.errors import DataError
from lxmert_dist.ingest.captions import COLOURS, SHAPES
from lxmert_dist.ingest.easy_vqa_shapes import box_of_shape, read_easy_vqa_shapes
from lxmert_dist.opening import open_image

PAINT = {
    "black": (0, 0, 0), "blue": (0, 0, 255), "brown": (165, 42, 42), "gray": (128, 128, 128),
    "green": (0, 255, 0), "red": (255, 0, 0), "teal": (0, 128, 128), "yellow": (255, 255, 0),
}  # fmt: skip


def test_a_box_is_what_differs_from_the_background_even_at_the_border():
    image = np.full((64, 64, 3), (248, 234, 230), np.uint8)
    image[0:20, 3:30] = PAINT["gray"]
    assert box_of_shape(image, "x").tolist() == [3, 0, 30, 20]
    image[20, 3:30] = (190, 180, 178)  # half covered
    assert box_of_shape(image, "x").tolist() == [3, 0, 30, 21]


def test_an_image_with_nothing_in_it_is_named():
    with pytest.raises(DataError, match="train/7: nothing differs from the background"):
        box_of_shape(np.full((8, 8, 3), 240, np.uint8), "train/7")


def test_the_package_has_shapes_of_the_told_colour_in_their_boxes():
    pytest.importorskip("easy_vqa")
    images = read_easy_vqa_shapes(None, "test", SHAPES, COLOURS)
    assert len(images) == 954  # of 1,000; the questions leave the shape of the others open
    for image in images[::20]:
        left, top, right, bottom = image.boxes[0].astype(int)
        assert 8 <= right - left <= 40
        if image.attribute_ids[0] >= 0:
            inside = open_image(image.source)[top:bottom, left:right].astype(int)
            like = np.abs(inside - PAINT[COLOURS[image.attribute_ids[0]]]).max(axis=2) < 40
            # Half of its box, or pi/4 of it, less the mixed pixels of its edge.
            assert like.mean() > (0.3 if SHAPES[image.object_ids[0]] == "triangle" else 0.6)
