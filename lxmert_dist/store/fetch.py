"""Feature objects into buffers, verified: one GET each, repeated or doubled where it must be."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from fsspec.asyn import get_loop

from lxmert_dist.errors import StoreError
from lxmert_dist.store import uri as uris
from lxmert_dist.store.access import repeated
from lxmert_dist.store.backends import build_get
from lxmert_dist.store.chunks import check_chunk, fill_from_file
from lxmert_dist.store.manifest import ChunkEntry
from lxmert_dist.store.read_settings import ReadSettings
from lxmert_dist.store.read_stats import ReadStats
from lxmert_dist.store.transit import UnreachableError, unreachable

HEDGE_AFTER_S = 1.0
"""A GET is doubled once it took this long, and three times as long as 95 % of the last ones."""

HEDGED_SHARE = 0.05
HEDGED_FREELY = 2
"""How many GETs may be doubled: this many, and a share of all."""

REQUEST_S = 20.0
"""A GET that is not whole by then is asked for anew, also where bytes keep trickling in; with a
patience of more than thrice that, a third of the patience."""

REMEMBERED = 200
"""GETs by whose times others are judged."""


class Fetcher:
    """Reads feature objects of one store. Safe to use from threads.

    Attributes:
        stats: what reading took.
    """

    def __init__(self, uri: str, settings: ReadSettings) -> None:
        """Read objects of the store at ``uri``; nothing is asked for yet.

        Raises:
            ConfigError: the backend is not installed.
            StoreError: the URI cannot be opened.
        """
        self.stats = ReadStats()
        self._uri = uri
        self._patience_s = settings.patience_s
        self._request_s = max(min(REQUEST_S, self._patience_s), self._patience_s / 3)
        self._attempt = self._attempt_elsewhere
        if uris.local_path(uri) is not None:
            self._attempt = self._attempt_here
        self._get = build_get(uri, settings.backend)
        self._pace = _Pace()

    def fetch(self, entry: ChunkEntry, buffer: memoryview) -> None:
        """Fill a buffer, as long as the object, with the whole object.

        Raises:
            CorruptObjectError: it is missing, or stays damaged when read anew; names the object.
            StoreError: access is denied, or nothing came within the patience.
        """
        began = time.perf_counter()
        repeated(
            self._uri, entry, lambda: self._attempt(entry, buffer), self._patience_s, self._failed
        )
        self.stats.got(entry.num_bytes, time.perf_counter() - began)

    def _failed(self, error: StoreError) -> None:
        match error:
            case UnreachableError(kind=kind):
                self.stats.count(f"failed_{kind}")
            case _:
                self.stats.count("failed_corrupt")

    def _attempt_here(self, entry: ChunkEntry, buffer: memoryview) -> None:
        """From this machine's disk, without a copy."""
        location = uris.join(self._uri, entry.key)
        path = uris.local_path(location)
        assert path is not None
        with uris.translated(location):
            fill_from_file(path, entry, buffer)

    def _attempt_elsewhere(self, entry: ChunkEntry, buffer: memoryview) -> None:
        """An answer has memory of its own, so one that comes too late finds no buffer to spoil."""
        location = uris.join(self._uri, entry.key)
        if self._get is None:
            data: Any = uris.read_once(location)
            check_chunk(data, entry)
        else:
            job = asyncio.run_coroutine_threadsafe(self._soonest(entry, location), get_loop())
            try:
                data = job.result()
            except BaseException:
                job.cancel()
                raise
        buffer[:] = data

    async def _soonest(self, entry: ChunkEntry, location: str) -> Any:
        """The first sound answer to one GET, or to two where the first takes too long."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._request_s):
                data = await _first_of(
                    lambda: self._sound(entry, location),
                    self._pace.limit_s(),
                    self._pace.may_hedge,
                    self.stats,
                )
        except TimeoutError as error:
            raise unreachable(
                location, f"no whole answer in {self._request_s:g} s", "timeout"
            ) from error
        self._pace.note(time.monotonic() - began)
        return data

    async def _sound(self, entry: ChunkEntry, location: str) -> Any:
        assert self._get is not None
        data = await self._get(location)
        check_chunk(data, entry)
        return data


class _Pace:
    """How long GETs take. Lives in the thread of the event loop."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._done = self._hedged = 0

    def note(self, seconds: float) -> None:
        self._seconds.append(seconds)
        self._done += 1

    def limit_s(self) -> float:
        """When a GET takes too long."""
        if not self._seconds:
            return HEDGE_AFTER_S
        return max(HEDGE_AFTER_S, 3 * float(np.percentile(self._seconds, 95)))

    def may_hedge(self) -> bool:
        """Whether one more GET may be doubled; if so, it counts."""
        allowed = self._hedged + 1 <= HEDGED_FREELY + HEDGED_SHARE * self._done
        self._hedged += allowed
        return allowed


async def _first_of(
    get: Callable[[], Any], limit_s: float, may_hedge: Callable[[], bool], stats: ReadStats
) -> Any:
    """What ``get`` gives, asked once more when it takes longer than ``limit_s``.

    Raises:
        StoreError: of the last GET that failed, when all did.
    """
    waiting = {asyncio.ensure_future(get())}
    hedge: asyncio.Future[Any] | None = None
    try:
        done, _ = await asyncio.wait(waiting, timeout=limit_s)
        if not done and may_hedge():
            stats.count("hedges")
            hedge = asyncio.ensure_future(get())
            waiting.add(hedge)
        while True:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            sound = [task for task in done if task.exception() is None]
            if sound:
                if hedge in sound:
                    stats.count("hedges_won")
                return sound[0].result()
            if not waiting:
                return done.pop().result()  # raises
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
