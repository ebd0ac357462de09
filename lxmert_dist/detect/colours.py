"""The nearest basic colour of a region."""

import numpy as np
from jaxtyping import Float32, Int64

BASIC_COLOURS = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "brown": (165, 42, 42),
    "gray": (128, 128, 128),
    "green": (0, 128, 0),
    "orange": (255, 165, 0),
    "pink": (255, 192, 203),
    "purple": (128, 0, 128),
    "red": (255, 0, 0),
    "teal": (0, 128, 128),
    "white": (255, 255, 255),
    "yellow": (255, 255, 0),
}
"""The eleven basic colour terms (Berlin & Kay, 1969) and teal, at their CSS values (RGB)."""
COLOUR_NAMES = tuple(BASIC_COLOURS)
_SOFTNESS = 32.0
"""RGB distance over which a colour's odds fall by a factor of e."""


def nearest_colours(
    colours: Float32[np.ndarray, "K 3"],
) -> tuple[Int64[np.ndarray, " K"], Float32[np.ndarray, " K"]]:
    """Name colours.

    Args:
        colours: RGB, values in [0, 255].

    Returns:
        For each the index into ``COLOUR_NAMES`` of the colour nearest in RGB, and its
        probability in (0, 1]: a softmax over negative distances.
    """
    palette = np.array(list(BASIC_COLOURS.values()), np.float32)  # (C, 3)
    distance = np.linalg.norm(colours[:, None] - palette, axis=-1)  # (K, C)
    ids = distance.argmin(axis=-1)
    gap = distance - np.take_along_axis(distance, ids[:, None], axis=-1)
    scores = 1.0 / np.exp(-gap / _SOFTNESS).sum(axis=-1)
    return ids.astype(np.int64), scores.astype(np.float32)
