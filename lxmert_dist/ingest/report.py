"""What an ingest says at its end."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from lxmert_dist.ingest.amounts import show_amounts
from lxmert_dist.ingest.lxmert_json import AnswerTally
from lxmert_dist.store import open_store

SAMPLE = 64
"""One image of so many is compressed, to see what that would bring."""


class FeatureMeter:
    """What storing does to features, and what compressing them would.

    Attributes:
        images: how many were seen.
        largest: absolute value of a feature.
        round_off: the most that a feature moved when it was stored.
        compression: bytes stored over bytes by zstd, of one image in :data:`SAMPLE`.
    """

    def __init__(self, dtype: str) -> None:
        """Measure for features that are stored as ``dtype``."""
        self.images = 0
        self.largest = 0.0
        self.round_off = 0.0
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._raw = self._compressed = 0

    def see(self, features: Float32[np.ndarray, "O F"]) -> None:
        """Take one more image; its features fit the dtype."""
        stored = features.astype(self._dtype)
        if self.images % SAMPLE == 0:
            data = stored.tobytes()
            self._raw += len(data)
            self._compressed += len(pa.compress(data, codec="zstd", asbytes=True))
        self.images += 1
        self.largest = max(self.largest, float(np.abs(features).max()))
        self.round_off = max(self.round_off, float(np.abs(features - stored).max()))

    @property
    def compression(self) -> float:
        """See the class."""
        return self._raw / max(self._compressed, 1)

    def __str__(self) -> str:
        rounded = f"each moved by at most {self.round_off:.3g}" if self.round_off else "all exact"
        return (
            f"{self._dtype.name}, {rounded}, of values up to {self.largest:.4g}; stored as they "
            f"are, zstd would make them {self.compression:.2f} times smaller (1 in {SAMPLE} tried)"
        )


@dataclass(frozen=True)
class IngestReport:
    """What was built, what was left out, and at which cost.

    ``dropped``: how many of what, by its description; nothing else was left out.
    ``bytes_read``: of all files given.
    """

    uri: str
    digest: str
    dropped: Mapping[str, int]
    answers: AnswerTally
    features: FeatureMeter
    bytes_read: int
    seconds: float

    def lines(self) -> Iterator[str]:
        """The report as text; opens the store to count what is in it."""
        store = open_store(self.uri)
        for name, entry in store.manifest.splits.items():
            sources = ", ".join(f"{n:,} {source}" for source, n in entry.sources.items())
            yield f"{name}: {entry.num_images:,} images, {entry.num_pairs:,} pairs: {sources}"
        yield ""
        yield from show_amounts(store)
        yield ""
        yield "left out: " + ("" if self.dropped else "nothing")
        yield from (f"  {n:>12,} {reason}" for reason, n in self.dropped.items())
        said = self.answers
        yield (
            f"answers: {said.outside:,} of {said.answers:,} are outside the table, {said.merged:,} "
            f"equal another of their question; {said.unanswered:,} of {said.questions:,} questions "
            "keep none, and are trained on as sentences"
        )
        stored = sum(entry.num_bytes for entry in store.manifest.all_objects())
        yield f"features: {self.features}"
        yield (
            f"{_bytes(self.bytes_read)} read, {_bytes(stored)} stored, "
            f"{self.bytes_read / stored:.2f} times smaller, in {self.seconds:,.0f} s "
            f"({self.bytes_read / max(self.seconds, 1e-9) / 1e6:.0f} MB/s)"
        )


def _bytes(count: int) -> str:
    value: Any = count
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.4g} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
