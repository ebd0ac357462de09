"""The shards that are in memory: read ahead by threads, shared, and dropped after the last use."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64, Integer, UInt8

from lxmert_dist.store.slabs import ArrayPool, SlabPool

Features = Float[np.ndarray, "N O F"]


@runtime_checkable
class ShardSource(Protocol):
    """What the window needs of a split."""

    images_per_shard: int
    shard_bytes: int
    """Of the largest object."""

    def read_shard(
        self, shard: int, /, *, into: UInt8[np.ndarray, " n"], next_use: float | None
    ) -> Features:
        """The verified features of one shard, in a buffer of at least ``shard_bytes``.

        They are wanted again at ``next_use``, in seconds since 1970, as far as is known.
        """
        ...


class ShardWindow:
    """Features by image row, for the shards that somebody holds.

    A shard is held by any number of holders (lanes). It is read when the first asks for it and
    dropped when the last lets go, so that memory follows the plan. Where memory is bounded, reads
    wait for it in the order in which they were asked for.
    """

    def __init__(self, source: ShardSource, threads: int, most: int | None = None) -> None:
        """Start ``threads`` reader threads on ``source``.

        Args:
            source: of the shards.
            threads: how many are read at once.
            most: how many shards are in memory at once; None is as many as are held.
        """
        self.slabs = SlabPool(source.shard_bytes, most)
        self._batches = ArrayPool()
        self._source = source
        self.images_per_shard = source.images_per_shard
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="shard-reader")
        self._held: dict[int, set[int]] = {}
        self._reads: dict[int, Future[Features]] = {}

    @property
    def held_bytes(self) -> int:
        """Memory of the buffers that were made: of the most shards that were held at once."""
        return self.slabs.made * self.slabs.slab_bytes

    def hold(
        self,
        holder: int,
        shards: Int64[np.ndarray, " D"],
        next_uses: Sequence[float] | None = None,
    ) -> None:
        """Have shards read in the background and kept for ``holder``.

        Args:
            holder: any number.
            shards: in the order in which they are needed.
            next_uses: when each will be wanted again after this, see :class:`ShardSource`.
        """
        for place, shard in enumerate(shards.tolist()):
            if shard not in self._reads:
                next_use = None if next_uses is None else next_uses[place]
                self._reads[shard] = self._pool.submit(
                    self._read, shard, self.slabs.ticket(), next_use
                )
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
            CancelledError: the window is closed.
            CorruptObjectError, StoreError: as the read raised.
        """
        return self._reads[shard].result()

    def gather(self, image_rows: Int64[np.ndarray, " B"]) -> Float[np.ndarray, "B O F"]:
        """The features of images, each of a held shard.

        They are the caller's; their memory is used anew when nobody looks at it any more.
        """
        shards, rows = (part.tolist() for part in np.divmod(image_rows, self.images_per_shard))
        features = {shard: self.shard(shard) for shard in set(shards)}
        first = features[shards[0]]
        out = self._batches.empty((len(rows), *first.shape[1:]), first.dtype)
        for place, (shard, row) in enumerate(zip(shards, rows, strict=True)):
            out[place] = features[shard][row]  # faster than to index them together: one copy
        return out

    def close(self) -> None:
        """Stop the readers and forget everything; waits for reads under way."""
        self.stop()
        self._pool.shutdown(wait=True)
        self._reads.clear()
        self._held.clear()

    def stop(self) -> None:
        """Begin nothing more, and wake whoever waits for a read that did not begin."""
        self.slabs.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, shard: int, ticket: int, next_use: float | None) -> Features:
        slab = self.slabs.take(ticket)
        return self._source.read_shard(shard, into=slab, next_use=next_use)


class WindowPool:
    """A :class:`~lxmert_dist.schema.DonorPool` over some shards of a window.

    It keeps the features alive by itself, also after the window has let go of them.
    """

    def __init__(
        self,
        window: ShardWindow,
        shards: Int64[np.ndarray, " W"],
        num_boxes: Integer[np.ndarray, " N"] | None = None,
    ) -> None:
        """Take the given shards, in the given order.

        Args:
            window: that holds them.
            shards: their numbers.
            num_boxes: of all images of the split; None where all have as many.
        """
        self._features = [window.shard(int(shard)) for shard in shards]
        self._ends = np.cumsum([len(features) for features in self._features])
        self.num_boxes: Int64[np.ndarray, " n"] | None = None
        if num_boxes is not None:
            size = window.images_per_shard
            parts = [num_boxes[size * shard : size * (shard + 1)] for shard in shards.tolist()]
            self.num_boxes = np.concatenate(parts, dtype=np.int64)

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
