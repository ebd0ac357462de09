from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from lxmert_dist.detect import SalientDetector
from lxmert_dist.detect.backbone import EfficientNetLite0
from lxmert_dist.errors import ConfigError, DataError
from lxmert_dist.schema import Detector


@pytest.fixture(scope="module")
def detector():
    return SalientDetector()


def drawing(colour, box=(20, 10, 45, 30), size=(64, 64)):
    image = np.full((*size, 3), (245, 235, 240), np.uint8)
    left, top, right, bottom = box
    image[top:bottom, left:right] = colour
    return image


def eight_drawings():
    rng = np.random.default_rng(0)
    images = []
    for i in range(8):
        height, width = (int(n) for n in rng.integers(40, 120, 2))
        box = (i + 2, i + 3, i + 20, i + 15)
        images.append(drawing(rng.integers(0, 255, 3), box, (height, width)))
    return images


def test_a_record_says_where_and_what_colour(detector: Detector):
    image = drawing((0, 0, 255), box=(16, 8, 48, 24), size=(32, 64))
    (record,) = detector.detect(["a"], [image])
    assert (record.image_id, record.height, record.width) == ("a", 32, 64)
    np.testing.assert_allclose(
        record.boxes,
        [[0, 0, 1, 1], [0.25, 0.25, 0.75, 0.75], [0.25, 0.25, 0.5, 0.5], [0.5, 0.25, 0.75, 0.5]],
    )
    names = [detector.attribute_classes[i] for i in record.attribute_ids]
    assert names == ["white", "blue", "blue", "blue"]
    assert record.attribute_scores[1] > record.attribute_scores[0]


def test_colour_is_that_of_the_shape_and_not_of_what_shows_through_it(detector):
    frame = drawing((255, 0, 0), box=(10, 10, 50, 50))
    frame[13:47, 13:47] = (245, 235, 240)
    (record,) = detector.detect(["frame"], [frame])
    names = [detector.attribute_classes[i] for i in record.attribute_ids]
    assert names == ["white", "red", "red", "red"]


@pytest.mark.parametrize("num_objects", [1, 5])
def test_a_record_has_the_types_and_ranges_of_the_door(num_objects):
    detector = SalientDetector(num_objects, input_size=64)
    for record in detector.detect(list("ab"), [drawing((9, 9, 9)), drawing((9, 200, 9))]):
        assert record.roi_features.shape == (num_objects, detector.feature_dim)
        assert record.boxes.shape == (num_objects, 4)
        for field in (record.roi_features, record.boxes):
            assert field.dtype == np.float32
            assert np.isfinite(field).all()
        for ids, scores, classes in (
            (record.object_ids, record.object_scores, detector.object_classes),
            (record.attribute_ids, record.attribute_scores, detector.attribute_classes),
        ):
            assert ids.dtype == np.int64
            assert scores.dtype == np.float32
            assert ids.shape == scores.shape == (num_objects,)
            assert ((ids >= 0) & (ids < len(classes))).all()
            assert ((scores > 0) & (scores <= 1)).all()


def test_neither_batch_nor_repetition_changes_a_record(detector):
    images = eight_drawings()
    ids = [str(i) for i in range(8)]
    together = detector.detect(ids, images)
    again = detector.detect(ids, images)
    for i, record in enumerate(together):
        (alone,) = detector.detect([ids[i]], [images[i]])
        # Measured worst case on 256 easy-VQA images, batch 1 against 32: 4.1e-6 (of up to 7).
        np.testing.assert_allclose(record.roi_features, alone.roi_features, atol=1e-4)
        np.testing.assert_array_equal(record.roi_features, again[i].roi_features)
        np.testing.assert_array_equal(record.boxes, alone.boxes)
        np.testing.assert_array_equal(record.object_ids, alone.object_ids)
        np.testing.assert_array_equal(record.attribute_ids, alone.attribute_ids)


def test_features_tell_shapes_apart_and_follow_the_box(detector):
    left, right = drawing((255, 0, 0), (4, 20, 24, 40)), drawing((255, 0, 0), (36, 20, 56, 40))
    a, b = detector.detect(["a", "b"], [left, right])
    other = drawing((255, 0, 0), (4, 20, 24, 40))
    other[20:40, 4:24][np.tri(20, dtype=bool)] = (245, 235, 240)
    (c,) = detector.detect(["c"], [other])

    def distance(x, y):
        return np.linalg.norm(x.roi_features[1] - y.roi_features[1])

    assert distance(a, b) < 0.5 * distance(a, c)


def test_the_network_knows_a_photograph():
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    photograph = np.asarray(Image.open(path).convert("RGB"))
    detector = SalientDetector(num_objects=1, input_size=224)
    (record,) = detector.detect(["photograph"], [photograph])
    assert detector.object_classes[record.object_ids[0]] == "military uniform"
    assert record.object_scores[0] > 0.3


def test_maps_agree_with_the_whole_network():
    backbone = EfficientNetLite0()
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    head = backbone(pixels)[-1]
    expected = backbone.network((pixels - 127) / 128)
    torch.testing.assert_close(backbone.classify(head.mean((2, 3))), expected)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_refuses_what_is_not_rgb(detector, image):
    with pytest.raises(DataError, match="image bad: expected uint8 RGB"):
        detector.detect(["bad"], [image])


def test_an_empty_batch_has_no_records(detector):
    assert detector.detect([], []) == []


@pytest.mark.parametrize("sizes", [{"num_objects": 0}, {"input_size": 100}, {"input_size": 0}])
def test_refuses_sizes_out_of_range(sizes):
    with pytest.raises(ConfigError, match=next(iter(sizes))):
        SalientDetector(**sizes)


def test_weights_of_another_network_are_refused(tmp_path):
    wrong = tmp_path / "wrong.pth"
    torch.save({"layer": torch.zeros(2)}, wrong)
    for path in (wrong, tmp_path / "missing.pth"):
        with pytest.raises(DataError, match=path.name):
            EfficientNetLite0(path)
