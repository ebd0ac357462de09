import numpy as np
import pytest

from lxmert_dist.detect.salient import find_salient, otsu_threshold, select_boxes


def blank(height=48, width=64, colour=(240, 235, 250)):
    return np.full((height, width, 3), colour, np.uint8)


def test_finds_each_region_at_its_place_most_salient_first():
    image = blank()
    image[30:34, 5:9] = (255, 0, 0)
    image[10:30, 20:50] = (0, 0, 255)
    found = find_salient(image)
    np.testing.assert_array_equal(found.boxes, [[20, 10, 50, 30], [5, 30, 9, 34]])
    assert found.mask.sum() == 20 * 30 + 4 * 4


def test_background_survives_a_shape_at_the_border():
    image = blank()
    image[:20, :25] = (0, 0, 0)
    np.testing.assert_array_equal(find_salient(image).boxes, [[0, 0, 25, 20]])


def test_flat_and_nearly_flat_images_have_no_region():
    faint = blank()
    faint[10:20, 10:20] -= 3
    for image in (blank(), faint, blank(1, 1)):
        found = find_salient(image)
        assert found.boxes.shape == (0, 4)
        assert not found.mask.any()


def test_diagonal_neighbours_are_one_region():
    image = blank()
    image[10, 10] = image[11, 11] = (0, 0, 0)
    assert len(find_salient(image).boxes) == 1


def test_otsu_splits_two_clusters_as_an_exhaustive_search_does():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.uniform(0, 3, 400), rng.uniform(8, 10, 50)]).astype(np.float32)

    def between_class_variance(cut):
        low, high = values[values <= cut], values[values > cut]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2

    best = max(between_class_variance(cut) for cut in np.linspace(0.5, 9.5, 500))
    assert between_class_variance(otsu_threshold(values)) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 6, 9])
def test_selects_image_then_regions_then_quadrants(count):
    regions = np.array([[8, 8, 24, 16], [0, 0, 4, 4]], np.float32)
    expected = [
        [0, 0, 64, 48],
        [8, 8, 24, 16],
        [0, 0, 4, 4],
        [8, 8, 16, 12],
        [16, 8, 24, 12],
        [8, 12, 16, 16],
        [16, 12, 24, 16],
        [8, 8, 12, 10],
        [12, 8, 16, 10],
    ]
    np.testing.assert_array_equal(select_boxes(regions, count, 48, 64), expected[:count])


def test_without_regions_the_image_is_cut():
    none = np.zeros((0, 4), np.float32)
    np.testing.assert_array_equal(
        select_boxes(none, 3, 48, 64), [[0, 0, 64, 48], [0, 0, 32, 24], [32, 0, 64, 24]]
    )
