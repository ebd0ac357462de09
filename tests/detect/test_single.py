"""The doors of the room, on a photograph."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest

from lxmert_dist.detect import detect, draw_record, load_detector, open_image, save_detector
from lxmert_dist.errors import DataError
from tiny_rcnn import tiny_detector, tiny_network

PHOTOGRAPH = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def test_from_a_directory_to_a_picture(tmp_path):
    made = tiny_detector()
    names = {
        "object_classes": made.object_classes,
        "attribute_classes": made.attribute_classes,
    }
    save_detector(tmp_path, made.config, tiny_network(made.config), **names)
    detector = load_detector(tmp_path)
    record = detect(PHOTOGRAPH, detector)
    assert record.image_id == "grace_hopper"
    pixels = open_image(PHOTOGRAPH)
    assert pixels.shape == (record.height, record.width, 3)
    again = detect(pixels, made, "grace_hopper")
    np.testing.assert_array_equal(record.roi_features, again.roi_features)
    picture = draw_record(pixels, record, **names)
    assert picture.size == (record.width, record.height)
    assert (np.asarray(picture) != pixels).any()


def test_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jpg: cannot be read"):
        detect(tmp_path / "gone.jpg", tiny_detector())
