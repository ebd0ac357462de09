"""Objects of a store, checked against its manifest before anybody sees them."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lxmert_dist.errors import CorruptObjectError, StoreError
from lxmert_dist.store import chunks
from lxmert_dist.store import uri as uris
from lxmert_dist.store.manifest import ChunkEntry, ObjectEntry

T = TypeVar("T")

HELD_BYTES = 64 << 20
"""A remote object up to this size is checked in memory, a larger one in a temporary file."""


def read_object(uri: str, entry: ObjectEntry) -> bytes:
    """The bytes of an object of the store at ``uri``.

    Raises:
        CorruptObjectError: it is missing, or stays damaged when read anew; names the object.
        StoreError: the store is out of reach.
    """

    def read() -> bytes:
        data = uris.read_once(uris.join(uri, entry.key))
        _require(type(entry).of(entry.key, data), entry)
        return data

    return repeated(uri, entry, read)


def read_chunk(
    uri: str, entry: ChunkEntry, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """A chunk of the store at ``uri`` as a read-only array, by one GET and without a copy.

    Args:
        uri: of the store.
        entry: which chunk.
        shape: of the values wanted, from the first on.
        dtype: little-endian.

    Raises:
        CorruptObjectError: as :func:`read_object`.
        StoreError: the store is out of reach.
    """

    def read() -> npt.NDArray[Any]:
        return chunks.decode_chunk(uris.read_once(uris.join(uri, entry.key)), entry, shape, dtype)

    return repeated(uri, entry, read)


def local_copy(uri: str, entry: ObjectEntry, scratch: Path) -> Path:
    """A local file with an object's bytes: the object itself, or a copy under ``scratch``.

    Raises:
        CorruptObjectError: as :func:`read_object`.
        StoreError: the store is out of reach.
    """
    source = uris.join(uri, entry.key)
    own = uris.local_path(source)
    path = own or scratch / entry.key

    def fetch() -> Path:
        if own is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            uris.download(source, path)
        elif not path.is_file():
            raise uris.missing(source)
        _require(type(entry).of_file(entry.key, path), entry)
        return path

    return repeated(uri, entry, fetch)


def problem_of(
    uri: str, entry: ObjectEntry, look: Callable[[bytes], str | None] | None = None
) -> str | None:
    """What is wrong with an object of the store at ``uri``, or None; memory is bounded.

    Args:
        uri: of the store.
        entry: of the object.
        look: finds what else may be wrong with its bytes, which are then held in memory.

    Raises:
        StoreError: the store is out of reach.
    """
    try:
        if look is not None:
            return look(read_object(uri, entry))
        if entry.num_bytes <= HELD_BYTES and uris.local_path(uri) is None:
            read_object(uri, entry)
        else:
            with tempfile.TemporaryDirectory(prefix="lxmert_dist_") as scratch:
                local_copy(uri, entry, Path(scratch))
    except (uris.DeniedError, uris.UnreachableError):
        raise
    except CorruptObjectError as error:
        return str(error.__cause__)
    except StoreError as error:  # such as a disk's bad block
        return str(error)
    return None


def _require(found: ObjectEntry, entry: ObjectEntry) -> None:
    if found.num_bytes != entry.num_bytes:
        raise CorruptObjectError(
            f"{entry.key} has {found.num_bytes} bytes, the manifest says {entry.num_bytes}"
        )
    if found != entry:
        raise CorruptObjectError(f"{entry.key} is damaged: its checksum does not match")


def repeated(
    uri: str,
    entry: ObjectEntry,
    read: Callable[[], T],
    patience_s: float | None = None,
    failed: Callable[[StoreError], None] = lambda _: None,
) -> T:
    """Read an object of the store at ``uri``, with retries (see ``uri.retry``).

    What is wrong in the end is the cause of the error that is raised.

    Raises:
        CorruptObjectError: the object is missing, or stays damaged; names it and what to do.
        StoreError: the store is out of reach.
    """
    try:
        return uris.retry(read, patience_s, failed)
    except uris.MissingError:
        problem = CorruptObjectError(f"{entry.key} is missing")
        raise CorruptObjectError(_advice(problem, uri)) from problem
    except CorruptObjectError as problem:
        raise CorruptObjectError(_advice(problem, uri)) from problem


def _advice(problem: CorruptObjectError, uri: str) -> str:
    return (
        f"{str(problem).partition(';')[0]} (store {uris.shown(uri)}); restore it from a copy "
        "(launch/verify.py --repair-from) or prepare the store again"
    )
