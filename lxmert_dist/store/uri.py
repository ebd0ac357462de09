"""Bytes in and out of any fsspec URI: a path, ``s3://bucket/prefix``, ``memory://…``.

The one owner of retries: botocore and s3fs are told not to retry, and every function here repeats
what failed in transit, with full jitter, until its patience ends. What a user can mend comes out
as a :class:`StoreError` that names the URI and says what to check; credentials are never shown.
"""

import errno
import os
import random
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import fsspec
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)
from fsspec.utils import get_protocol

from lxmert_dist.errors import CorruptObjectError, StoreError

T = TypeVar("T")

PATIENCE_S = 10.0
"""How long an operation is repeated before its error is reported."""

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
_TRANSIENT_ERRNOS = {errno.EBUSY, errno.EREMOTEIO, errno.EIO, errno.ETIMEDOUT}
_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ADVICE = {
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "ExpiredToken": "the credentials have expired: renew them and start again",
}
"""What to do about a refusal, by its code, where the keys need not be wrong."""
_jitter = random.SystemRandom()
_SECRETS = re.compile(
    r"""(?<=//)[^/@\s]+@                           # who stands before a host
    | [^\s/"':@]+:(?!//|\d+(?:/|$))[^\s"'@]*@     # key:secret@, also with a slash in it
    | (?<=\?)[^\s=]*=\S*                         # the query of a presigned URL""",
    re.VERBOSE,
)


class MissingError(StoreError):
    """There is no object at a URI."""


class DeniedError(StoreError):
    """Credentials are absent, wrong, or do not suffice; repeating cannot help."""


class UnreachableError(StoreError):
    """The other side did not answer, or broke off; repeating may help."""


def join(uri: str, *parts: str) -> str:
    """``uri`` with path parts appended."""
    base = uri if uri.endswith("://") else uri.rstrip("/") + "/"
    return base + "/".join(part.strip("/") for part in parts)


def local_path(uri: str) -> Path | None:
    """The path of a URI on this machine's file system, or None where it is elsewhere."""
    filesystem, path = _resolve(uri)
    return Path(path) if "file" in _protocols(filesystem) else None


def read_bytes(uri: str, *, patience_s: float | None = None) -> bytes:
    """The whole object at ``uri``, by one GET.

    Raises:
        MissingError: there is none.
        DeniedError: the credentials do not open it.
        UnreachableError: nothing came within ``patience_s`` (default :data:`PATIENCE_S`).
        StoreError: anything else, e.g. a bucket that does not exist.
    """
    return retry(lambda: read_once(uri), patience_s)


def read_once(uri: str) -> bytes:
    """Like :func:`read_bytes`, without repeating."""
    filesystem, key = _resolve(uri)
    with _translated(uri):
        return bytes(filesystem.cat_file(key))


def write_bytes(uri: str, data: bytes) -> None:
    """Put an object, all or nothing: a reader sees the old object or the new one.

    Raises:
        StoreError: as :func:`read_bytes`; also where the disk is full.
    """

    def write() -> None:
        path = local_path(uri)
        with _translated(uri):
            if path is not None:
                with _replacing(path) as temporary:
                    temporary.write_bytes(data)
            else:
                filesystem, key = _resolve(uri)
                filesystem.pipe_file(key, data)

    retry(write)


def upload(source: Path, uri: str) -> None:
    """Put a local file, all or nothing, without holding it in memory; errors as for writing."""

    def put() -> None:
        path = local_path(uri)
        with _translated(uri):
            if path is not None:
                with _replacing(path) as temporary:
                    shutil.copyfile(source, temporary)
            else:
                filesystem, key = _resolve(uri)
                filesystem.put_file(str(source), key)

    retry(put)


def download(uri: str, target: Path) -> None:
    """Get an object into a local file; a body that ends early is repeated, errors as for reading.

    The target's directory must exist.
    """

    def get() -> None:
        filesystem, key = _resolve(uri)
        with _translated(uri, written=str(target)):
            filesystem.get_file(key, str(target))
            size, expected = target.stat().st_size, filesystem.size(key)
        if size != expected:
            raise UnreachableError(
                f"cannot reach {shown(uri)}: the body ended after {size} of {expected} bytes"
            )

    retry(get)


def exists(uri: str) -> bool:
    """Whether there is an object, or a directory, at ``uri``; errors as for reading."""

    def info() -> bool:
        filesystem, key = _resolve(uri)
        try:
            with _translated(uri):
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
        filesystem, key = _resolve(uri)
        try:
            with _translated(uri):
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
        filesystem, key = _resolve(uri)
        strict = {"on_error": "raise"} if "file" in _protocols(filesystem) else {}
        try:
            with _translated(uri):
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
        filesystem, key = _resolve(uri)
        try:
            with _translated(uri):
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
        filesystem, key = _resolve(uri)
        if ("/" not in key.strip("/") and "s3" in _protocols(filesystem)) or not key.strip("/"):
            raise StoreError(f"will not delete all of {shown(uri)}; name a prefix in it")
        try:
            with _translated(uri):
                filesystem.rm(key, recursive=True)
        except MissingError:
            pass

    retry(delete)


def retry(operation: Callable[[], T], patience_s: float | None = None) -> T:
    """Repeat ``operation`` while it raises what may pass, with full jitter.

    Args:
        operation: idempotent; raises :class:`UnreachableError` or
            :class:`CorruptObjectError` where another attempt may help.
        patience_s: no attempt starts later than this; default :data:`PATIENCE_S`.

    Raises:
        StoreError: the last attempt's.
    """
    deadline = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s)
    attempt = 0
    while True:
        attempt += 1
        try:
            return operation()
        except (UnreachableError, CorruptObjectError) as error:
            pause = _jitter.uniform(0, min(2.0, 0.1 * 2**attempt))
            hopeless = isinstance(error, CorruptObjectError) and attempt >= CORRUPT_ATTEMPTS
            if hopeless or time.monotonic() + pause > deadline:
                raise
            time.sleep(pause)


def _resolve(uri: str) -> tuple[Any, str]:
    """The (cached) file system of a URI and the path in it."""
    protocol = get_protocol(uri)
    options = _S3_OPTIONS if protocol in ("s3", "s3a") else {}
    try:
        filesystem = fsspec.filesystem(protocol, **options)
    except (ValueError, ImportError) as error:
        raise StoreError(f"cannot open {shown(uri)}: {error}") from error
    if options:
        filesystem.retries = 1  # ours are enough: theirs multiply with botocore's
    return filesystem, filesystem._strip_protocol(uri)


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A name to write to; on leaving, the file is synced and takes the place of ``path``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise StoreError(f"cannot write {path}: its directory cannot be made") from error
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
def _translated(uri: str, written: str | None = None) -> Iterator[None]:
    """Turn errors about ``uri``, or about the place that is ``written``, into ours."""
    try:
        yield
    except (OSError, ValueError, BotoCoreError, ClientError, aiohttp.ClientError) as error:
        raise _explain(error, uri, written or uri) from error


def _explain(error: Exception, uri: str, written: str) -> StoreError:
    """The error that a user sees, in place of one of the operating system's or botocore's."""
    place = shown(uri)
    if isinstance(error, NoCredentialsError | PartialCredentialsError | ProfileNotFound):
        return DeniedError(
            f"cannot reach {place}: no complete credentials; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)"
        )
    if any(isinstance(e, ParamValidationError) for e in (error, error.__cause__)):
        return StoreError(f"cannot use {place}: its bucket or key is not a name that S3 allows")
    code = _s3_code(error)
    if code == "NoSuchBucket":
        return StoreError(
            f"cannot reach {place}: there is no such bucket; check its name and AWS_ENDPOINT_URL"
        )
    if isinstance(error, FileNotFoundError):
        return MissingError(f"nothing at {place}")
    if isinstance(error, NotADirectoryError):
        return MissingError(f"nothing at {place}: a part of its path is a file")
    if isinstance(error, PermissionError):
        return _denied(place, code)
    if isinstance(error, FlexibleChecksumError):  # the server kept one of its own
        return CorruptObjectError(f"{place} is damaged: its checksum does not match")
    number = getattr(error, "errno", None)
    if number in _FULL_ERRNOS:
        return StoreError(
            f"no space left to write {shown(written)}; free some or choose another place"
        )
    if isinstance(error, BotoCoreError | aiohttp.ClientError | ConnectionError | TimeoutError) or (
        number in _TRANSIENT_ERRNOS and local_path(uri) is None
    ):
        reason = f"{code}: {getattr(error, 'strerror', error)}" if code else str(error)
        return UnreachableError(
            f"cannot reach {place}: {shown(reason) or type(error).__name__}; "
            "check the endpoint (AWS_ENDPOINT_URL) and the network"
        )
    return StoreError(f"cannot use {place}: {shown(str(error))}")


def _denied(place: str, code: str | None) -> DeniedError:
    """What to do about a refusal by a file system, or by S3 with this code."""
    if code is None:
        return DeniedError(f"permission denied at {place}; check who owns it")
    keys = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they are allowed to do"
    return DeniedError(f"cannot reach {place}: access denied ({code}); {_ADVICE.get(code, keys)}")


def _s3_code(error: Exception) -> str | None:
    """The code of an S3 server's refusal, which s3fs keeps as the cause of its own error."""
    for candidate in (error, error.__cause__):
        if isinstance(candidate, ClientError):
            return str(candidate.response.get("Error", {}).get("Code", "unknown"))
    return None


def shown(text: str) -> str:
    """``text``, a URI or a message, without the credentials and signatures in it."""
    return _SECRETS.sub(lambda match: "…@" if match[0].endswith("@") else "…", text)
