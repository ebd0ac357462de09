"""Made-up feature objects, and a source of them that counts what it is asked for."""

import threading
from collections import Counter

import numpy as np

from lxmert_dist.store.chunks import encode_chunk
from lxmert_dist.store.manifest import ChunkEntry

VALUES = 64 * 128
SIZE = 2 * VALUES + 4
"""Bytes of each object."""


class Objects:
    """``count`` objects of ``SIZE`` bytes."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(5)
        self.data = [
            encode_chunk(rng.integers(0, 99, (4, VALUES // 4), "<i2")) for _ in range(count)
        ]
        self.entries = [ChunkEntry.of(f"train/c/{k}", data) for k, data in enumerate(self.data)]
        self.fetched: Counter[int] = Counter()
        self._lock = threading.Lock()

    def fetch(self, entry: ChunkEntry, buffer: memoryview) -> None:
        """Fill a buffer from memory."""
        number = self.entries.index(entry)
        with self._lock:
            self.fetched[number] += 1
        buffer[:] = self.data[number]

    def read(self, cache, number: int, next_use: float | None = None, fetch=None) -> bytes:
        """One object through a cache."""
        buffer = np.full(self.entries[number].num_bytes, 0xAA, np.uint8)
        when = None if next_use is None else float(next_use)
        cache.read(self.entries[number], buffer.data, fetch or self.fetch, when)
        return buffer.tobytes()
