"""Which regions are kept, against the published script written out in NumPy."""

import numpy as np
import pytest
import torch

from lxmert_dist.config.detector import SelectionConfig
from lxmert_dist.detect.faster_rcnn import Regions
from lxmert_dist.detect.selection import class_survivors, select

CLASSES = 7


def regions(number: int, seed: int = 0, sharpness: float = 3.0, side: float = 100.0) -> Regions:
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(number, 2, generator=rng) * side
    sides = torch.rand(number, 2, generator=rng) * side / 2 + 2
    boxes = torch.cat([corner, corner + sides], dim=1)
    return Regions(
        boxes=boxes,
        features=torch.rand(number, 5, generator=rng),
        object_logits=torch.randn(number, CLASSES + 1, generator=rng) * sharpness,
        attribute_logits=None,
        corrected_boxes=boxes + torch.randn(number, 4, generator=rng),
    )


def suppressed(boxes, scores, threshold):
    """Greedy suppression as in Fast R-CNN's NumPy code: rows that are left, best first."""
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    order, kept = (-scores).argsort(kind="stable"), []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        width = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest]) + 1
        height = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest]) + 1
        both = np.maximum(width, 0) * np.maximum(height, 0)
        order = rest[both / (areas[best] + areas[rest] - both) <= threshold]
    return kept


def published_script(found: Regions, fewest, most, scale, threshold=0.2):
    boxes = (found.boxes * scale).double().numpy()
    probabilities = found.object_logits.softmax(dim=1).numpy()[:, :-1]
    best = np.zeros(len(boxes))
    for scores in probabilities.T:
        kept = suppressed(boxes, scores, 0.3)
        best[kept] = np.maximum(best[kept], scores[kept])
    rows = np.where(best >= threshold)[0]
    if len(rows) < fewest:
        rows = (-best).argsort(kind="stable")[:fewest]
    elif len(rows) > most:
        rows = (-best).argsort(kind="stable")[:most]
    return rows


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_caffe36_is_the_published_script(seed, sharpness):
    found = regions(120, seed, sharpness)
    scale = torch.tensor([1.3, 1.29, 1.3, 1.29])
    chosen = select(found, SelectionConfig(), scale)
    np.testing.assert_array_equal(chosen.rows, published_script(found, 36, 36, scale))
    torch.testing.assert_close(chosen.boxes, found.boxes[chosen.rows], rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(4))
def test_adaptive_keeps_as_many_as_count(seed):
    config = SelectionConfig(rule="adaptive")
    scale = torch.ones(4)
    numbers = []
    for sharpness in (0.1, 0.2, 0.25, 0.3, 6.0):
        found = regions(300, seed, sharpness, side=400.0)
        rows = select(found, config, scale).rows
        np.testing.assert_array_equal(rows, published_script(found, 10, 100, scale))
        numbers.append(len(rows))
    assert numbers[0] == 10
    assert any(10 < number < 100 for number in numbers)
    assert numbers[-1] == 100


def test_pixels_are_counted_inclusively():
    """11 of 31 pixels overlap: above 0.35 inclusively, below it (10/30) between corners."""
    boxes = torch.tensor([[0.0, 0.0, 20.0, 0.0], [10.0, 0.0, 30.0, 0.0]])
    scores = torch.tensor([[0.9], [0.8]])
    assert class_survivors(boxes, scores, 0.35)[:, 0].tolist() == [True, False]
    assert class_survivors(boxes, scores, 0.36)[:, 0].tolist() == [True, True]


def test_a_region_that_goes_in_one_class_may_stay_in_another():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0]])
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
    assert class_survivors(boxes, scores, 0.3).tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize("seed", range(4))
def test_regressed_raises_the_threshold_until_there_are_enough(seed):
    found = regions(60, seed, side=60.0)
    config = SelectionConfig(rule="regressed", boxes=45)
    chosen = select(found, config, torch.ones(4))
    boxes = found.corrected_boxes.double().numpy()
    boxes[:, 2:] -= 1  # undo the inclusive count of the code above
    likeliest = found.object_logits.softmax(dim=1).numpy()[:, :-1].max(axis=1)
    kept = [suppressed(boxes, likeliest, t)[:45] for t in config.image_nms_thresholds]
    expected = next(rows for rows in kept if len(rows) == 45)
    assert len(kept[0]) < 45  # or nothing was raised
    assert chosen.rows.tolist() == expected
    torch.testing.assert_close(chosen.boxes, found.corrected_boxes[chosen.rows], rtol=0, atol=0)


@pytest.mark.parametrize("sharpness", [0.5, 1.25, 6.0])
def test_confident_keeps_what_is_likely_enough(sharpness):
    found = regions(60, 1, sharpness, side=60.0)
    config = SelectionConfig(rule="confident", min_boxes=5, max_boxes=20, score_threshold=0.5)
    chosen = select(found, config, torch.ones(4))
    boxes = found.corrected_boxes.double().numpy()
    boxes[:, 2:] -= 1  # undo the inclusive count of the code above
    likeliest = found.object_logits.softmax(dim=1).numpy()[:, :-1].max(axis=1)
    left = suppressed(boxes, likeliest, config.image_nms_thresholds[0])
    sure = [row for row in left if likeliest[row] >= 0.5]
    expected = {0.5: left[:5], 1.25: sure, 6.0: sure[:20]}[sharpness]
    assert chosen.rows.tolist() == expected
    assert (len(sure) < 5, 5 < len(sure) < 20, len(sure) > 20)[(0.5, 1.25, 6.0).index(sharpness)]
    torch.testing.assert_close(chosen.boxes, found.corrected_boxes[chosen.rows], rtol=0, atol=0)


@pytest.mark.parametrize("rule", ["caffe36", "adaptive", "regressed", "confident"])
@pytest.mark.parametrize("number", [0, 1, 5])
def test_too_few_regions_are_all_kept(rule, number):
    found = regions(number, side=1e4)
    rows = select(found, SelectionConfig(rule=rule), torch.ones(4)).rows
    assert sorted(rows.tolist()) == list(range(number))
