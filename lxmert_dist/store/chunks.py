"""Zarr v3 arrays: their metadata as zarr-python spells it, their chunks as bytes.

Chunks are encoded and decoded here, so that one object is one write, one read and no copy; the
metadata comes from zarr-python, so that any Zarr reader opens the store.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.core.buffer import Buffer as ZarrBuffer
from zarr.storage import MemoryStore

from lxmert_dist.errors import CorruptObjectError
from lxmert_dist.store.manifest import CHECKSUM_BYTES, CHUNK_RESIDUE, ChunkEntry

Array = np.ndarray[Any, np.dtype[Any]]
Buffer = bytes | memoryview


def empty_chunk(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[bytearray, Array]:
    """An unsealed chunk of zeros, and a view of its values to be filled in, little-endian."""
    count = int(np.prod(shape))
    data = bytearray(count * dtype.itemsize + CHECKSUM_BYTES)
    return data, np.frombuffer(data, dtype.newbyteorder("<"), count).reshape(shape)


def seal_chunk(data: bytearray) -> None:
    """End a chunk with the CRC-32C of what stands before."""
    body = np.frombuffer(data, np.uint8, len(data) - CHECKSUM_BYTES)  # takes no bytearray
    checksum = int(google_crc32c.value(body))
    data[-CHECKSUM_BYTES:] = checksum.to_bytes(CHECKSUM_BYTES, "little")


def encode_chunk(values: Array, length: int | None = None) -> bytes:
    """Little-endian bytes of ``values``, padded with zeros to ``length`` rows, and a CRC-32C."""
    data, view = empty_chunk((length or len(values), *values.shape[1:]), values.dtype)
    view[: len(values)] = values
    seal_chunk(data)
    return bytes(data)


def check_chunk(data: Buffer, entry: ChunkEntry) -> None:
    """Compare a whole chunk with the manifest.

    Raises:
        CorruptObjectError: another length, or another checksum in the object or the manifest.
    """
    values = np.frombuffer(data, np.uint8)  # google_crc32c takes no writable memoryview
    if len(values) != entry.num_bytes:
        raise CorruptObjectError(
            f"{entry.key} has {len(values)} bytes, the manifest says {entry.num_bytes}"
        )
    stored = int.from_bytes(values[-CHECKSUM_BYTES:].tobytes(), "little")
    if google_crc32c.value(values) != CHUNK_RESIDUE or stored != entry.crc32c:
        raise CorruptObjectError(f"{entry.key} is damaged: its checksum does not match")


def fill_from_file(path: Path, entry: ChunkEntry, buffer: memoryview) -> None:
    """Fill a buffer, as long as the chunk, with a whole chunk of a local file, without a copy.

    Raises:
        CorruptObjectError: another length, or another checksum in the object or the manifest.
        OSError: there is no such file, or it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        size, got = os.fstat(file.fileno()).st_size, 0
        if size != len(buffer):
            raise CorruptObjectError(
                f"{entry.key} has {size} bytes, the manifest says {entry.num_bytes}"
            )
        while more := file.readinto(buffer[got:]):
            got += more
    check_chunk(buffer[:got], entry)


def decode_chunk(
    data: Buffer, entry: ChunkEntry, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Array:
    """View a chunk as an array, without a copy, after checking it against the manifest.

    Args:
        data: the whole object.
        entry: what the manifest says of it.
        shape: of the values; may be fewer rows than the chunk has (the last one is padded).
        dtype: little-endian.

    Returns:
        An array over ``data``, read-only where that is.

    Raises:
        CorruptObjectError: another length, or another checksum in the object or the manifest.
    """
    check_chunk(data, entry)
    return np.frombuffer(data, dtype, count=int(np.prod(shape))).reshape(shape)


def group_metadata(attributes: Mapping[str, Any]) -> bytes:
    """The ``zarr.json`` of a group."""
    written: dict[str, ZarrBuffer] = {}
    zarr.create_group(MemoryStore(written), attributes=dict(attributes), zarr_format=3)
    return written["zarr.json"].to_bytes()


def array_metadata(
    shape: tuple[int, ...], chunks: tuple[int, ...], dtype: np.dtype[Any], dimensions: Sequence[str]
) -> bytes:
    """The ``zarr.json`` of an array: codecs ``bytes`` (little-endian) and ``crc32c``."""
    written: dict[str, ZarrBuffer] = {}
    zarr.create_array(
        MemoryStore(written),
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        serializer=BytesCodec(endian="little"),
        compressors=[Crc32cCodec()],
        fill_value=0,
        dimension_names=list(dimensions),
        zarr_format=3,
        config={"write_empty_chunks": True},
    )
    return written["zarr.json"].to_bytes()
