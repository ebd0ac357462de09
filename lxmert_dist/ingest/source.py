"""What every raw data set is read into before a store is built from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class RawSentence:
    """A sentence about one image, as text.

    ``answers``: answer string -> soft score in (0, 1]; empty where there is none.
    """

    image_id: str
    uid: str
    source: str
    text: str
    answers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RawSplit:
    """The images of a split by their ids, and what is said about them."""

    images: Mapping[str, Path | bytes]
    """Image files, or their contents."""
    sentences: Sequence[RawSentence]
