"""What reading features took: counted by the threads that read, taken by the loop that reports."""

import threading
from collections import Counter

import numpy as np


class ReadStats:
    """Counters of one process. Safe to use from threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._seconds: list[float] = []

    def count(self, name: str, times: int = 1) -> None:
        """Note that something happened."""
        with self._lock:
            self._counts[name] += times

    def got(self, num_bytes: int, seconds: float) -> None:
        """Note a sound object, and the time since its read began, retries included."""
        with self._lock:
            self._counts["gets"] += 1
            self._counts["bytes"] += num_bytes
            self._seconds.append(seconds)

    def take(self) -> dict[str, float]:
        """What was counted since the last call.

        Returns:
            ``gets``, ``bytes`` and every other count that is not 0, by name; and, where anything
            arrived, ``get_p50_s``, ``get_p95_s`` and ``get_p99_s``, seconds of a read.
        """
        with self._lock:
            counts, self._counts = self._counts, Counter()
            seconds, self._seconds = self._seconds, []
        found = {"gets": 0.0, "bytes": 0.0, **{name: float(n) for name, n in counts.items()}}
        if seconds:
            for percent, value in zip(
                (50, 95, 99), np.percentile(seconds, (50, 95, 99)), strict=True
            ):
                found[f"get_p{percent}_s"] = float(value)
        return found
