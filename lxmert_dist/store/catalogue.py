"""Follow the pointer of a store to its manifest, which says everything that is in it."""

from dataclasses import dataclass

from lxmert_dist.errors import CorruptObjectError, StoreError
from lxmert_dist.store import uri as uris
from lxmert_dist.store.layout import POINTER_KEY, manifest_key
from lxmert_dist.store.manifest import Manifest, is_store_root, parse_manifest, parse_pointer


@dataclass(frozen=True)
class Catalogue:
    """A finished store of which nothing but the manifest was read.

    Attributes:
        uri: where it is.
        digest: of its manifest, 64 hex digits; names exactly these data.
        manifest: everything that is in it.
    """

    uri: str
    digest: str
    manifest: Manifest


def open_catalogue(uri: str) -> Catalogue:
    """The manifest of the finished store at a path or fsspec URI.

    Raises:
        StoreError: there is no store, it is half-written, of another schema version, its manifest
            was changed, or it is out of reach.
    """
    try:
        pointer = uris.read_bytes(uris.join(uri, POINTER_KEY))
    except uris.MissingError as error:
        raise StoreError(_what_is_there(uri)) from error
    digest = parse_pointer(pointer, uris.join(uri, POINTER_KEY))
    return Catalogue(uri, digest, read_manifest(uri, digest))


def read_manifest(uri: str, digest: str) -> Manifest:
    """The manifest of this digest in the store at ``uri``.

    Raises:
        CorruptObjectError: it is missing, or its bytes have another digest.
        StoreError: it is no manifest of this version, or out of reach.
    """
    location = uris.join(uri, manifest_key(digest))
    try:
        return uris.retry(lambda: parse_manifest(uris.read_once(location), digest, location))
    except uris.MissingError as error:
        raise CorruptObjectError(
            f"{manifest_key(digest)} is missing from the store at {uris.shown(uri)}; "
            "prepare it again"
        ) from error


def _what_is_there(uri: str) -> str:
    """Why a place without a pointer is no store that can be opened."""
    place = uris.shown(uri)
    if is_store_root(uri):
        return f"the store at {place} is half-written: its preparation did not finish; run it again"
    if not uris.is_empty(uri):
        return f"{place} holds something, but no feature store; check data.store"
    return (
        f"there is no feature store at {place}; prepare one there "
        f"(launch/prepare.py easy-vqa --out {place}) or check data.store"
    )
