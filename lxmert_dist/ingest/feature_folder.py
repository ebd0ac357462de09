"""People's own features: a directory with a file an image, ``.npz`` or ``.safetensors``.

An image is called as its file, relative to the directory and without suffix. A file holds

- ``roi_features`` (O, F) float: what describes each box;
- ``boxes`` (O, 4) float: x1, y1, x2, y2 in pixels of the image;
- ``image_size`` (2,) integer: height and width in pixels;
- optionally what a detector says of each box: ``object_ids`` and ``attribute_ids`` (O,) integer,
  from 0, ``object_scores`` and ``attribute_scores`` (O,) float in [0, 1]. Where they are absent,
  they are 0: the losses of labels are weighted by the scores, so there is nothing to learn.

All images of a store have the same F, and the same O unless a least number of boxes is given.
"""

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from lxmert_dist.errors import CORRECT, DataError
from lxmert_dist.ingest.butd_tsv import HOW_MANY, FeatureFile, Row, RowSizes
from lxmert_dist.ingest.stored_features import StoredFeatures, open_stored
from lxmert_dist.redact import redact as shown
from lxmert_dist.schema import RoiRecord

SUFFIXES = (".npz", ".safetensors")


class FeatureFolder:
    """A directory of features, with the doors of ``FeatureFile``.

    Attributes:
        path: of the directory.
        num_bytes: of all its files.
    """

    def __init__(self, path: Path, sizes: RowSizes) -> None:
        """Nothing is looked at yet."""
        self.path = path
        self._sizes = sizes

    @property
    def num_bytes(self) -> int:
        """See the class."""
        return sum(file.stat().st_size for file in self._files)

    @cached_property
    def _files(self) -> list[Path]:
        return sorted(p for p in self.path.rglob("*") if p.suffix in SUFFIXES and p.is_file())

    def close(self) -> None:
        """Nothing is held open."""

    def probe(self) -> str:
        """SHA-256 of the names, lengths and times of all files."""
        digest = hashlib.sha256()
        for file in self._files:
            stat = file.stat()
            digest.update(f"{self._name(file)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def index(self) -> Iterator[Row]:
        """The files in order of their names: ``line`` counts them, ``start`` tells the suffix.

        Raises:
            DataError: there are none.
        """
        if not self._files:
            raise DataError(
                f"{self.path}: holds no files of features ({' or '.join(SUFFIXES)}); "
                "name a folder that does"
            )
        for line, file in enumerate(self._files, 1):
            image_id = self._name(file).removesuffix(file.suffix)
            yield Row(image_id, line, SUFFIXES.index(file.suffix), file.stat().st_size)

    def read(self, row: Row) -> RoiRecord:
        """One image, boxes divided by its size.

        Raises:
            DataError: the file is damaged or not as this module says; names it and the array.
                Ranges are left to the store.
        """
        return _read(Path(place_of(self.path, row)), row.image_id, self._sizes)

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()


Features = FeatureFile | FeatureFolder | StoredFeatures
Place = Path | str
"""Where features are: a file or a directory of them, or the URI of a store."""


def open_features(path: Place, sizes: RowSizes) -> Features:
    """A store, a directory of features, or else a TSV file.

    Raises:
        DataError: there is none, or it cannot be read.
        StoreError: a store cannot be read.
    """
    if isinstance(path, str):
        return open_stored(path)
    return FeatureFolder(path, sizes) if path.is_dir() else FeatureFile(path, sizes)


def place_of(path: Place, row: Row) -> str:
    """How a message names a row: the file, or the line of a TSV file, or the image of a store."""
    if isinstance(path, str):
        return f"{shown(path)}: image {row.line}"
    if path.is_dir():
        return str(path / f"{row.image_id}{SUFFIXES[row.start]}")
    return f"{path}:{row.line}"


def _read(path: Path, image_id: str, sizes: RowSizes) -> RoiRecord:
    arrays = _load(path)
    objects = _num_boxes(arrays, sizes, path)
    absent = {
        f"{kind}_{what}": np.zeros(objects, dtype)
        for kind in ("object", "attribute")
        for what, dtype in (("ids", np.int64), ("scores", np.float32))
    }
    arrays = {**absent, **arrays}
    height, width = _take(arrays, "image_size", "iu", (2,), path).tolist()
    if min(height, width) < 1:
        raise DataError(f"{path}: an image_size of {height} x {width} pixels; {CORRECT}")
    boxes = _take(arrays, "boxes", "fiu", (objects, 4), path).astype(np.float32)
    ids = {
        name: _take(arrays, name, "iu", (objects,), path).astype(np.int64)
        for name in ("object_ids", "attribute_ids")
    }
    scores = {
        name: _take(arrays, name, "f", (objects,), path).astype(np.float32)
        for name in ("object_scores", "attribute_scores")
    }
    features = _take(arrays, "roi_features", "f", (objects, sizes.feature_dim), path)
    return RoiRecord(
        image_id=image_id,
        height=height,
        width=width,
        boxes=boxes / np.array([width, height, width, height], np.float32),
        roi_features=features.astype(np.float32),
        **ids,
        **scores,
    )


def _num_boxes(arrays: Mapping[str, npt.NDArray[Any]], sizes: RowSizes, path: Path) -> int:
    boxes = arrays.get("boxes")
    if sizes.min_objects is None or boxes is None or boxes.ndim != 2:
        return sizes.num_objects  # whatever is wrong with them is said where they are taken
    if sizes.of(len(boxes)) is None:
        raise DataError(f"{path}: {len(boxes)} boxes, expected {sizes.boxes}; {HOW_MANY}")
    return len(boxes)


def _load(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {CORRECT}") from error


def _take(
    arrays: Mapping[str, npt.NDArray[Any]],
    name: str,
    kinds: str,
    shape: tuple[int, ...],
    path: Path,
) -> npt.NDArray[Any]:
    if name not in arrays:
        raise DataError(
            f"{path}: has no {name!r}, only {', '.join(sorted(arrays))}; "
            "write roi_features, boxes and image_size"
        )
    array = arrays[name]
    if array.dtype.kind not in kinds or array.shape != shape:
        kind = "floats" if "f" in kinds else "integers"
        raise DataError(
            f"{path}: {name} is {array.dtype} of shape {array.shape}, expected {kind} of shape "
            f"{shape}; set --boxes and --feature-dim to what is there, --min-boxes where images "
            "differ"
        )
    return array
