"""What a feature store holds, counted for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int64

from lxmert_dist.store import Split, Store

SHOWN = 12
"""How many of the most frequent names are listed."""
LONGEST = 40
"""Word pieces; longer sentences are counted with those of this length."""


class Count(NamedTuple):
    """How often something occurs."""

    name: str
    number: int
    share: float
    """Of all occurrences, in [0, 1]."""


@dataclass(frozen=True)
class SplitAmounts:
    """Images and sentences of one split."""

    name: str
    images: int
    pairs: int
    sources: Mapping[str, int]


@dataclass(frozen=True)
class DataStatistics:
    """Amounts of all splits; the rest of the one that the run trains on."""

    splits: Sequence[SplitAmounts]
    counted: str
    """Name of the split that the rest is about."""
    lengths: Sequence[Count]
    """Sentences by number of word pieces, special tokens not included, without a gap."""
    cut: int
    """Sentences that are longer than the run reads."""
    answered: int
    """Sentences with an answer."""
    answers: Sequence[Count]
    """The most frequent ones; each sentence counts once for each of its answers."""
    objects: Sequence[Count]
    """The detector's most frequent object labels."""
    attributes: Sequence[Count]
    boxes: tuple[int, float, int]
    """Least, mean and most of an image."""


def count_data(store: Store, split: Split, max_tokens: int) -> DataStatistics:
    """Count what is in a store.

    Args:
        store: all of its splits are listed.
        split: the one that is looked into; its features are not read.
        max_tokens: what the run reads of a sentence, special tokens included.
    """
    entries = store.manifest.splits.items()
    pieces = split.sentences.lengths()
    offsets, answer_ids, _ = split.sentences.answers(np.arange(split.num_pairs))
    boxes = split.num_boxes
    if boxes is None:
        boxes = np.full(split.num_images, split.num_objects, np.int16)
    real = np.arange(split.num_objects) < boxes[:, None]  # (N, O)
    return DataStatistics(
        splits=[SplitAmounts(n, e.num_images, e.num_pairs, e.sources) for n, e in entries],
        counted=split.name,
        lengths=_histogram(pieces),
        cut=int((pieces > max_tokens - 2).sum()),
        answered=int((np.diff(offsets) > 0).sum()),
        answers=_most_frequent(answer_ids, store.answers),
        objects=_most_frequent(split.object_ids[real], store.object_classes),
        attributes=_most_frequent(split.attribute_ids[real], store.attribute_classes),
        boxes=(int(boxes.min()), float(boxes.mean()), int(boxes.max())),
    )


def _histogram(pieces: Int64[np.ndarray, " P"]) -> list[Count]:
    numbers = np.bincount(np.minimum(pieces, LONGEST))
    names = [str(length) if length < LONGEST else f"{LONGEST}+" for length in range(len(numbers))]
    total = max(len(pieces), 1)
    return [Count(n, int(k), k / total) for n, k in zip(names, numbers, strict=True)][1:]


def _most_frequent(ids: Int[np.ndarray, " K"], names: Sequence[str]) -> list[Count]:
    numbers = np.bincount(ids.astype(np.int64), minlength=len(names))
    order = np.argsort(-numbers, kind="stable")[:SHOWN]
    return [Count(names[i], int(numbers[i]), numbers[i] / len(ids)) for i in order if numbers[i]]
