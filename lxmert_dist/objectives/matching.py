"""Which pairs are given the sentence of another image (paper, section 3.1.3)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Integer

from lxmert_dist.errors import DataError
from lxmert_dist.keyed import Purpose, integers, uniform

MAX_DRAWS = 1000
"""Redraws before giving up: enough where one image owns 98% of the sentences (1 in 6e8)."""


class DrawnSentences(NamedTuple):
    """``pair_ids`` whose sentence each pair reads; its own where ``is_matched``."""

    pair_ids: Int64[np.ndarray, " B"]
    is_matched: Bool[np.ndarray, " B"]


def draw_sentences(
    pair_ids: Int64[np.ndarray, " B"],
    sentence_images: Integer[np.ndarray, " P"],
    candidates: Integer[np.ndarray, " C"] | None,
    *,
    rate: float,
    seed: int,
    epoch: int,
) -> DrawnSentences:
    """Swap sentences at ``rate`` for one drawn uniformly over the candidates.

    Sentences of the same image are redrawn. Draws depend on the pair alone.

    Args:
        pair_ids: of the batch.
        sentence_images: the image row of every sentence of the split.
        candidates: pair ids of the sentences that the run reads; None is the whole split.
        rate: chance of a swap, in [0, 1].
        seed: of the run.
        epoch: that keys the draws.

    Raises:
        DataError: practically all candidates belong to the pair's own image.
    """
    drawn = pair_ids.copy()
    is_matched = uniform(seed, epoch, pair_ids, Purpose.MATCH) >= rate
    waiting = np.flatnonzero(~is_matched)
    below = len(sentence_images) if candidates is None else len(candidates)
    for retry in range(MAX_DRAWS):
        if not waiting.size:
            return DrawnSentences(drawn, is_matched)
        own = pair_ids[waiting]
        picks = integers(seed, epoch, own, Purpose.NEGATIVE, retry, below=below)
        drawn[waiting] = picks if candidates is None else candidates[picks]
        same_image = sentence_images[drawn[waiting]] == sentence_images[own]
        waiting = waiting[same_image]
    raise DataError(
        f"no sentence of another image among {MAX_DRAWS} draws for pair {pair_ids[waiting[0]]}; "
        "add images, or set objectives.mismatch_rate = 0"
    )
