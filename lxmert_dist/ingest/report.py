"""What an ingest says at its end."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lxmert_dist.ingest.amounts import show_amounts
from lxmert_dist.ingest.lxmert_json import AnswerTally
from lxmert_dist.store import FeatureFigures, open_store


@dataclass(frozen=True)
class IngestReport:
    """What was built, what was left out, and at which cost.

    ``dropped``: how many of what, by its description; nothing else was left out.
    ``bytes_read``: of all files given. ``kept_shards`` of ``num_shards`` were there from before.
    """

    uri: str
    digest: str
    dropped: Mapping[str, int]
    answers: AnswerTally
    features: FeatureFigures
    bytes_read: int
    num_shards: int
    kept_shards: int
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
        yield f"features: {_show(self.features, store.manifest.feature_dtype)}"
        if self.kept_shards:
            yield (
                f"{self.kept_shards:,} of {self.num_shards:,} shards were kept from an earlier "
                "start; the time is that of the last alone"
            )
        yield (
            f"{_bytes(self.bytes_read)} read, {_bytes(stored)} stored, "
            f"{self.bytes_read / stored:.2f} times smaller, in {self.seconds:,.0f} s "
            f"({self.bytes_read / max(self.seconds, 1e-9) / 1e6:.0f} MB/s)"
        )


def _show(figures: FeatureFigures, dtype: str) -> str:
    moved = f"each moved by at most {figures.round_off:.3g}" if figures.round_off else "all exact"
    return (
        f"{dtype}, {moved}, of values up to {figures.largest:.4g}; stored as they are, zstd would "
        f"make them {figures.compression:.2f} times smaller (one image of every shard tried)"
    )


def _bytes(count: int) -> str:
    value: Any = count
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.4g} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
