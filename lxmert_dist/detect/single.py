"""One image, from a file or from pixels."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from lxmert_dist.opening import open_image
from lxmert_dist.schema import Detector, RoiRecord


def detect(
    image: Path | UInt8[np.ndarray, "height width 3"], detector: Detector, name: str | None = None
) -> RoiRecord:
    """Describe one image.

    Args:
        image: a file (see ``open_image``), or RGB pixels.
        detector: any.
        name: the record's ``image_id``; None takes the file's name without its suffix.

    Raises:
        DataError: the file cannot be opened, or the detector refuses it; names the image.
    """
    if isinstance(image, Path):
        pixels, name = open_image(image), name or image.stem
    else:
        pixels = image
    (record,) = detector.detect([name or "image"], [pixels])
    return record
