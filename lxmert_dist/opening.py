"""Image files that nobody vouches for -> RGB pixels, or an error that names the file."""

import io
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from lxmert_dist.errors import DataError, unreadable

MAX_PIXELS = 89_478_485
"""Of an image that is opened unless the caller says otherwise: 256 MiB as RGB."""
_BACKGROUND = (255, 255, 255)
"""What shows through where an image is transparent."""


def open_image(
    source: Path | bytes, name: str | None = None, *, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "height width 3"]:
    """Decode an image.

    It is turned as its EXIF orientation says. Transparent pixels are laid over white; of an
    animation the first frame is taken; CMYK, palettes, gray and other colour models are converted,
    and 16 bits become 8 by their upper byte.

    Args:
        source: a file, or its contents.
        name: what errors call it; None takes the path.
        max_pixels: a larger image is refused by its header, before memory is taken for it.

    Returns:
        RGB, writable.

    Raises:
        DataError: the file is missing, empty, truncated or damaged, is no image, is too large, or
            has values of no known range; says which, and names it.
    """
    name = name or (str(source) if isinstance(source, Path) else "image")
    try:
        data = source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        raise DataError(unreadable(name, error)) from error
    if not data:
        raise DataError(f"{name}: the file is empty; fetch it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked, and of odd metadata
            with Image.open(io.BytesIO(data)) as image:
                _require_size(image, name, max_pixels)
                return _pixels(image, name)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: too large ({error}); leave it out") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: no image that Pillow can decode; leave it out") from error
    except Exception as error:  # on damaged data its decoders raise a dozen kinds
        raise DataError(f"{name}: truncated or damaged ({error}); fetch it again") from error


def pixels_in(data: bytes) -> int:
    """How many pixels an image says that it has, by its header alone; 0 if that cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                return image.width * image.height
    except Exception:  # whatever is wrong with it, :func:`open_image` says
        return 0


def _require_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(
            f"{name}: {width}x{height} are more than {max_pixels:,} pixels; make it smaller or "
            "raise max_pixels"
        )
    if not width * height:
        raise DataError(f"{name}: it has no pixels; leave it out")


def _pixels(image: Image.Image, name: str) -> UInt8[np.ndarray, "height width 3"]:
    image.seek(0)
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I"):
        turned = Image.fromarray(_upper_byte(np.asarray(turned), name))
    elif turned.mode == "F":
        raise DataError(f"{name}: floating point values of no known range; convert it to 8 bits")
    if turned.has_transparency_data:
        layer = turned.convert("RGBA")
        turned = Image.new("RGBA", layer.size, (*_BACKGROUND, 255))
        turned.alpha_composite(layer)
    return np.array(turned.convert("RGB"))


def _upper_byte(values: np.ndarray, name: str) -> UInt8[np.ndarray, "height width"]:
    if values.min() < 0 or values.max() > 0xFFFF:
        raise DataError(f"{name}: integers of no known range; convert it to 8 or 16 bits")
    return (values.astype(np.uint16) >> 8).astype(np.uint8)
