"""Compare a store with its manifest, object by object, and mend it from another copy."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from lxmert_dist.errors import CorruptObjectError, StoreError
from lxmert_dist.store import uri as uris
from lxmert_dist.store.access import local_copy, problem_of, read_chunk
from lxmert_dist.store.catalogue import Catalogue, read_manifest
from lxmert_dist.store.layout import (
    MANIFESTS,
    NUM_BOXES,
    POINTER_KEY,
    SCHEMA_VERSION,
    manifest_key,
    row_shape,
    small_arrays,
)
from lxmert_dist.store.manifest import (
    Manifest,
    ObjectEntry,
    canonical_json,
    parse_manifest,
    parse_pointer,
)
from lxmert_dist.store.reader import Store

Opened = Catalogue | Store
Checked = tuple[ObjectEntry, str | None]
"""An object of the manifest and what is wrong with it, or None."""


def verify(store: Opened) -> Iterator[tuple[str, str]]:
    """Read every object of a store and compare it with the manifest.

    Yields:
        The key and the problem of each object that is missing or not as it was written.

    Raises:
        StoreError: the store is out of reach.
    """
    for entry, problem in check_contents(store, threads=1):
        if problem is not None:
            yield entry.key, problem


def check_contents(store: Opened, *, threads: int) -> Iterator[Checked]:
    """Read every object and compare its length, CRC-32C and SHA-256 with the manifest.

    Where images differ in their number of boxes, the numbers must be in the manifest's range, and
    what is behind an image's boxes must be zeros.

    Args:
        store: what is checked.
        threads: objects that are read at once; each takes at most 64 MiB of memory, or as much as
            its size where it is looked at for padding.

    Yields:
        Every object, as it is done.

    Raises:
        StoreError: the store is out of reach.
    """
    with _cancelling(threads) as pool:
        entries = list(store.manifest.all_objects())
        looks = _looks(store)
        jobs = {
            pool.submit(problem_of, store.uri, entry, looks.get(entry.key)): entry
            for entry in entries
        }
        for job in as_completed(jobs):
            yield jobs[job], job.result()


Look = Callable[[bytes], str | None]
"""Finds what is wrong with the bytes of a sound object, or None."""


def _looks(store: Opened) -> dict[str, Look]:
    """By key, what else is asked of objects than their checksums: none where all images are full.

    A split whose numbers of boxes are damaged is not looked at: that damage is found anyway.

    Raises:
        StoreError: the store is out of reach.
    """
    manifest, looks = store.manifest, dict[str, Look]()
    if manifest.min_objects is None:
        return looks
    objects = manifest.num_objects
    features = np.dtype(manifest.feature_dtype).newbyteorder("<")
    arrays = small_arrays(varying=True)
    for split in manifest.splits.values():
        entry, dtype = split.arrays[NUM_BOXES], arrays[NUM_BOXES][0]
        try:
            counts = read_chunk(store.uri, entry, (split.num_images,), dtype)
        except CorruptObjectError:
            continue
        looks[entry.key] = partial(_count_problem, entry, counts, manifest)
        for name, chunk in split.arrays.items():
            row = row_shape(name, objects)
            if row[:1] == (objects,) and name not in (NUM_BOXES, "sizes"):
                looks[chunk.key] = partial(_padding_problem, chunk, counts, row, arrays[name][0])
        for shard in split.shards:
            images = slice(shard.first_image, shard.first_image + shard.num_images)
            row = (objects, manifest.feature_dim)
            looks[shard.chunk.key] = partial(
                _padding_problem, shard.chunk, counts[images], row, features
            )
    return looks


def _count_problem(
    entry: ObjectEntry, counts: Integer[np.ndarray, " N"], manifest: Manifest, _: bytes
) -> str | None:
    least, most = manifest.min_objects, manifest.num_objects
    if least is not None and least <= counts.min() and counts.max() <= most:
        return None
    return f"{entry.key} has {counts.min()} to {counts.max()} boxes, the manifest {least} to {most}"


def _padding_problem(
    entry: ObjectEntry,
    counts: Integer[np.ndarray, " N"],
    row: tuple[int, ...],
    dtype: np.dtype[Any],
    data: bytes,
) -> str | None:
    shape = (len(counts), *row)
    values = np.frombuffer(data, dtype, int(np.prod(shape))).reshape(shape)
    behind = np.arange(row[0]) >= counts[:, None]  # (N, O)
    images = np.flatnonzero([values[i, behind[i]].any() for i in range(len(counts))])
    if not images.size:
        return None
    return f"{entry.key}: image {images[0]} of it is not zero behind its {counts[images[0]]} boxes"


def check_sizes(store: Opened, found: dict[str, int]) -> Iterator[Checked]:
    """Compare the lengths of all objects with a listing (``uri.list_tree``) of their place."""
    for entry in store.manifest.all_objects():
        size = found.get(entry.key)
        if size is None:
            yield entry, f"{entry.key} is missing"
        elif size != entry.num_bytes:
            yield entry, f"{entry.key} has {size} bytes, the manifest says {entry.num_bytes}"
        else:
            yield entry, None


def unnamed(store: Opened, found: dict[str, int]) -> list[str]:
    """The keys of a listing that neither the store's manifest nor an intact older one names.

    Raises:
        StoreError: a manifest is out of reach.
    """
    named = {POINTER_KEY, manifest_key(store.digest)}
    named.update(entry.key for entry in store.manifest.all_objects())
    for key in sorted(set(found) - named):
        folder, _, name = key.rpartition("/")
        if folder == MANIFESTS:
            location, digest = uris.join(store.uri, key), name.removesuffix(".json")
            try:
                older = parse_manifest(uris.read_bytes(location), digest, location)
            except (uris.DeniedError, uris.UnreachableError):
                raise
            except StoreError:
                continue
            named.add(key)
            named.update(entry.key for entry in older.all_objects())
    return sorted(set(found) - named)


def repair(
    uri: str, copy: Opened, bad: Iterable[ObjectEntry], *, threads: int
) -> Iterator[Checked]:
    """Replace objects of the store at ``uri`` by those of a copy, then read them again.

    Args:
        uri: of the damaged store, which :func:`lost_records` found to be the same as ``copy``.
        copy: another copy of it.
        bad: the objects to replace.
        threads: objects that are copied at once.

    Yields:
        Every object, as it is done, and why it could not be mended, or None.

    Raises:
        StoreError: one of the places is out of reach or cannot be written.
    """

    def mend(entry: ObjectEntry) -> str | None:
        with tempfile.TemporaryDirectory(prefix="lxmert_dist_") as scratch:
            try:
                sound = local_copy(copy.uri, entry, Path(scratch))
            except CorruptObjectError as error:
                return f"the copy is no better: {error.__cause__} ({uris.shown(copy.uri)})"
            uris.upload(sound, uris.join(uri, entry.key))
        return problem_of(uri, entry)

    with _cancelling(threads) as pool:
        jobs = {pool.submit(mend, entry): entry for entry in bad}
        for job in as_completed(jobs):
            yield jobs[job], job.result()


def lost_records(uri: str, copy: Opened) -> list[str]:
    """Which of manifest and pointer the store at ``uri`` has lost; none where both are sound.

    Args:
        uri: of the damaged store.
        copy: a sound store, which must be a copy of it: the pointer names the same manifest or,
            where it is gone, there is a manifest of that name.

    Raises:
        StoreError: it is another store, or nobody can tell; or it is out of reach.
    """
    location = uris.join(uri, POINTER_KEY)
    try:
        digest: str | None = parse_pointer(uris.read_bytes(location), location)
    except (uris.DeniedError, uris.UnreachableError):
        raise
    except StoreError as error:
        if f"{copy.digest}.json" not in uris.list_dir(uris.join(uri, MANIFESTS)):
            raise StoreError(
                f"{uris.shown(copy.uri)} may be another store than {uris.shown(uri)}, where no "
                f"manifest has its name ({copy.digest[:12]}), and nothing was copied; name a copy "
                "of it"
            ) from error
        digest = None
    if digest not in (None, copy.digest):
        raise StoreError(
            f"{uris.shown(copy.uri)} is another store ({copy.digest[:12]}) than "
            f"{uris.shown(uri)} ({str(digest)[:12]}), and nothing was copied; name a copy of it"
        )
    lost = [] if digest else [POINTER_KEY]
    try:
        read_manifest(uri, copy.digest)
    except CorruptObjectError:
        lost.insert(0, manifest_key(copy.digest))
    return lost


def restore_records(uri: str, copy: Opened, lost: Iterable[str]) -> None:
    """Write what :func:`lost_records` found, in its order: the pointer comes last.

    Raises:
        StoreError: a place is out of reach or cannot be written.
    """
    location = uris.join(copy.uri, manifest_key(copy.digest))
    manifest = uris.read_bytes(location)
    parse_manifest(manifest, copy.digest, location)
    pointer = canonical_json({"schema_version": SCHEMA_VERSION, "digest": copy.digest})
    records = {manifest_key(copy.digest): manifest, POINTER_KEY: pointer}
    for key in lost:
        uris.write_bytes(uris.join(uri, key), records[key])


@contextmanager
def _cancelling(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that, when it is left early, begins nothing more."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="verify")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
