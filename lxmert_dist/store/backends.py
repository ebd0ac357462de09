"""One GET of a whole object, nothing repeated: by fsspec, or by obstore where that is chosen."""

import os
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import botocore.session
from botocore.exceptions import NoCredentialsError
from fsspec.asyn import AsyncFileSystem
from fsspec.utils import get_protocol
from s3fs import S3FileSystem

from lxmert_dist.errors import ConfigError, StoreError
from lxmert_dist.redact import redact as shown
from lxmert_dist.store import uri as uris
from lxmert_dist.store.transit import Kind, explain_status, missing, unreachable

Get = Callable[[str], Awaitable[bytes | memoryview]]
"""From an object's URI to its bytes, in memory of their own; raises as ``uri.read_once``."""

OBSTORE_PROTOCOLS = ("s3", "s3a")
"""What obstore reads; everything else stays with fsspec."""

CREDENTIALS_LAST = timedelta(minutes=10)
"""After which obstore asks for them again; botocore's are good for at least as long."""

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")


def build_get(uri: str, backend: str) -> Get | None:
    """How objects under ``uri`` are got; None where its file system has no asynchronous reads.

    Raises:
        ConfigError: obstore is chosen, and not installed.
        StoreError: the URI is none.
    """
    if backend == "obstore" and get_protocol(uri) in OBSTORE_PROTOCOLS:
        return _by_obstore(uri)
    filesystem, _ = uris.resolve(uri)
    if isinstance(filesystem, S3FileSystem):
        return _by_s3fs
    return _by_fsspec if isinstance(filesystem, AsyncFileSystem) else None


async def _by_s3fs(uri: str) -> bytes:
    """Past the check of the body against the server's own checksum: the manifest has a better."""
    filesystem, path = uris.resolve(uri)
    bucket, key, _ = filesystem.split_path(path)
    with uris.translated(uri):
        answer = await filesystem._call_s3("get_object", Bucket=bucket, Key=key)
        body: aiohttp.ClientResponse = answer["Body"].raw_stream
        try:
            return await body.read()
        finally:
            body.close()


async def _by_fsspec(uri: str) -> bytes:
    filesystem, key = uris.resolve(uri)
    with uris.translated(uri):
        data: bytes = await filesystem._cat_file(key)
        return data


def _by_obstore(uri: str) -> Get:
    """Credentials come from where fsspec has them, endpoint and region from the environment."""
    try:
        import obstore
        from obstore.exceptions import BaseError
        from obstore.store import S3Store
    except ImportError as error:
        raise ConfigError(
            "data.backend='obstore' needs obstore: pip install 'lxmert_dist[obstore]'"
        ) from error
    with uris.translated(uri):
        credentials = botocore.session.get_session().get_credentials()
        if credentials is None:
            raise NoCredentialsError
    bucket = uri.partition("://")[2].partition("/")[0]
    connect_s, read_s = (timedelta(seconds=seconds) for seconds in uris.timeouts())
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    try:
        store = S3Store(
            bucket,
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": connect_s,
                "read_timeout": read_s,
            },
            retry_config={"max_retries": 0},
            credential_provider=lambda: _frozen(credentials),
        )
    except (BaseError, ValueError) as error:
        raise StoreError(
            f"cannot open {shown(uri)}: {_first_line(error)}; check its bucket and AWS_ENDPOINT_URL"
        ) from error

    async def get(uri: str) -> memoryview:
        key = uri.partition("://")[2].partition("/")[2]
        try:
            return memoryview(await (await obstore.get_async(store, key)).bytes_async())
        except (BaseError, OSError, ValueError) as error:
            raise _explain(error, uri) from error

    return get


def _frozen(credentials: Any) -> Any:
    """As obstore wants them; those that expire are renewed by botocore, in good time."""
    frozen = credentials.get_frozen_credentials()
    return {
        "access_key_id": frozen.access_key,
        "secret_access_key": frozen.secret_key,
        "token": frozen.token,
        "expires_at": datetime.now(UTC) + CREDENTIALS_LAST,
    }


def _explain(error: Exception, uri: str) -> StoreError:
    """Ours for one of obstore's, whose kind stands in its text."""
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    if status:
        return explain_status(uri, int(status[1]), code[1] if code else "unknown")
    if isinstance(error, FileNotFoundError):
        return missing(uri)
    if isinstance(error, ValueError):
        return StoreError(f"cannot use {shown(uri)}: {shown(_first_line(error))}; check its name")
    kind: Kind = "reset"
    if "TimedOut" in text or "kind: Timeout" in text:
        kind = "timeout"
    elif "IncompleteBody" in text:
        kind = "short"
    return unreachable(uri, _first_line(error), kind)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].strip()
