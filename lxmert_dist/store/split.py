"""One split of an open store: small arrays in memory, features a shard at a time."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Float16, Float32, Int16, Int32, Int64, UInt8

from lxmert_dist.errors import CorruptObjectError
from lxmert_dist.store.access import local_copy, read_chunk, read_object
from lxmert_dist.store.cache import DiskCache
from lxmert_dist.store.fetch import Fetcher
from lxmert_dist.store.layout import row_shape, small_arrays
from lxmert_dist.store.manifest import Manifest
from lxmert_dist.store.sentences import SentenceTable
from lxmert_dist.store.uri import shown


class Split:
    """N images in row order and P pairs, sorted by image row. Safe to use from threads.

    Attributes:
        name: of the split.
        num_images: N.
        num_pairs: P.
        num_objects: O, the most boxes of an image.
        feature_dim: F.
        num_shards: objects that hold the features.
        shard_bytes: of the largest of them.
        images_per_shard: images in each of them but the last.
        dtype: of the features, ``float16`` or ``float32``.
        boxes: x1, y1, x2, y2 over the image size, in [0, 1] up to 1e-5.
        object_ids: class indices, as stored: cast before computing with them.
        object_scores: in [0, 1].
        attribute_ids: as ``object_ids``.
        attribute_scores: in [0, 1].
        sizes: height and width in pixels.
        num_boxes: of every image, in [1, O]; what is behind them in features and arrays is zeros.
            None where all images have O.
        image_ids: the ingest's name of every row.
        image_offsets: the pairs of image row i are ``image_offsets[i]:image_offsets[i + 1]``.
        sentences: the sentence table; its rows are the pairs.
    """

    boxes: Float32[np.ndarray, "N O 4"]
    object_ids: Int16[np.ndarray, "N O"]
    object_scores: Float16[np.ndarray, "N O"]
    attribute_ids: Int16[np.ndarray, "N O"]
    attribute_scores: Float16[np.ndarray, "N O"]
    sizes: Int32[np.ndarray, "N 2"]
    num_boxes: Int16[np.ndarray, " N"] | None = None
    image_ids: Sequence[str]
    image_offsets: Int64[np.ndarray, " N+1"]
    sentences: SentenceTable

    def __init__(
        self,
        uri: str,
        name: str,
        manifest: Manifest,
        scratch: Path,
        fetcher: Fetcher,
        cache: DiskCache | None = None,
    ) -> None:
        """Read and check everything but the features.

        Args:
            uri: of the store.
            name: of the split, one of ``manifest.splits``.
            manifest: of the store.
            scratch: local directory for a copy of the sentences, if the store is elsewhere.
            fetcher: reads features of the store.
            cache: of features, on this node.

        Raises:
            CorruptObjectError: an object is missing or damaged; names it.
            StoreError: the store is out of reach.
        """
        entry = manifest.splits[name]
        self.name = name
        self.num_images = entry.num_images
        self.num_pairs = entry.num_pairs
        self.num_objects = manifest.num_objects
        self.feature_dim = manifest.feature_dim
        self.num_shards = len(entry.shards)
        self.shard_bytes = max(shard.chunk.num_bytes for shard in entry.shards)
        self.images_per_shard = manifest.images_per_shard
        self.dtype = np.dtype(manifest.feature_dtype).newbyteorder("<")
        self._uri = uri
        self._fetcher = fetcher
        self._cache = cache
        self._shards = entry.shards
        for array, (dtype, _) in small_arrays(manifest.min_objects is not None).items():
            shape = (self.num_images, *row_shape(array, self.num_objects))
            setattr(self, array, read_chunk(uri, entry.arrays[array], shape, dtype))
        ids = pa.ipc.open_file(pa.BufferReader(read_object(uri, entry.image_ids))).read_all()
        self.image_ids = ids["image_id"].to_pylist()
        self.sentences = SentenceTable(local_copy(uri, entry.sentences, scratch))
        if self.sentences.num_pairs != self.num_pairs or len(self.image_ids) != self.num_images:
            raise CorruptObjectError(
                f"{shown(uri)}: split {name!r} has other sizes than its manifest; "
                "prepare the store again"
            )
        pairs = np.bincount(self.sentences.image_rows, minlength=self.num_images)
        self.image_offsets = np.concatenate([[0], np.cumsum(pairs)])

    def read_shard(
        self,
        shard: int,
        *,
        into: UInt8[np.ndarray, " b"] | None = None,
        next_use: float | None = None,
    ) -> Float[np.ndarray, "n O F"]:
        """The features of images ``shard * images_per_shard`` and on, by one GET at most.

        Args:
            shard: in [0, num_shards).
            into: a buffer of at least ``shard_bytes``; None makes one.
            next_use: when it will be wanted again, in seconds since 1970, for the cache; None if
                nobody knows.

        Returns:
            A read-only view of the buffer, in the store's dtype; the last shard may have fewer
            than ``images_per_shard`` images.

        Raises:
            CorruptObjectError: the object is missing, or stays damaged when read anew.
            StoreError: access is denied, or nothing came in ``ReadSettings.patience_s``.
        """
        entry = self._shards[shard]
        buffer = np.empty(entry.chunk.num_bytes, np.uint8) if into is None else into
        buffer = buffer[: entry.chunk.num_bytes]
        if self._cache is None:
            self._fetcher.fetch(entry.chunk, buffer.data)
        else:
            self._cache.read(entry.chunk, buffer.data, self._fetcher.fetch, next_use)
        shape = (entry.num_images, self.num_objects, self.feature_dim)
        features = buffer[: math.prod(shape) * self.dtype.itemsize].view(self.dtype).reshape(shape)
        features.flags.writeable = False
        return features

    def take_stats(self) -> dict[str, float]:
        """What reading features took since the last call, in this process.

        ``ReadStats.take``; with a cache also its ``cache_hits``, ``cache_misses``,
        ``cache_damaged`` and ``cache_evicted``, over all splits.
        """
        cached = {} if self._cache is None else self._cache.take_counts()
        counts = {f"cache_{name}": float(count) for name, count in cached.items()}
        return self._fetcher.stats.take() | counts
