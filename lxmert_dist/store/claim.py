"""Making a place ready to be written: empty, or the half-written store of the same job."""

import json
from collections.abc import Mapping
from typing import Any

from lxmert_dist.errors import StoreError
from lxmert_dist.store import uri as uris
from lxmert_dist.store.layout import FEATURES, JOB_KEY, PARTS, POINTER_KEY, ROOT_KEY
from lxmert_dist.store.manifest import CHECKSUM_BYTES, canonical_json, is_store_root
from lxmert_dist.store.shard import ImageSizes

Job = Mapping[str, Any]
"""What a store is made of, as JSON values: where it differs, nothing can be kept."""

_UNFINISHED_COPY = ".tmp"


def claim(uri: str, job: Job | None, overwrite: bool) -> str | None:
    """Make ``uri`` a place to write to; never delete what is not a store.

    Args:
        uri: of the store.
        job: goes on where a half-written store is of the same job; None always starts anew.
        overwrite: replace a finished store.

    Returns:
        None where the store is continued, else why it starts anew; empty if nothing was there.

    Raises:
        StoreError: there is a finished store, something that is not a store, or it cannot be read.
    """
    names = uris.list_dir(uri)
    if POINTER_KEY in names and not overwrite:
        uris.delete_tree(uris.join(uri, PARTS))  # if the last writer was killed before it could
        raise StoreError(
            f"there is a finished store at {uris.shown(uri)}; choose another place or overwrite it"
        )
    if not (is_store_root(uri) or uris.is_empty(uri)):
        raise StoreError(
            f"{uris.shown(uri)} holds something that is not a store; choose an empty place"
        )
    reason = ""
    if ROOT_KEY in names and POINTER_KEY not in names:
        before = _read_job(uri)
        if job is not None and before == json.loads(canonical_json(job)):
            return None
        reason = "the half-written store there cannot be continued"
        if job is not None and before is not None:
            changed = sorted(k for k in {*job, *before} if job.get(k) != before.get(k))
            reason += f" (other {', '.join(changed)})"
    # the pointer goes first and the root last: a store is never seen half-deleted but finished
    doomed = sorted(set(names) - {POINTER_KEY, ROOT_KEY})
    for name in [POINTER_KEY] * (POINTER_KEY in names) + doomed:
        uris.delete_tree(uris.join(uri, name))
    return reason


def remember(uri: str, job: Job) -> None:
    """Note what the store at ``uri`` is being made of."""
    uris.write_bytes(uris.join(uri, JOB_KEY), canonical_json(job))


def finished_parts(uri: str, sizes: ImageSizes) -> frozenset[str]:
    """The keys of all parts whose feature object is there and as long as it should be.

    What a killed process left of an object is deleted.

    Raises:
        StoreError: the place is out of reach.
    """
    found = uris.list_tree(uri)
    for key in found:
        if key.endswith(_UNFINISHED_COPY):
            uris.delete_tree(uris.join(uri, key))
    values = sizes.images_per_shard * sizes.num_objects * sizes.feature_dim
    length = values * sizes.dtype.itemsize + CHECKSUM_BYTES
    parts = [key.split("/") for key in found if key.startswith(f"{PARTS}/") and key != JOB_KEY]
    return frozenset(
        "/".join(part)
        for part in parts
        if len(part) == 3 and found.get(f"{part[1]}/{FEATURES}/c/{part[2]}/0/0") == length
    )


def _read_job(uri: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(uris.read_bytes(uris.join(uri, JOB_KEY))))
    except (uris.MissingError, ValueError, TypeError):
        return None
