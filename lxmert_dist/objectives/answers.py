"""Answers: how they are written, and which of several a pair is trained on (section 3.1.4).

Shapes: B pairs, E answers of all pairs together.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from lxmert_dist.keyed import Purpose, uniform
from lxmert_dist.schema import IGNORED

_ARTICLES = ("a ", "an ", "the ")
_SPELLINGS = {
    **{
        word: str(number)
        for number, word in enumerate(
            ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), 1
        )
    },
    "grey": "gray",
}


def normalise_answer(answer: str) -> str:
    """The form in which answers of different data sets are compared.

    In this order: lower case; without a trailing full stop; without leading articles; numbers up
    to ten as digits, and ``gray``.
    """
    text = answer.lower()
    if text.endswith("."):
        text = text[:-1].strip()
    for article in _ARTICLES:
        text = text.removeprefix(article).strip()
    return _SPELLINGS.get(text, text)


def draw_answers(
    pair_ids: Int64[np.ndarray, " B"],
    is_matched: Bool[np.ndarray, " B"],
    offsets: Int64[np.ndarray, " B+1"],
    answer_ids: Int[np.ndarray, " E"],
    scores: Float[np.ndarray, " E"],
    *,
    seed: int,
    epoch: int,
) -> Int64[np.ndarray, " B"]:
    """One answer a pair, with probability proportional to its score.

    Args:
        pair_ids: that key the draws.
        is_matched: False suppresses the answer.
        offsets: answers of pair i are ``answer_ids[offsets[i]:offsets[i + 1]]``.
        answer_ids: in [0, A).
        scores: in (0, 1].
        seed: of the run.
        epoch: that keys the draws.

    Returns:
        Answer ids; ``IGNORED`` where a pair has none or is mismatched.
    """
    counts = np.diff(offsets)  # (B,)
    # A row of scores a pair: a cumulative sum over all pairs would round by the batch.
    slots = np.arange(counts.max(initial=1))  # (S,), at least one
    rows, columns = np.nonzero(slots < counts[:, None])  # row-major: the order of the entries
    table = np.zeros((len(counts), len(slots)))
    table[rows, columns] = scores
    upto = np.cumsum(table, axis=1)  # (B, S)
    drawn = np.full(len(counts), IGNORED, np.int64)
    asked = np.flatnonzero(is_matched & (counts > 0))
    target = uniform(seed, epoch, pair_ids[asked], Purpose.ANSWER) * upto[asked, -1]
    place = (upto[asked] <= target[:, None]).sum(axis=1)
    drawn[asked] = answer_ids[offsets[asked] + np.minimum(place, counts[asked] - 1)]
    return drawn
