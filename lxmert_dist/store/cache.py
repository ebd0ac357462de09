"""Feature objects on the node's own disk: fetched once, for every rank and job of the node.

All that is known stands in the directory itself, so processes need no other way to agree, and one
that is killed spoils nothing:

- ``<sha256>`` is an object, whole, and read only after a check against the manifest. Its
  modification time says when it is next needed: the time, in seconds since 1970, at which its
  reader's plan expects to want it again.
- ``<sha256>.part`` is being fetched by the process that has it locked (``flock``, which ends with
  the process), or was left behind where nobody has. It takes its full size before it is written.
- ``.lock`` is locked by who makes room.

Where room is short, the object goes that is needed last (Belady); one that is overdue for long
(its job is gone, say) is expected to stay away as long again.
"""

import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lxmert_dist.errors import CorruptObjectError, StoreError
from lxmert_dist.locks import is_at, lock_file
from lxmert_dist.store.chunks import fill_from_file
from lxmert_dist.store.manifest import ChunkEntry

Fetch = Callable[[ChunkEntry, memoryview], None]
"""Fills a buffer with a whole object, verified."""

UNPLANNED_S = 3600.0
"""When an object is wanted again of which no plan speaks, such as validation's: a guess."""

NEVER = 2.0**32
"""A time after all plans, in the year 2106; file systems can store it."""

FREE_SHARE = 1 / 32
"""How much of a disk is left to others."""

_PART = ".part"
_OURS = re.compile(r"[0-9a-f]{64}(\.part)?")
_COUNTED = ("hits", "misses", "damaged", "evicted")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Kept:
    """A file of the cache: an object, or one that is being fetched."""

    path: Path
    num_bytes: int
    next_use: float


class DiskCache:
    """A directory of feature objects. Safe to use from threads and from processes of one node.

    ``counts``: how often an object came from the disk (``hits``) or from the store (``misses``),
    was found damaged on the disk (``damaged``), or made room for another (``evicted``), since
    they were last taken.
    """

    def __init__(self, directory: Path, limit_bytes: int = 0, patience_s: float = 60.0) -> None:
        """Make the directory if there is none, and clear what killed writers left in it.

        Args:
            directory: on a local disk.
            limit_bytes: no file is added that would bring all of them over this; 0 is what the
                disk has free, less :data:`FREE_SHARE` of it.
            patience_s: how long another process is waited for, before an object is fetched anyway.

        Raises:
            StoreError: the directory cannot be used; names it.
        """
        self.counts = dict.fromkeys(_COUNTED, 0)
        self._directory = directory
        self._limit = limit_bytes
        self._patience_s = patience_s
        self._keeping = True
        self._mutex = threading.Lock()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory), self._making_room():
                self._files()
        except OSError as error:
            raise StoreError(
                f"cannot use data.cache={directory} as a cache: {error.strerror}; "
                "make it a directory that you may write to, or leave data.cache empty"
            ) from error
        if self._free_bytes() < 0:
            _log.warning(
                "nothing is added to data.cache=%s: less than 1/%d of its disk is free",
                directory,
                round(1 / FREE_SHARE),
            )

    def read(
        self, entry: ChunkEntry, buffer: memoryview, fetch: Fetch, next_use: float | None = None
    ) -> None:
        """Fill ``buffer`` with an object, from the disk if it is there, else by ``fetch``.

        Args:
            entry: which object.
            buffer: as long as the object.
            fetch: fills the buffer with the object from the store, verified.
            next_use: when the plan needs it again, in seconds since 1970; up to :data:`NEVER`.
                None where no plan says.

        Raises:
            StoreError: as ``fetch`` raises. Trouble with the disk is a warning, never an error.
        """
        wanted = time.time() + UNPLANNED_S if next_use is None else min(next_use, NEVER)
        if self._load(entry, buffer, wanted):
            return
        part = self._claim(entry)
        try:
            if part is not None and self._load(entry, buffer, wanted):
                return  # whoever had it locked has fetched it
            room = part is not None and self._make_room(entry, part, wanted)
            fetch(entry, buffer)
            self._count("misses")
            if part is not None and room:
                self._keep(entry, buffer, part, wanted)
        finally:
            if part is not None:
                _remove(part, self._part(entry))
                os.close(part)

    def take_counts(self) -> dict[str, int]:
        """What was counted since the last time."""
        with self._mutex:
            counts, self.counts = self.counts, dict.fromkeys(_COUNTED, 0)
        return counts

    def _load(self, entry: ChunkEntry, buffer: memoryview, next_use: float) -> bool:
        """Whether the object is on the disk and sound; if so, ``buffer`` holds it."""
        path = self._directory / entry.sha256
        try:
            fill_from_file(path, entry, buffer)
        except FileNotFoundError:
            return False
        except (OSError, CorruptObjectError):
            _log.warning("%s, a copy of %s, is damaged: it is fetched anew", path, entry.key)
            self._count("damaged")
            with suppress(OSError):
                path.unlink()
            return False
        self._count("hits")
        with suppress(OSError):  # it was evicted meanwhile, or is another user's
            os.utime(path, (time.time(), next_use))
        return True

    def _claim(self, entry: ChunkEntry) -> int | None:
        """The locked, empty file to keep an object in; None where it is not to be kept."""
        if not self._keeping:
            return None
        try:
            part = lock_file(self._part(entry), self._patience_s)
            if part is not None:
                os.ftruncate(part, 0)
        except OSError as error:
            self._stop_keeping(error)
            return None
        return part

    def _make_room(self, entry: ChunkEntry, part: int, next_use: float) -> bool:
        """Whether the object fits, if need be in place of such that are needed later."""
        try:
            with self._making_room() as locked:
                if not locked:
                    return False
                victims = self._victims(entry, next_use)
                for kept in victims or ():
                    kept.path.unlink()
                    self._count("evicted")
                if victims is not None:
                    os.ftruncate(part, entry.num_bytes)  # so that the others count with it
                return victims is not None
        except OSError as error:
            self._stop_keeping(error)
            return False

    def _victims(self, entry: ChunkEntry, next_use: float) -> list[_Kept] | None:
        """Which objects to evict for another, or None where it would be the one to go."""
        room = self._free_bytes() - entry.num_bytes
        if not self._limit and room >= 0:
            return []
        files = self._files()
        if self._limit:
            used = sum(kept.num_bytes for kept in files)
            room = min(room, self._limit - used - entry.num_bytes)
        now = time.time()
        victims = []
        for kept in sorted(files, key=lambda kept: abs(kept.next_use - now), reverse=True):
            if room >= 0 or abs(kept.next_use - now) <= abs(next_use - now):
                break
            if kept.path.suffix != _PART:
                victims.append(kept)
                room += kept.num_bytes
        return victims if room >= 0 else None

    def _free_bytes(self) -> int:
        """What the disk has free, less what is left to others."""
        disk = shutil.disk_usage(self._directory)
        return disk.free - int(disk.total * FREE_SHARE)

    def _keep(self, entry: ChunkEntry, buffer: memoryview, part: int, next_use: float) -> None:
        try:
            written = 0
            while written < len(buffer):
                written += os.pwrite(part, buffer[written:], written)
            os.fsync(part)
            os.utime(part, (time.time(), next_use))
            self._part(entry).replace(self._directory / entry.sha256)
        except OSError as error:
            self._stop_keeping(error)

    def _stop_keeping(self, error: OSError) -> None:
        with self._mutex:
            first, self._keeping = self._keeping, False
        if first:
            _log.warning(
                "nothing more is kept in data.cache=%s, the run goes on without: %s",
                self._directory,
                error.strerror,
            )

    def _files(self) -> list[_Kept]:
        """What is in the cache, after what killed writers left is removed."""
        found = []
        for path in self._directory.iterdir():
            if not _OURS.fullmatch(path.name):
                continue
            if path.suffix == _PART and (left := lock_file(path, 0.0)) is not None:
                _remove(left, path)
                os.close(left)
                continue
            with suppress(FileNotFoundError):
                status = path.stat()
                found.append(_Kept(path, status.st_size, status.st_mtime))
        return found

    @contextmanager
    def _making_room(self) -> Iterator[bool]:
        """Keep the other processes and threads from making room; False where one takes too long."""
        lock = lock_file(self._directory / ".lock", self._patience_s)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                os.close(lock)

    def _part(self, entry: ChunkEntry) -> Path:
        return self._directory / (entry.sha256 + _PART)

    def _count(self, name: str) -> None:
        with self._mutex:
            self.counts[name] += 1


def _remove(descriptor: int, path: Path) -> None:
    """Delete the file at ``path``, if it still is the one that is locked."""
    with suppress(OSError):
        if is_at(descriptor, path):
            path.unlink()
