"""One shard of features: the unit of an ingest's work, written and kept independently of others.

Beside the feature object stands its *part*: the rows of the small arrays, the image ids, the
manifest's entry and some figures. The part is written last, so a shard that has one is finished.
When all parts are there the small arrays are made of them, and the parts go.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from jaxtyping import Float32

from lxmert_dist.errors import CorruptObjectError, DataError
from lxmert_dist.schema import RoiRecord
from lxmert_dist.store import chunks
from lxmert_dist.store import uri as uris
from lxmert_dist.store.layout import FEATURES, NUM_BOXES, PARTS, row_shape, small_arrays
from lxmert_dist.store.manifest import ChunkEntry, canonical_json

SLACK = 1e-5
"""How far a box or a score may stand out of [0, 1]: rounding in a detector."""

_KINDS = {"f": "floating point", "i": "signed integers"}
_ADVICE = "correct its features, or leave the image out"


@dataclass(frozen=True)
class ImageSizes:
    """What all images of a store share.

    ``min_objects``: the least boxes of an image; None where all have ``num_objects``.
    """

    num_objects: int
    feature_dim: int
    feature_dtype: str
    images_per_shard: int
    num_object_classes: int
    num_attribute_classes: int
    min_objects: int | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the features, little-endian."""
        return np.dtype(self.feature_dtype).newbyteorder("<")

    @property
    def small(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """The dtype of each small array, and the shape of an image's row in it."""
        arrays = small_arrays(self.min_objects is not None)
        return {
            name: (dtype, row_shape(name, self.num_objects)) for name, (dtype, _) in arrays.items()
        }


@dataclass(frozen=True)
class FeatureFigures:
    """What storing does to features, and what compressing them would; figures add up.

    Attributes:
        largest: absolute value of a feature.
        round_off: the most that a feature moved when it was stored.
        tried_bytes: of the images that were compressed, the first of every shard.
        zstd_bytes: what they became.
    """

    largest: float = 0.0
    round_off: float = 0.0
    tried_bytes: int = 0
    zstd_bytes: int = 0

    def __add__(self, other: "FeatureFigures") -> "FeatureFigures":
        """Of both together."""
        return FeatureFigures(
            max(self.largest, other.largest),
            max(self.round_off, other.round_off),
            self.tried_bytes + other.tried_bytes,
            self.zstd_bytes + other.zstd_bytes,
        )

    @property
    def compression(self) -> float:
        """Bytes stored over bytes compressed."""
        return self.tried_bytes / max(self.zstd_bytes, 1)


@dataclass(frozen=True)
class ShardPlace:
    """Where one shard of a split goes; small, and at home in any process.

    ``number`` counts the shards of a split from 0.
    """

    uri: str
    split: str
    number: int
    sizes: ImageSizes

    @property
    def feature_key(self) -> str:
        """Of the feature object, under the store's URI."""
        return f"{self.split}/{FEATURES}/c/{self.number}/0/0"

    @property
    def part_key(self) -> str:
        """Of the part."""
        return f"{PARTS}/{self.split}/{self.number}"


@dataclass(frozen=True)
class Part:
    """What the manifest and the small arrays take from a finished shard of n images."""

    chunk: ChunkEntry
    image_ids: list[str]
    small: Mapping[str, npt.NDArray[Any]]
    figures: FeatureFigures

    def encode(self) -> bytes:
        """A line of JSON, then the arrays as bytes."""
        body = b"".join(rows.tobytes() for rows in self.small.values())
        head = {
            "chunk": self.chunk.model_dump(mode="json"),
            "image_ids": self.image_ids,
            "figures": asdict(self.figures),
            "crc32c": int(google_crc32c.value(body)),
        }
        return canonical_json(head) + b"\n" + body

    @classmethod
    def decode(cls, data: bytes, place: ShardPlace) -> "Part":
        """What :meth:`encode` wrote.

        Raises:
            CorruptObjectError: it is damaged.
        """
        line, _, body = data.partition(b"\n")
        small: dict[str, npt.NDArray[Any]] = {}
        try:
            head = json.loads(line)
            if google_crc32c.value(body) != head["crc32c"]:
                raise ValueError("its checksum does not match")
            at = 0
            for name, (dtype, row) in place.sizes.small.items():
                shape = (len(head["image_ids"]), *row)
                small[name] = np.frombuffer(body, dtype, int(np.prod(shape)), at).reshape(shape)
                at += small[name].nbytes
            chunk = ChunkEntry.model_validate(head["chunk"])
            figures = FeatureFigures(**head["figures"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptObjectError(
                f"{uris.shown(uris.join(place.uri, place.part_key))} is damaged ({error}); delete "
                "it and run the same command again"
            ) from error
        return cls(chunk, head["image_ids"], small, figures)


def write_shard(
    place: ShardPlace,
    records: Iterable[RoiRecord],
    where: Callable[[int], str] = lambda index: "",
) -> None:
    """Write the feature object of a shard, then its part.

    Args:
        place: of the shard.
        records: its images, in order.
        where: what an error says before it names the image with this index, e.g. "file:line".

    Raises:
        DataError: a record has another shape or dtype than the store, is not finite, or is out of
            range; names the image and the field.
        StoreError: the place cannot be written.
    """
    sizes = place.sizes
    shape = (sizes.images_per_shard, sizes.num_objects, sizes.feature_dim)
    data, stored = chunks.empty_chunk(shape, sizes.dtype)
    scratch = np.empty(shape[1:], np.float32)
    small: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in sizes.small}
    ids: list[str] = []
    figures = FeatureFigures()
    for record in records:
        row = len(ids)
        try:
            check_record(record, sizes)
        except DataError as error:
            raise DataError(": ".join(filter(None, (where(row), str(error))))) from error
        figures += _store_features(record.roi_features, stored[row], scratch, sample=row == 0)
        ids.append(record.image_id)
        computed = {"sizes": (record.height, record.width), NUM_BOXES: len(record.boxes)}
        for name, (dtype, row_of) in sizes.small.items():
            value = computed[name] if name in computed else getattr(record, name)
            small[name].append(_padded(np.asarray(value).astype(dtype), row_of))
    chunks.seal_chunk(data)
    uris.write_bytes(uris.join(place.uri, place.feature_key), data)
    entry = ChunkEntry.of(place.feature_key, data)
    part = Part(entry, ids, {name: np.stack(rows) for name, rows in small.items()}, figures)
    uris.write_bytes(uris.join(place.uri, place.part_key), part.encode())


def read_part(place: ShardPlace) -> Part:
    """The part of a finished shard.

    Raises:
        CorruptObjectError: it is damaged.
        StoreError: it is missing or out of reach.
    """
    return Part.decode(uris.read_bytes(uris.join(place.uri, place.part_key)), place)


def check_record(record: RoiRecord, sizes: ImageSizes) -> None:
    """Compare every field with what the store takes.

    Raises:
        DataError: names the image and the field.
    """
    where = f"image {record.image_id!r}"
    objects = sizes.num_objects
    if sizes.min_objects is not None:
        objects = len(record.boxes)
        if not sizes.min_objects <= objects <= sizes.num_objects:
            raise DataError(
                f"{where}: {objects} boxes, the store takes {sizes.min_objects} to "
                f"{sizes.num_objects}; {_ADVICE}"
            )
    ranges: dict[str, tuple[tuple[int, ...], str, float, float]] = {
        "boxes": ((objects, 4), "f", -SLACK, 1 + SLACK),
        "roi_features": ((objects, sizes.feature_dim), "f", -np.inf, np.inf),
        "object_ids": ((objects,), "i", 0, sizes.num_object_classes - 1),
        "object_scores": ((objects,), "f", -SLACK, 1 + SLACK),
        "attribute_ids": ((objects,), "i", 0, sizes.num_attribute_classes - 1),
        "attribute_scores": ((objects,), "f", -SLACK, 1 + SLACK),
    }
    for name, (shape, kind, least, most) in ranges.items():
        value = getattr(record, name)
        if value.shape != shape:
            raise DataError(
                f"{where}: {name} has shape {value.shape}, the store has {shape}; {_ADVICE}"
            )
        if value.dtype.kind != kind:
            raise DataError(f"{where}: {name} is {value.dtype}, expected {_KINDS[kind]}; {_ADVICE}")
        low, high = value.min(), value.max()  # NaN where there is one
        if kind == "f" and not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(f"{where}: {name} holds NaN or infinity; {_ADVICE}")
        if low < least or high > most:
            raise DataError(
                f"{where}: {name} in [{low:g}, {high:g}] leaves [{least:g}, {most:g}]; {_ADVICE}"
            )
        if name == "roi_features" and not _fits(max(-low, high), sizes.dtype):
            raise DataError(
                f"{where}: roi_features up to {max(-low, high):g} do not fit "
                f"{sizes.feature_dtype}; scale them or store float32"
            )
    if min(record.height, record.width) < 1:
        raise DataError(f"{where}: a size of {record.height} x {record.width} pixels; {_ADVICE}")


def _padded(value: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """An image's row of a small array, zeros behind its boxes."""
    row = np.zeros(shape, value.dtype)
    row[tuple(map(slice, value.shape))] = value
    return row


def _fits(value: np.floating[Any], dtype: np.dtype[Any]) -> bool:
    """Whether a number, once rounded, is finite; so is then every smaller one."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.asarray(value).astype(dtype)))


def _store_features(
    features: Float32[np.ndarray, "O F"],
    stored: npt.NDArray[Any],
    scratch: Float32[np.ndarray, "N F"],
    *,
    sample: bool,
) -> FeatureFigures:
    """Round to nearest even into ``stored``, by PyTorch: many times as fast as NumPy.

    What is behind the image's O <= N boxes stays as it is.
    """
    scratch = scratch[: len(features)]
    np.copyto(scratch, features)
    target = torch.from_numpy(stored[: len(features)])
    target.copy_(torch.from_numpy(scratch))
    largest = max(float(scratch.max()), -float(scratch.min()))
    moved = 0.0
    if stored.dtype.itemsize < scratch.dtype.itemsize:
        torch.from_numpy(scratch).sub_(target)
        moved = max(float(scratch.max()), -float(scratch.min()))
    if not sample:
        return FeatureFigures(largest, moved)
    data = stored.tobytes()
    packed = pa.compress(data, codec="zstd", asbytes=True)
    return FeatureFigures(largest, moved, len(data), len(packed))
