"""One GET of a whole object, nothing repeated: by fsspec, or by obstore where that is chosen."""

import os
import re
from collections.abc import Awaitable, Callable
from typing import Any

from fsspec.asyn import AsyncFileSystem
from fsspec.utils import get_protocol

from lxmert_dist.errors import ConfigError, StoreError
from lxmert_dist.store import uri as uris
from lxmert_dist.store.transit import Kind, MissingError, explain_status, shown, unreachable

Get = Callable[[str], Awaitable[Any]]
"""From an object's URI to its bytes, in memory of their own; raises as ``uri.read_once``."""

OBSTORE_PROTOCOLS = ("s3", "s3a")
"""What obstore reads; everything else stays with fsspec."""

_TIMEOUT, _CONNECT_TIMEOUT = "30s", "5s"
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
    return _by_fsspec if isinstance(filesystem, AsyncFileSystem) else None


async def _by_fsspec(uri: str) -> bytes:
    filesystem, key = uris.resolve(uri)
    with uris.translated(uri):
        data: bytes = await filesystem._cat_file(key)
        return data


def _by_obstore(uri: str) -> Get:
    """Credentials, endpoint and region come from the environment, as they do for fsspec."""
    try:
        import obstore
        from obstore.exceptions import BaseError
        from obstore.store import S3Store
    except ImportError as error:
        raise ConfigError(
            "data.backend='obstore' needs obstore: pip install 'lxmert_dist[obstore]'"
        ) from error
    bucket = uri.partition("://")[2].partition("/")[0]
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    try:
        store = S3Store(
            bucket,
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "timeout": _TIMEOUT,
                "connect_timeout": _CONNECT_TIMEOUT,
            },
            retry_config={"max_retries": 0},
        )
    except (BaseError, ValueError) as error:
        raise StoreError(f"cannot open {shown(uri)}: {_first_line(error)}") from error

    async def get(uri: str) -> Any:
        key = uri.partition("://")[2].partition("/")[2]
        try:
            return await (await obstore.get_async(store, key)).bytes_async()
        except (BaseError, OSError) as error:
            raise _explain(error, uri) from error

    return get


def _explain(error: Exception, uri: str) -> StoreError:
    """Ours for one of obstore's, whose kind stands in its text."""
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    if status:
        return explain_status(uri, int(status[1]), code[1] if code else "unknown")
    if isinstance(error, FileNotFoundError):
        return MissingError(f"nothing at {shown(uri)}")
    kind: Kind = "reset"
    if "imeout" in text or "timed out" in text:
        kind = "timeout"
    elif "body error" in text:
        kind = "short"
    return unreachable(uri, _first_line(error), kind)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].strip()
