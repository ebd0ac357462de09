"""How well the matching task can be done at all."""

import numpy as np
from jaxtyping import Int64

from lxmert_dist.errors import DataError


def matching_ceiling(
    token_ids: Int64[np.ndarray, "P T"], image_rows: Int64[np.ndarray, " P"]
) -> float:
    """The best expected accuracy of matching, when half the sentences are swapped.

    A swapped-in sentence, uniform over those of other images, may be true of the image by
    chance. If an image has every sentence that is true of it, then "true" is "token-identical to
    one of its own"; such a pair looks matched, and is so with odds of at least one, so the best
    answer is wrong on it: ``0.5 + 0.5 * (1 - P(swapped-in sentence is true))``.

    Args:
        token_ids: one sentence a row, padded with any one id.
        image_rows: the image of each sentence, >= 0.

    Returns:
        In [0.5, 1].

    Raises:
        DataError: the sentences are about fewer than two images.
    """
    num_pairs = len(image_rows)
    pairs_of_image = np.bincount(image_rows)  # (N,)
    if np.count_nonzero(pairs_of_image) < 2:
        raise DataError("matching needs sentences about at least two images")
    _, texts, copies = np.unique(token_ids, axis=0, return_inverse=True, return_counts=True)
    own = np.unique(np.stack([image_rows, texts.reshape(-1)], axis=1), axis=0)  # (., 2)
    # Of each image: how many sentences, anywhere, have the text of one of its own.
    true_of_image = np.bincount(own[:, 0], weights=copies[own[:, 1]], minlength=len(pairs_of_image))
    others = np.maximum(num_pairs - pairs_of_image, 1)
    true_by_chance = (true_of_image - pairs_of_image) / others
    return float(1 - 0.5 * (pairs_of_image * true_by_chance).sum() / num_pairs)
