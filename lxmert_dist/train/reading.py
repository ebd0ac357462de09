"""What the data path did for some steps, as metrics ``data/...``."""

from collections.abc import Mapping
from dataclasses import dataclass

from lxmert_dist.schema import StepBatch
from lxmert_dist.train.meter import Clock
from lxmert_dist.train.world import World, total

_EXACT = 2**52
"""Integers below this are exact as floats, which is what trackers keep."""


@dataclass
class Reading:
    """Counts of the steps since the last line of metrics, on this rank."""

    steps: int = 0
    pairs: int = 0
    images: int = 0
    repeats: int = 0
    identity: int = 0
    """Of the last step, over all ranks."""

    def add(self, batch: StepBatch) -> None:
        """Take in one step."""
        self.steps += 1
        self.pairs += sum(len(part.pair_ids) for part in batch.micro_batches)
        self.images += batch.images
        self.repeats += batch.repeats

    def metrics(self, stats: Mapping[str, float], clock: Clock, world: World) -> dict[str, float]:
        """Rates over all ranks, and what only this rank counted; a collective.

        Args:
            stats: of this rank's loader, since the last time; has ``bytes``.
            clock: of the same steps.
            world: the ranks.

        Returns:
            ``wait_seconds`` of a step, the mean over ranks; ``images_per_second``; from the store,
            ``bytes_per_second`` and ``bytes_per_pair``; ``repeats_per_batch``, copies of an image
            beyond its first within a rank's share of a batch, summed over ranks; ``order_hash``,
            52 bits of the last step's identity (the ledger has it whole, of every step). And
            ``stats`` of this rank.
        """
        summed = total(
            {
                "wait": clock.wait_seconds,
                "images": float(self.images),
                "repeats": float(self.repeats),
                "bytes": stats["bytes"],
                "pairs": float(self.pairs),
            },
            world,
        )
        steps, seconds = max(self.steps, 1), max(clock.busy_seconds + clock.wait_seconds, 1e-9)
        return {
            "wait_seconds": summed["wait"] / world.size / steps,
            "images_per_second": summed["images"] / seconds,
            "bytes_per_second": summed["bytes"] / seconds,
            "bytes_per_pair": summed["bytes"] / max(summed["pairs"], 1.0),
            "repeats_per_batch": summed["repeats"] / steps,
            "order_hash": float(self.identity % _EXACT),
            **stats,
        }
