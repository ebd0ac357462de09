"""One split of a store: images in row order, then its sentences."""

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from lxmert_dist.errors import DataError
from lxmert_dist.schema import RoiRecord, Sentence
from lxmert_dist.store import chunks
from lxmert_dist.store import uri as uris
from lxmert_dist.store.layout import FEATURES, IMAGE_IDS, SENTENCES, small_arrays
from lxmert_dist.store.manifest import ChunkEntry, ObjectEntry, ShardEntry, SplitEntry
from lxmert_dist.store.sentence_builder import SentenceBuilder
from lxmert_dist.store.shard import (
    FeatureFigures,
    ImageSizes,
    Part,
    ShardPlace,
    check_record,
    read_part,
    write_shard,
)

_READERS = 8
"""Parts that are read at once."""


class SplitWriter:
    """Takes the images of one split in their final order, one after the other or in shards.

    Attributes:
        entry: the split's part of the manifest, once it is closed.
        figures: what storing did to its features, once it is closed.
    """

    def __init__(
        self,
        uri: str,
        name: str,
        sizes: ImageSizes,
        answer_ids: Mapping[str, int],
        vocab_size: int,
        finished: Collection[str] = (),
    ) -> None:
        """Begin split ``name`` of the store at ``uri``.

        Args:
            uri: of the store.
            name: of the split.
            sizes: what all images share.
            answer_ids: the answer table.
            vocab_size: of the tokenizer; 0 if there is none, and the split has no sentences.
            finished: keys of the parts that an earlier process left.
        """
        self.entry: SplitEntry | None = None
        self.figures = FeatureFigures()
        self._uri = uri
        self._name = name
        self._sizes = sizes
        self._answer_ids = answer_ids
        self._vocab_size = vocab_size
        self._finished = finished
        self._num_images = 0
        self._seen: set[str] = set()
        self._pending: list[RoiRecord] = []

    def append(self, record: RoiRecord) -> None:
        """Add the next row; a shard is written when it is full.

        Raises:
            DataError: the split is closed, the image came before, or a field has another shape
                or dtype, is not finite, or is out of range; names the image and the field.
            StoreError: the place cannot be written.
        """
        self._require_open()
        if record.image_id in self._seen:
            raise DataError(
                f"image {record.image_id!r} is twice in split {self._name!r}; leave one out"
            )
        check_record(record, self._sizes)
        self._seen.add(record.image_id)
        self._pending.append(record)
        self._num_images += 1
        if len(self._pending) == self._sizes.images_per_shard:
            self._write_pending()

    def shards(self, num_images: int) -> list[tuple[ShardPlace, slice]]:
        """Announce all images at once, instead of appending them.

        Returns:
            The shards that are not there yet, and which images each takes: hand them to
            ``write_shard``, in any order and process, before the split is closed.
        """
        self._num_images = num_images
        size = self._sizes.images_per_shard
        return [
            (place, slice(place.number * size, min((place.number + 1) * size, num_images)))
            for place in self._places()
            if place.part_key not in self._finished
        ]

    def close(self, sentences: Iterable[Sentence]) -> SplitEntry:
        """Write the last shard, the small arrays and the sentences.

        Args:
            sentences: in any order; they are sorted by image row, else kept in the order given.

        Returns:
            The split's part of the manifest.

        Raises:
            DataError: the split is closed, there are no images or no sentences, an image is twice
                in it, or a sentence does not fit the split, the vocabulary or the answer table;
                names its uid.
            StoreError: the place cannot be written, or a shard is missing.
        """
        self._require_open()
        if not self._num_images:
            raise DataError(f"split {self._name!r} has no images; give it some, or leave it out")
        if self._pending:
            self._write_pending()
        with ThreadPoolExecutor(_READERS) as pool:
            parts = list(pool.map(read_part, self._places()))
        self.figures = sum((part.figures for part in parts), FeatureFigures())
        ids = [image_id for part in parts for image_id in part.image_ids]
        rows = {image_id: row for row, image_id in enumerate(ids)}
        if len(rows) < len(ids):
            twice = next(image_id for row, image_id in enumerate(ids) if rows[image_id] != row)
            raise DataError(f"image {twice!r} is twice in split {self._name!r}; leave one out")
        with tempfile.TemporaryDirectory(prefix="lxmert_dist_") as directory:
            table = Path(directory) / SENTENCES
            with SentenceBuilder(rows, self._answer_ids, self._vocab_size) as builder:
                for sentence in sentences:
                    builder.add(sentence)
                pairs, sources = builder.write(table, len(rows))
            sentence_entry = self._put_file(SENTENCES, table)
            _write_image_ids(ids, Path(directory) / IMAGE_IDS)
            id_entry = self._put_file(IMAGE_IDS, Path(directory) / IMAGE_IDS)
        pairs_before = np.concatenate([[0], np.cumsum(pairs)])
        starts = np.cumsum([0, *(len(part.image_ids) for part in parts)]).tolist()
        self.entry = SplitEntry(
            num_images=len(rows),
            num_pairs=int(pairs_before[-1]),
            sources=sources,
            shards=tuple(
                ShardEntry(
                    chunk=part.chunk,
                    first_image=start,
                    num_images=end - start,
                    num_pairs=int(pairs_before[end] - pairs_before[start]),
                )
                for part, (start, end) in zip(parts, pairwise(starts), strict=True)
            ),
            arrays=self._write_small(parts),
            metadata=self._write_metadata(len(rows)),
            sentences=sentence_entry,
            image_ids=id_entry,
        )
        return self.entry

    def _require_open(self) -> None:
        if self.entry is not None:
            raise DataError(
                f"split {self._name!r} is closed, and what comes now would be lost; append before "
                "it is closed"
            )

    def _places(self) -> list[ShardPlace]:
        shards = -(-self._num_images // self._sizes.images_per_shard)
        return [ShardPlace(self._uri, self._name, number, self._sizes) for number in range(shards)]

    def _write_pending(self) -> None:
        write_shard(self._places()[-1], self._pending)
        self._pending.clear()

    def _write_small(self, parts: Sequence[Part]) -> dict[str, ChunkEntry]:
        entries = {}
        for name in self._sizes.small:
            values = np.concatenate([part.small[name] for part in parts])
            key = f"{name}/c/{'/'.join('0' * values.ndim)}"
            entries[name] = self._put_chunk(key, chunks.encode_chunk(values))
        return entries

    def _write_metadata(self, images: int) -> tuple[ObjectEntry, ...]:
        sizes = self._sizes
        documents = {"zarr.json": chunks.group_metadata({})}
        inner = (sizes.num_objects, sizes.feature_dim)
        documents[f"{FEATURES}/zarr.json"] = chunks.array_metadata(
            (images, *inner),
            (sizes.images_per_shard, *inner),
            sizes.dtype,
            ("image", "object", "feature"),
        )
        for name, (dtype, dimensions) in small_arrays(sizes.min_objects is not None).items():
            shape = (images, *sizes.small[name][1])
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
