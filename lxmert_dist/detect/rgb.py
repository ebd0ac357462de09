"""What every detector takes: RGB."""

import numpy as np

from lxmert_dist.errors import DataError


def check_rgb(image_id: str, image: np.ndarray) -> None:
    """Refuse what is no image in RGB.

    Raises:
        DataError: it is not uint8 of shape (height, width, 3), or is empty; names it.
    """
    is_rgb = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    if not is_rgb or image.size == 0:
        raise DataError(
            f"image {image_id}: expected uint8 RGB of shape (height, width, 3), "
            f"got {image.dtype} {image.shape}; convert it before detection"
        )
