"""Images that look alike, by a hash of their coarse structure (pHash).

A picture is made grey and 32 x 32; the signs of its 8 x 8 lowest cosine coefficients against their
median are 64 bits, of which recompression and another size change few.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt64
from PIL import Image

from lxmert_dist.errors import DataError

SIDE, KEPT = 32, 8
DRAFT = 4 * SIDE
"""JPEG is decoded no larger than it must be for this side."""

FLAT = 1.0
"""Grey levels by which a picture varies at least; of a flat one the hash would be noise."""

_ROWS = 16
"""Hashes that are compared with all others at once: 64 bits each, of a block that fits a cache."""


def perceptual_hash(path: Path) -> int | None:
    """64 bits; None where the picture is flat.

    Raises:
        DataError: the file is missing, or is no image that Pillow can decode.
    """
    try:
        with Image.open(path) as image:
            image.draft("L", (DRAFT, DRAFT))
            grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: unreadable image ({error}); fetch it again") from error
    pixels = np.asarray(grey, np.float64)
    if pixels.std() < FLAT:
        return None
    basis = _cosines()
    low = (basis @ pixels @ basis.T).ravel()  # (64,)
    bits = np.packbits(low > np.median(low))
    return int.from_bytes(bits.tobytes(), "big")


def pairs_within(
    left: UInt64[np.ndarray, " M"], right: UInt64[np.ndarray, " N"], distance: int
) -> Iterator[tuple[int, int, int]]:
    """All pairs of hashes that differ in few bits: index in each, and bits that differ."""
    for start in range(0, len(left), _ROWS):
        block = left[start : start + _ROWS, None] ^ right[None]
        apart = np.bitwise_count(block)  # (., N)
        for row, column in np.argwhere(apart <= distance).tolist():
            yield start + row, column, int(apart[row, column])


def _cosines() -> Float64[np.ndarray, "8 32"]:
    """The lowest rows of the cosine transform (DCT-II), not normalised: only signs are used."""
    angle = np.pi / SIDE * np.outer(np.arange(KEPT), np.arange(SIDE) + 0.5)
    return np.cos(angle)
