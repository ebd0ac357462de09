"""Bytes in and out of any fsspec URI: a path, ``s3://bucket/prefix``, ``memory://…``.

The one owner of retries: botocore and s3fs are told not to retry, and every function here repeats
what failed in transit, with full jitter, until its patience ends. What a user can mend comes out
as a :class:`StoreError` (``transit.py``) that names the URI and says what to check.
"""

import os
import random
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.utils import get_protocol

from lxmert_dist.errors import CorruptObjectError, StoreError
from lxmert_dist.redact import redact as shown
from lxmert_dist.store.transit import (
    TROUBLE,
    DeniedError,
    MissingError,
    UnreachableError,
    explain,
    missing,
    unreachable,
)

__all__ = [
    "DeniedError",
    "MissingError",
    "UnreachableError",
    "delete_tree",
    "download",
    "exists",
    "is_empty",
    "join",
    "list_dir",
    "list_tree",
    "local_path",
    "missing",
    "patience",
    "read_bytes",
    "read_once",
    "read_range",
    "resolve",
    "retry",
    "shown",
    "size",
    "timeouts",
    "translated",
    "upload",
    "write_bytes",
]

T = TypeVar("T")

PATIENCE_S = 10.0
"""How long an operation is repeated before its error is reported, outside of :func:`patience`."""

_patience_s: ContextVar[float] = ContextVar("patience_s", default=PATIENCE_S)

CORRUPT_ATTEMPTS = 4
"""How often an object that fails its checksum is read anew: more says nothing new."""

_S3_OPTIONS: dict[str, Any] = {
    "use_listings_cache": False,
    "max_concurrency": 1,  # more would ask for the size first: two requests a read
    "config_kwargs": {
        "connect_timeout": 5,
        "read_timeout": 15,
        "retries": {"total_max_attempts": 1},
    },
}
_jitter = random.SystemRandom()


def join(uri: str, *parts: str) -> str:
    """``uri`` with path parts appended."""
    base = uri if uri.endswith("://") else uri.rstrip("/") + "/"
    return base + "/".join(part.strip("/") for part in parts)


def local_path(uri: str) -> Path | None:
    """The path of a URI on this machine's file system, or None where it is elsewhere."""
    filesystem, path = resolve(uri)
    return Path(path) if "file" in _protocols(filesystem) else None


def read_bytes(uri: str, *, patience_s: float | None = None) -> bytes:
    """The whole object at ``uri``, by one GET.

    Raises:
        MissingError: there is none.
        DeniedError: the credentials do not open it.
        UnreachableError: nothing came within ``patience_s`` (default: as :func:`patience` says).
        StoreError: anything else, e.g. a bucket that does not exist.
    """
    return retry(lambda: read_once(uri), patience_s)


def read_once(uri: str) -> bytes:
    """Like :func:`read_bytes`, without repeating."""
    filesystem, key = resolve(uri)
    with translated(uri):
        return bytes(filesystem.cat_file(key))


def read_range(uri: str, start: int, end: int) -> bytes:
    """Bytes ``start`` to ``end`` of the object at ``uri``; fewer only at its end.

    Errors as :func:`read_bytes`.
    """

    def read() -> bytes:
        filesystem, key = resolve(uri)
        with translated(uri):
            return bytes(filesystem.cat_file(key, start=start, end=end))

    return retry(read) if end > start else b""


def size(uri: str) -> int:
    """The length in bytes of the object at ``uri``; errors as :func:`read_bytes`."""

    def look() -> int:
        filesystem, key = resolve(uri)
        with translated(uri):
            found = filesystem.info(key)
        if found["type"] != "file":
            raise MissingError(f"nothing at {shown(uri)}: it is a directory; name a file")
        return int(found["size"] or 0)

    return retry(look)


def write_bytes(uri: str, data: bytes | bytearray) -> None:
    """Put an object, all or nothing: a reader sees the old object or the new one.

    Raises:
        StoreError: as :func:`read_bytes`; also where the disk is full.
    """

    def write() -> None:
        path = local_path(uri)
        with translated(uri):
            if path is not None:
                with _replacing(path) as temporary:
                    temporary.write_bytes(data)
            else:
                filesystem, key = resolve(uri)
                filesystem.pipe_file(key, data)

    retry(write)


def upload(source: Path, uri: str) -> None:
    """Put a local file, all or nothing, without holding it in memory; errors as for writing."""

    def put() -> None:
        path = local_path(uri)
        with translated(uri):
            if path is not None:
                with _replacing(path) as temporary:
                    shutil.copyfile(source, temporary)
            else:
                filesystem, key = resolve(uri)
                filesystem.put_file(str(source), key)

    retry(put)


def download(uri: str, target: Path) -> None:
    """Get an object into a local file; a body that ends early is repeated, errors as for reading.

    The target's directory must exist.
    """

    def get() -> None:
        filesystem, key = resolve(uri)
        with translated(uri, written=str(target)):
            filesystem.get_file(key, str(target))
            size, expected = target.stat().st_size, filesystem.size(key)
        if size != expected:
            raise unreachable(uri, f"the body ended after {size} of {expected} bytes", "short")

    retry(get)


def exists(uri: str) -> bool:
    """Whether there is an object, or a directory, at ``uri``; errors as for reading."""

    def info() -> bool:
        filesystem, key = resolve(uri)
        try:
            with translated(uri):
                filesystem.info(key)
        except MissingError:
            return False
        return True

    return retry(info)


def list_dir(uri: str) -> list[str]:
    """The sorted names directly under ``uri``; none where it does not exist.

    Raises:
        StoreError: as :func:`read_bytes`.
    """

    def names() -> list[str]:
        filesystem, key = resolve(uri)
        try:
            with translated(uri):
                found = filesystem.ls(key, detail=False)
        except MissingError:
            return []
        own = key.rstrip("/")
        children = {path.rstrip("/") for path in found} - {own}
        return sorted(path.rsplit("/", 1)[-1] for path in children)

    return retry(names)


def list_tree(uri: str) -> dict[str, int]:
    """The bytes of every object under ``uri``, by key from there on; directories do not count.

    Raises:
        StoreError: as :func:`read_bytes`; also where the place cannot be listed.
    """

    def sizes() -> dict[str, int]:
        filesystem, key = resolve(uri)
        strict = {"on_error": "raise"} if "file" in _protocols(filesystem) else {}
        try:
            with translated(uri):
                found = filesystem.find(key, detail=True, **strict)
        except MissingError:
            return {}
        root = key.rstrip("/") + "/"
        return {
            path.removeprefix(root): int(entry["size"] or 0)
            for path, entry in found.items()
            if path.startswith(root) and not path.endswith("/") and entry["type"] != "directory"
        }

    return retry(sizes)


def is_empty(uri: str) -> bool:
    """Whether no object is at or under ``uri``; errors as for reading.

    Unlike :func:`list_dir` it does not count directories, which some S3 servers keep when their
    last object is gone.
    """

    def walk() -> bool:
        filesystem, key = resolve(uri)
        try:
            with translated(uri):
                if filesystem.isfile(key):
                    return False
                tree = filesystem.walk(key, on_error="raise")
                return not any(any(files) for _, _, files in tree)  # a directory's is named ""
        except MissingError:
            return True

    return retry(walk)


def delete_tree(uri: str) -> None:
    """Delete an object or everything under ``uri``; nothing there is no error.

    Raises:
        StoreError: as :func:`read_bytes`; also for a whole bucket or the root directory.
    """

    def delete() -> None:
        filesystem, key = resolve(uri)
        if ("/" not in key.strip("/") and "s3" in _protocols(filesystem)) or not key.strip("/"):
            raise StoreError(f"will not delete all of {shown(uri)}; name a prefix in it")
        try:
            with translated(uri):
                filesystem.rm(key, recursive=True)
        except MissingError:
            pass

    retry(delete)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Repeat the operations of this thread for so long, rather than :data:`PATIENCE_S`."""
    token = _patience_s.set(seconds)
    try:
        yield
    finally:
        _patience_s.reset(token)


def retry(
    operation: Callable[[], T],
    patience_s: float | None = None,
    failed: Callable[[StoreError], None] = lambda _: None,
) -> T:
    """Repeat ``operation`` while it raises what may pass, with full jitter.

    Args:
        operation: idempotent; raises :class:`UnreachableError` or
            :class:`CorruptObjectError` where another attempt may help.
        patience_s: no attempt starts later than this; default as :func:`patience` says.
        failed: told of the error of every attempt that may be repeated.

    Raises:
        StoreError: the last attempt's.
    """
    deadline = time.monotonic() + (_patience_s.get() if patience_s is None else patience_s)
    attempt = damaged = 0
    while True:
        attempt += 1
        try:
            return operation()
        except (UnreachableError, CorruptObjectError) as error:
            failed(error)
            pause = _jitter.uniform(0, min(2.0, 0.1 * 2**attempt))
            damaged += isinstance(error, CorruptObjectError)  # what else fails says nothing of that
            if damaged == CORRUPT_ATTEMPTS or time.monotonic() + pause > deadline:
                raise
            time.sleep(pause)


def resolve(uri: str) -> tuple[Any, str]:
    """The (cached) file system of a URI and the path in it."""
    protocol = get_protocol(uri)
    options = _S3_OPTIONS if protocol in ("s3", "s3a") else {}
    try:
        filesystem = fsspec.filesystem(protocol, **options)
    except (ValueError, ImportError) as error:
        raise StoreError(
            f"cannot open {shown(uri)}: {error}; check its scheme, or install what it needs"
        ) from error
    if options:
        filesystem.retries = 1  # ours are enough: theirs multiply with botocore's
    return filesystem, filesystem._strip_protocol(uri)


def timeouts() -> tuple[float, float]:
    """Seconds that a connection to an S3 server, and the next bytes of its answer, may take."""
    config = _S3_OPTIONS["config_kwargs"]
    return float(config["connect_timeout"]), float(config["read_timeout"])


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A name to write to; on leaving, the file is synced and takes the place of ``path``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise StoreError(
            f"cannot write {path}: its directory cannot be made; choose another place"
        ) from error
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def translated(uri: str, written: str | None = None) -> Iterator[None]:
    """Turn errors about ``uri``, or about the place that is ``written``, into ours."""
    try:
        yield
    except TROUBLE as error:
        local = local_path(uri) is not None
        raise explain(error, uri, written=written or uri, local=local) from error
