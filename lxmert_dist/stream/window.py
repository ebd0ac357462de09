"""The shards that are in memory: read ahead by threads, shared, and dropped after the last use."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64

Features = Float[np.ndarray, "N O F"]


@runtime_checkable
class ShardSource(Protocol):
    """What the window needs of a split."""

    images_per_shard: int

    def read_shard(self, shard: int, /) -> Features:
        """The verified features of one shard."""
        ...


class ShardWindow:
    """Features by image row, for the shards that somebody holds.

    A shard is held by any number of holders (lanes). It is read when the first asks for it and
    dropped when the last lets go, so that memory follows the plan.
    """

    def __init__(self, source: ShardSource, threads: int) -> None:
        """Start ``threads`` reader threads on ``source``."""
        self._source = source
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="shard-reader")
        self._held: dict[int, set[int]] = {}
        self._reads: dict[int, Future[Features]] = {}

    def hold(self, holder: int, shards: Int64[np.ndarray, " D"]) -> None:
        """Have shards read in the background and kept for ``holder``."""
        for shard in shards.tolist():
            if shard not in self._reads:
                self._reads[shard] = self._pool.submit(self._source.read_shard, shard)
            self._held.setdefault(shard, set()).add(holder)

    def release(self, holder: int, shards: Int64[np.ndarray, " D"]) -> None:
        """Let go of shards; what nobody holds is dropped."""
        for shard in shards.tolist():
            holders = self._held.get(shard, set())
            holders.discard(holder)
            if not holders:
                self._held.pop(shard, None)
                self._reads.pop(shard, None)

    def shard(self, shard: int) -> Features:
        """The features of a held shard; waits for its read.

        Raises:
            CorruptObjectError, StoreError: as the read raised.
        """
        return self._reads[shard].result()

    def gather(self, image_rows: Int64[np.ndarray, " B"]) -> Float[np.ndarray, "B O F"]:
        """The features of images, each of a held shard."""
        shards, rows = np.divmod(image_rows, self._source.images_per_shard)
        first = self.shard(int(shards[0]))
        out = np.empty((len(image_rows), *first.shape[1:]), first.dtype)
        for shard in np.unique(shards):
            chosen = shards == shard
            out[chosen] = self.shard(int(shard))[rows[chosen]]
        return out

    def close(self) -> None:
        """Stop the readers and forget everything; waits for reads under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._reads.clear()
        self._held.clear()


class WindowPool:
    """A :class:`~lxmert_dist.schema.DonorPool` over some shards of a window.

    It keeps the features alive by itself, also after the window has let go of them.
    """

    def __init__(self, window: ShardWindow, shards: Int64[np.ndarray, " W"]) -> None:
        """Take the given shards, in the given order."""
        self._features = [window.shard(int(shard)) for shard in shards]
        self._ends = np.cumsum([len(features) for features in self._features])

    @property
    def num_images(self) -> int:
        """Images of all shards together."""
        return int(self._ends[-1])

    def gather(
        self, images: Int64[np.ndarray, " M"], objects: Int64[np.ndarray, " M"]
    ) -> Float[np.ndarray, "M F"]:
        """Features of object ``objects[i]`` of image ``images[i]``, counted over the shards."""
        first = self._features[0]
        out = np.empty((len(images), first.shape[2]), first.dtype)
        part = np.searchsorted(self._ends, images, side="right")
        for number in np.unique(part):
            chosen = part == number
            features = self._features[number]
            out[chosen] = features[
                images[chosen] - self._ends[number] + len(features), objects[chosen]
            ]
        return out
