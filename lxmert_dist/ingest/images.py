"""Image files -> pixels."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lxmert_dist.errors import DataError


def read_image(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """Decode an image as RGB, values 0..255.

    Raises:
        DataError: the file is missing, or is no image that Pillow can decode.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: unreadable image ({error}); fetch it again") from error
