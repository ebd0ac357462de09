"""Our chunks against zarr-python's, bit by bit."""

import numpy as np
import pytest
import zarr
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from lxmert_dist.errors import CorruptObjectError
from lxmert_dist.store import chunks
from lxmert_dist.store.manifest import ChunkEntry

SHAPE = (5, 3, 2)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<i2", "<i4"])
def test_same_bytes_as_zarr(dtype: str) -> None:
    values = np.random.default_rng(0).integers(-99, 99, SHAPE).astype(dtype)
    stored: dict[str, Buffer] = {}
    array = zarr.create_array(
        MemoryStore(stored),
        shape=SHAPE,
        chunks=(2, *SHAPE[1:]),
        dtype=dtype,
        compressors=[zarr.codecs.Crc32cCodec()],
        fill_value=0,
        dimension_names=["a", "b", "c"],
        config={"write_empty_chunks": True},
    )
    array[:] = values
    for k in range(3):
        ours = chunks.encode_chunk(values[2 * k : 2 * k + 2], 2)
        assert ours == stored[f"c/{k}/0/0"].to_bytes()
    metadata = chunks.array_metadata(SHAPE, (2, *SHAPE[1:]), np.dtype(dtype), ["a", "b", "c"])
    assert metadata == stored["zarr.json"].to_bytes()


def test_decodes_a_view_of_the_rows_wanted() -> None:
    values = np.arange(12, dtype="<f2").reshape(3, 4)
    data = chunks.encode_chunk(values, 5)
    decoded = chunks.decode_chunk(data, ChunkEntry.of("k", data), (3, 4), np.dtype("<f2"))
    np.testing.assert_array_equal(decoded, values)
    assert decoded.base is not None
    assert not decoded.flags.writeable


def test_every_flipped_bit_is_seen() -> None:
    data = chunks.encode_chunk(np.ones((2, 2), "<f2"))
    entry = ChunkEntry.of("k", data)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptObjectError, match="k is damaged"):
            chunks.decode_chunk(bytes(damaged), entry, (2, 2), np.dtype("<f2"))


def test_another_valid_chunk_is_seen() -> None:
    entry = ChunkEntry.of("k", chunks.encode_chunk(np.ones((2, 2), "<f2")))
    other = chunks.encode_chunk(np.zeros((2, 2), "<f2"))
    with pytest.raises(CorruptObjectError, match="k is damaged"):
        chunks.decode_chunk(other, entry, (2, 2), np.dtype("<f2"))


def test_truncation_is_seen() -> None:
    data = chunks.encode_chunk(np.ones((2, 2), "<f2"))
    with pytest.raises(CorruptObjectError, match="k has 11 bytes, the manifest says 12"):
        chunks.decode_chunk(data[:-1], ChunkEntry.of("k", data), (2, 2), np.dtype("<f2"))
