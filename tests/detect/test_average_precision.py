"""Mean average precision by hand, and against an independent computation."""

import numpy as np
import pytest

from lxmert_dist.detect.training import Found, There, mean_average_precision


def found(boxes, classes, scores):
    return Found(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64),
        np.array(scores, np.float32),
    )  # fmt: skip


def there(boxes, classes):
    return There(np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64))


A, B, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (50, 50, 60, 60)


@pytest.mark.parametrize(
    ("boxes", "scores", "expected"),
    [
        ([A, B], [0.9, 0.8], 1.0),
        ([A], [0.9], 0.5),
        ([], [], 0.0),
        ([FAR, A, B], [0.9, 0.8, 0.7], 2 / 3),  # precision 1/2 then 2/3, made falling
        ([A, FAR, B], [0.9, 0.8, 0.7], (1 + 2 / 3) / 2),
        ([A, A, B], [0.9, 0.8, 0.7], (1 + 2 / 3) / 2),  # a thing is found once
        ([A, B, FAR], [0.9, 0.8, 0.7], 1.0),  # what comes after all were found costs nothing
        ([(0, 0, 10, 5), B], [0.9, 0.8], 1.0),  # an overlap of exactly a half
        ([(0, 0, 10, 4.9), B], [0.9, 0.8], 0.25),
    ],
)
def test_cases_by_hand(boxes, scores, expected):
    image = found(boxes, [0] * len(boxes), scores)
    value, _ = mean_average_precision([image], [there([A, B], [0, 0])])
    assert value == pytest.approx(expected)


def test_the_mean_is_over_classes_that_are_there():
    image = found([A, B, FAR], [0, 0, 7], [0.9, 0.8, 0.9])
    value, each = mean_average_precision([image], [there([A, B], [0, 2])])
    assert each == {0: 1.0, 2: 0.0}
    assert value == 0.5


def test_without_anything_there_is_no_mean():
    assert np.isnan(mean_average_precision([found([A], [0], [1.0])], [there([], [])])[0])


def brute_force(images, truths, wanted, overlap):
    """From the definition: for every recall level, the best precision at it or above."""
    rows = [
        (-score, image, place)
        for image, one in enumerate(images)
        for place, score in enumerate(one.scores)
        if one.classes[place] == wanted
    ]
    taken, outcomes = set(), []
    for _, image, place in sorted(rows):
        box, best, which = images[image].boxes[place], -1.0, None
        for thing, other in enumerate(truths[image].boxes):
            if truths[image].classes[thing] == wanted:
                wide = min(box[2], other[2]) - max(box[0], other[0])
                high = min(box[3], other[3]) - max(box[1], other[1])
                both = max(wide, 0) * max(high, 0)
                areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
                if both / (areas - both) > best:
                    best, which = both / (areas - both), (image, thing)
        outcomes.append(best >= overlap and which not in taken)
        if outcomes[-1]:
            taken.add(which)
    total = sum((t.classes == wanted).sum() for t in truths)
    points = [(sum(outcomes[:n]), sum(outcomes[:n]) / n) for n in range(1, len(outcomes) + 1)]
    return (
        sum(
            max((precision for hits, precision in points if hits >= level), default=0.0)
            for level in range(1, total + 1)
        )
        / total
    )


@pytest.mark.parametrize("seed", range(5))
def test_random_scenes_agree_with_the_definition(seed):
    rng = np.random.default_rng(seed)
    images, truths = [], []
    for _ in range(12):
        number = rng.integers(0, 6)
        corner = rng.uniform(0, 40, (number, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 20, (number, 2))], axis=1)
        truths.append(there(boxes, rng.integers(0, 3, number)))
        again = np.concatenate([boxes, boxes]) + rng.normal(0, 1.5, (2 * number, 4))
        again[:, 2:] = np.maximum(again[:, 2:], again[:, :2] + 1)
        classes = np.concatenate([truths[-1].classes, rng.integers(0, 3, number)])
        images.append(found(again, classes, rng.permutation(2 * number) + rng.random()))
    _, each = mean_average_precision(images, truths)
    for wanted, value in each.items():
        assert value == pytest.approx(brute_force(images, truths, wanted, 0.5), abs=1e-9)
    assert min(each.values()) < 1
