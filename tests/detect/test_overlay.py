import numpy as np
import pytest

from lxmert_dist.detect.overlay import draw_record
from lxmert_dist.errors import DataError
from lxmert_dist.schema import RoiRecord

NAMES = {"object_classes": ("cat", "dog"), "attribute_classes": ("gray", "small")}


def record(scores=(0.9, 0.4)) -> RoiRecord:
    return RoiRecord(
        image_id="x",
        height=100,
        width=200,
        boxes=np.array([[0.1, 0.5, 0.4, 0.9], [0.5, 0.1, 0.95, 0.8]], np.float32),
        roi_features=np.zeros((2, 3), np.float32),
        object_ids=np.array([0, 1]),
        object_scores=np.array(scores, np.float32),
        attribute_ids=np.array([0, 1]),
        attribute_scores=np.array([0.5, 0.0], np.float32),
    )


def drawn(**options) -> np.ndarray:
    """Where the picture differs from a white image."""
    image = np.full((100, 200, 3), 255, np.uint8)
    return (np.asarray(draw_record(image, record(), **NAMES, **options)) != 255).any(axis=2)


def test_boxes_are_where_they_should_be():
    marks = drawn()
    for left, top, right, bottom in ((20, 50, 79, 89), (100, 10, 189, 79)):
        assert marks[bottom, left : right + 1].all()
        assert marks[top : bottom + 1, right].all()
    assert not marks[:, :19].any()
    assert not marks[91:].any()


def test_the_likeliest_alone():
    marks = drawn(limit=1)
    assert marks[:, :80].any()
    assert not marks[:, 100:].any()


def test_labels_tell_attribute_object_and_score(monkeypatch):
    written = []
    monkeypatch.setattr(
        "PIL.ImageDraw.ImageDraw.text", lambda draw, place, text, *rest: written.append(text)
    )
    drawn()
    assert written == ["dog 0.40", "gray cat 0.90"]


def test_an_image_of_another_size():
    with pytest.raises(DataError, match="image x is 50x40, and its record is of 200x100"):
        draw_record(np.zeros((40, 50, 3), np.uint8), record(), **NAMES)
