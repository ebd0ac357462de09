"""One split of a store: images in row order, then its sentences."""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lxmert_dist.errors import DataError
from lxmert_dist.schema import RoiRecord, Sentence
from lxmert_dist.store import chunks
from lxmert_dist.store import uri as uris
from lxmert_dist.store.layout import FEATURES, IMAGE_IDS, SENTENCES, SMALL_ARRAYS
from lxmert_dist.store.manifest import ChunkEntry, ObjectEntry, ShardEntry, SplitEntry
from lxmert_dist.store.sentence_builder import SentenceBuilder

SLACK = 1e-5
"""How far a box or a score may stand out of [0, 1]: rounding in a detector."""

_KINDS = {"f": "floating point", "i": "signed integers"}


@dataclass(frozen=True)
class StoreSizes:
    """What every split of a store shares."""

    num_objects: int
    feature_dim: int
    feature_dtype: np.dtype[Any]
    images_per_shard: int
    num_object_classes: int
    num_attribute_classes: int
    vocab_size: int
    answer_ids: Mapping[str, int]


class SplitWriter:
    """Takes the images of one split in their final order; a shard is written when it is full.

    Attributes:
        entry: the split's part of the manifest, once it is closed.
    """

    def __init__(self, uri: str, name: str, sizes: StoreSizes) -> None:
        """Begin split ``name`` of the store at ``uri``."""
        self.entry: SplitEntry | None = None
        self._uri = uri
        self._name = name
        self._sizes = sizes
        self._rows: dict[str, int] = {}
        self._features: list[npt.NDArray[Any]] = []
        self._small: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in SMALL_ARRAYS}
        self._chunks: list[tuple[ChunkEntry, int]] = []

    def append(self, record: RoiRecord) -> None:
        """Add the next row.

        Raises:
            DataError: the split is closed, the image came before, or a field has another shape
                or dtype, is not finite, or is out of range; names the image and the field.
            StoreError: the place cannot be written.
        """
        self._require_open()
        if record.image_id in self._rows:
            raise DataError(f"image {record.image_id!r} is twice in split {self._name!r}")
        features = _checked(record, self._sizes)
        self._rows[record.image_id] = len(self._rows)
        self._features.append(features)
        for name, (dtype, _) in SMALL_ARRAYS.items():
            value = (record.height, record.width) if name == "sizes" else getattr(record, name)
            self._small[name].append(np.asarray(value).astype(dtype))
        if len(self._features) == self._sizes.images_per_shard:
            self._write_shard()

    def close(self, sentences: Iterable[Sentence]) -> SplitEntry:
        """Write the last shard, the small arrays and the sentences.

        Args:
            sentences: in any order; they are sorted by image row, else kept in the order given.

        Returns:
            The split's part of the manifest.

        Raises:
            DataError: the split is closed, there are no images or no sentences, or a sentence does
                not fit the split, the vocabulary or the answer table; names its uid.
            StoreError: the place cannot be written.
        """
        self._require_open()
        if not self._rows:
            raise DataError(f"split {self._name!r} has no images")
        if self._features:
            self._write_shard()
        builder = SentenceBuilder(self._rows, self._sizes.answer_ids, self._sizes.vocab_size)
        for sentence in sentences:
            builder.add(sentence)
        with tempfile.TemporaryDirectory(prefix="lxmert_dist_") as directory:
            table = Path(directory) / SENTENCES
            pairs, sources = builder.write(table, len(self._rows))
            sentence_entry = self._put_file(SENTENCES, table)
            ids = Path(directory) / IMAGE_IDS
            _write_image_ids(list(self._rows), ids)
            id_entry = self._put_file(IMAGE_IDS, ids)
        starts = np.cumsum([0, *(images for _, images in self._chunks)])
        pairs_before = np.concatenate([[0], np.cumsum(pairs)])
        self.entry = SplitEntry(
            num_images=len(self._rows),
            num_pairs=int(pairs_before[-1]),
            sources=sources,
            shards=tuple(
                ShardEntry(
                    chunk=chunk,
                    first_image=int(start),
                    num_images=images,
                    num_pairs=int(pairs_before[start + images] - pairs_before[start]),
                )
                for (chunk, images), start in zip(self._chunks, starts[:-1], strict=True)
            ),
            arrays=self._write_small(),
            metadata=self._write_metadata(),
            sentences=sentence_entry,
            image_ids=id_entry,
        )
        return self.entry

    def _require_open(self) -> None:
        if self.entry is not None:
            raise DataError(f"split {self._name!r} is closed: what comes now would be lost")

    def _write_shard(self) -> None:
        data = chunks.encode_chunk(np.stack(self._features), self._sizes.images_per_shard)
        entry = self._put_chunk(f"{FEATURES}/c/{len(self._chunks)}/0/0", data)
        self._chunks.append((entry, len(self._features)))
        self._features.clear()

    def _write_small(self) -> dict[str, ChunkEntry]:
        entries = {}
        for name, rows in self._small.items():
            values = np.stack(rows)
            key = f"{name}/c/{'/'.join('0' * values.ndim)}"
            entries[name] = self._put_chunk(key, chunks.encode_chunk(values))
        return entries

    def _write_metadata(self) -> tuple[ObjectEntry, ...]:
        sizes, images = self._sizes, len(self._rows)
        documents = {"zarr.json": chunks.group_metadata({})}
        inner = (sizes.num_objects, sizes.feature_dim)
        documents[f"{FEATURES}/zarr.json"] = chunks.array_metadata(
            (images, *inner),
            (sizes.images_per_shard, *inner),
            sizes.feature_dtype,
            ("image", "object", "feature"),
        )
        for name, (dtype, dimensions) in SMALL_ARRAYS.items():
            shape = (images, *self._small[name][0].shape)
            documents[f"{name}/zarr.json"] = chunks.array_metadata(shape, shape, dtype, dimensions)
        entries = []
        for key, document in documents.items():
            uris.write_bytes(uris.join(self._uri, self._name, key), document)
            entries.append(ObjectEntry.of(f"{self._name}/{key}", document))
        return tuple(entries)

    def _put_chunk(self, key: str, data: bytes) -> ChunkEntry:
        uris.write_bytes(uris.join(self._uri, self._name, key), data)
        return ChunkEntry.of(f"{self._name}/{key}", data)

    def _put_file(self, key: str, path: Path) -> ObjectEntry:
        uris.upload(path, uris.join(self._uri, self._name, key))
        return ObjectEntry.of_file(f"{self._name}/{key}", path)


def _write_image_ids(image_ids: list[str], path: Path) -> None:
    table = pa.table({"image_id": pa.array(image_ids, pa.string())})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _checked(record: RoiRecord, sizes: StoreSizes) -> npt.NDArray[Any]:
    """The features as they are stored (O, F), after every field was checked."""
    objects = sizes.num_objects
    ranges: dict[str, tuple[tuple[int, ...], str, float, float]] = {
        "boxes": ((objects, 4), "f", -SLACK, 1 + SLACK),
        "roi_features": ((objects, sizes.feature_dim), "f", -np.inf, np.inf),
        "object_ids": ((objects,), "i", 0, sizes.num_object_classes - 1),
        "object_scores": ((objects,), "f", -SLACK, 1 + SLACK),
        "attribute_ids": ((objects,), "i", 0, sizes.num_attribute_classes - 1),
        "attribute_scores": ((objects,), "f", -SLACK, 1 + SLACK),
    }
    where = f"image {record.image_id!r}"
    for name, (shape, kind, low, high) in ranges.items():
        value = getattr(record, name)
        if value.shape != shape:
            raise DataError(f"{where}: {name} has shape {value.shape}, the store has {shape}")
        if value.dtype.kind != kind:
            raise DataError(f"{where}: {name} is {value.dtype}; expected {_KINDS[kind]}")
        if kind == "f" and not np.isfinite(value).all():
            raise DataError(f"{where}: {name} holds NaN or infinity")
        if value.min() < low or value.max() > high:
            raise DataError(
                f"{where}: {name} in [{value.min():g}, {value.max():g}] leaves [{low:g}, {high:g}]"
            )
    if min(record.height, record.width) < 1:
        raise DataError(f"{where}: a size of {record.height} x {record.width} pixels")
    with np.errstate(over="ignore"):
        features = record.roi_features.astype(sizes.feature_dtype)
    if not np.isfinite(features).all():
        raise DataError(
            f"{where}: roi_features up to {np.abs(record.roi_features).max():g} do not fit "
            f"{sizes.feature_dtype.name}; scale them or store float32"
        )
    return features
