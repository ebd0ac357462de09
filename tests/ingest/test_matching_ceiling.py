import numpy as np
import pytest

from lxmert_dist.errors import DataError
from lxmert_dist.ingest import matching_ceiling


def brute_force(token_ids, image_rows):
    """Count every (image, swapped-in sentence of another image) with its weight."""
    texts = [tuple(row) for row in token_ids]
    chance = []
    for image in image_rows:
        own = {t for t, i in zip(texts, image_rows, strict=True) if i == image}
        swapped = [t for t, i in zip(texts, image_rows, strict=True) if i != image]
        chance.append(np.mean([text in own for text in swapped]))
    return 0.5 + 0.5 * (1 - np.mean(chance))


@pytest.mark.parametrize("seed", range(4))
def test_equals_a_brute_force_count(seed):
    rng = np.random.default_rng(seed)
    token_ids = rng.integers(0, 3, (60, 2))
    image_rows = np.sort(rng.choice([0, 2, 3, 5, 6, 9], 60))
    assert matching_ceiling(token_ids, image_rows) == pytest.approx(
        brute_force(token_ids, image_rows), abs=1e-12
    )


def test_known_cases():
    rows = np.array([0, 1, 2])
    assert matching_ceiling(np.array([[1], [2], [3]]), rows) == 1.0
    assert matching_ceiling(np.array([[1], [1], [1]]), rows) == 0.5
    # Of the two other images, one says the same for two of the three images.
    assert matching_ceiling(np.array([[1], [1], [2]]), rows) == pytest.approx(1 - 0.5 / 3)


def test_one_image_has_no_ceiling():
    with pytest.raises(DataError, match="two images"):
        matching_ceiling(np.array([[1], [2]]), np.array([4, 4]))
