"""Intervals: what theory says of simple cases, and what a plain loop says of any."""

import numpy as np
import pytest

from lxmert_dist.errors import DataError
from lxmert_dist.keyed import Purpose, integers
from lxmert_dist.scoring import bootstrap
from lxmert_dist.scoring.bootstrap import intervals
from lxmert_dist.scoring.result import Figure


def figure(scores, clusters):
    return Figure(0.0, list(scores), list(clusters))


@pytest.fixture
def parts():
    """Three figures over 40 images; one of them has scores of few images."""
    draw = np.random.default_rng(5)
    images = draw.integers(0, 40, 300).tolist()
    scores = draw.choice([0.0, 0.3, 0.6, 0.9, 1.0], 300).tolist()
    rare = [n for n, image in enumerate(images) if image in (3, 4)]
    return {
        "all": {
            "accuracy": figure(scores, images),
            "rare": figure([scores[n] for n in rare], [images[n] for n in rare]),
        },
        "type": {"even": figure(scores[::2], images[::2])},
    }


def by_hand(parts, resamples, seed):
    """The same with loops: clusters in order of appearance, their scores put together."""
    figures = {(part, name): f for part, named in parts.items() for name, f in named.items()}
    clusters = list(dict.fromkeys(c for f in figures.values() for c in f.clusters))
    found = {key: [] for key in figures}
    places = np.arange(len(clusters))
    for number in range(resamples):
        drawn = integers(seed, 0, number, Purpose.BOOTSTRAP, places, below=len(clusters))
        for key, one in figures.items():
            scores = [
                score
                for place in drawn
                for score, cluster in zip(one.scores, one.clusters, strict=True)
                if cluster == clusters[place]
            ]
            if scores:
                found[key].append(100 * sum(scores) / len(scores))
    return {key: np.quantile(values, [0.025, 0.975]) for key, values in found.items()}


@pytest.mark.parametrize("block", [1, 100, 1 << 22])
def test_it_is_what_a_loop_finds(parts, monkeypatch, block):
    monkeypatch.setattr(bootstrap, "_BLOCK", block)
    found, expected = intervals(parts, 60, seed=3), by_hand(parts, 60, seed=3)
    assert list(found) == list(expected)
    for key, bounds in expected.items():
        np.testing.assert_allclose(found[key], bounds, rtol=1e-12)


def test_single_questions_give_the_normal_interval():
    n, right = 2000, 1400
    whole = {"all": {"accuracy": figure([1.0] * right + [0.0] * (n - right), range(n))}}
    low, high = intervals(whole, 4000)["all", "accuracy"]
    half = 100 * 1.96 * (0.7 * 0.3 / n) ** 0.5  # 2.01 points
    # Percentiles of 4,000 resamples have a standard error of 0.04 points here.
    assert low == pytest.approx(70 - half, abs=0.2)
    assert high == pytest.approx(70 + half, abs=0.2)


def test_equal_questions_of_one_image_count_once():
    n, copies = 500, 4
    scores = [float(image % 5 < 3) for image in range(n) for _ in range(copies)]
    images = [image for image in range(n) for _ in range(copies)]
    once = {"all": {"accuracy": figure(scores[::copies], range(n))}}
    many = {"all": {"accuracy": figure(scores, images)}}
    apart = {"all": {"accuracy": figure(scores, range(n * copies))}}
    bounds = intervals(once, 2000)["all", "accuracy"]
    np.testing.assert_allclose(intervals(many, 2000)["all", "accuracy"], bounds, rtol=1e-12)
    low, high = intervals(apart, 2000)["all", "accuracy"]
    assert high - low == pytest.approx((bounds[1] - bounds[0]) / 2, rel=0.1)


def test_the_seed_decides(parts):
    assert intervals(parts, 50, seed=1) == intervals(parts, 50, seed=1)
    assert intervals(parts, 50, seed=1) != intervals(parts, 50, seed=2)


def test_what_is_always_right_has_no_width():
    sure = {"all": {"accuracy": figure([1.0] * 6, "aabbcc")}}
    assert intervals(sure, 100)["all", "accuracy"] == (100.0, 100.0)


def test_one_image_tells_no_interval():
    with pytest.raises(DataError, match="one image"):
        intervals({"all": {"accuracy": figure([1.0, 0.0], [7, 7])}}, 10)
