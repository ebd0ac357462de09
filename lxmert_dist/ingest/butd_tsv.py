"""Published bottom-up features: a tab-separated row an image, its arrays in base64.

A row is indexed without being read: its first fields tell how long it is. The arrays of all images
have one size; or else the ids of its objects, which come fourth, tell the number of its boxes. So
a file is listed for a page an image, and its rows can then be read in any order.
"""

import binascii
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pybase64
from jaxtyping import Float32, Int64

from lxmert_dist.errors import CORRECT, DataError, unreadable
from lxmert_dist.schema import RoiRecord

FIELDS = (
    "img_id",
    "img_h",
    "img_w",
    "objects_id",
    "objects_conf",
    "attrs_id",
    "attrs_conf",
    "num_boxes",
    "boxes",
    "features",
)
_HEAD_BYTES = 512
"""More than the first three fields ever take."""

_PROBES, _PROBE_BYTES = 64, 1024

HOW_MANY = "set --boxes to how many there are, or --min-boxes to the fewest where they differ"


@dataclass(frozen=True)
class RowSizes:
    """What all rows share: O objects an image, F numbers an object.

    ``min_objects``: where images have fewer than O objects, the least; None where all have O.
    """

    num_objects: int = 36
    feature_dim: int = 2048
    min_objects: int | None = None

    def __post_init__(self) -> None:
        """Check the range.

        Raises:
            DataError: it is empty.
        """
        if self.min_objects is not None and not 1 <= self.min_objects <= self.num_objects:
            raise DataError(
                f"--min-boxes {self.min_objects} must be at least 1 and at most --boxes "
                f"{self.num_objects}"
            )

    @property
    def boxes(self) -> str:
        """How many objects an image has, in words."""
        least = self.min_objects
        return f"{self.num_objects}" if least is None else f"{least} to {self.num_objects}"

    def of(self, objects: int) -> "RowSizes | None":
        """The sizes of a row of that many objects; None if no row may have them."""
        least = self.num_objects if self.min_objects is None else self.min_objects
        if not least <= objects <= self.num_objects:
            return None
        return replace(self, num_objects=objects, min_objects=None)

    @property
    def arrays(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Little-endian dtype and shape of every base64 field."""
        objects = self.num_objects
        return {
            "objects_id": ("<i8", (objects,)),
            "objects_conf": ("<f4", (objects,)),
            "attrs_id": ("<i8", (objects,)),
            "attrs_conf": ("<f4", (objects,)),
            "boxes": ("<f4", (objects, 4)),
            "features": ("<f4", (objects, self.feature_dim)),
        }

    @property
    def tail_bytes(self) -> int:
        """Length of a row behind its third tab: six arrays, ``num_boxes``, and six tabs."""
        encoded = (_encoded_bytes(_num_bytes(*array)) for array in self.arrays.values())
        return sum(encoded) + len(str(self.num_objects)) + 6


@dataclass(frozen=True)
class Row:
    """Where an image's row stands. ``line`` counts from 1; the length is without line end."""

    image_id: str
    line: int
    start: int
    length: int


class FeatureFile:
    """An open file of features; a context manager.

    Attributes:
        path: of the file.
        num_bytes: its length.
    """

    def __init__(self, path: Path, sizes: RowSizes) -> None:
        """Open a file on this machine.

        Raises:
            DataError: there is none, or it cannot be read.
        """
        self.path = path
        self._sizes = sizes
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataError(unreadable(path, error)) from error
        self.num_bytes = os.fstat(self._descriptor).st_size

    def __enter__(self) -> "FeatureFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)

    def probe(self) -> str:
        """SHA-256 of a kilobyte in each of 64 places: tells files of one size apart, cheaply."""
        digest = hashlib.sha256()
        for place in range(_PROBES):
            digest.update(self._read(self.num_bytes * place // _PROBES, _PROBE_BYTES))
        return digest.hexdigest()

    def index(self) -> Iterator[Row]:
        """Where the rows are, in order.

        Raises:
            DataError: a row has another length than it should, or the last one is cut; names the
                line and what is wrong with it.
        """
        if not self.num_bytes:
            raise DataError(f"{self.path}: the file is empty; fetch it again")
        start, line = 0, 1
        while start < self.num_bytes:
            head, sizes = self._head(start)
            length = sum(map(len, head[:3])) + 3 + sizes.tail_bytes
            behind = self._read(start + length, 2)
            whole = _is_line_end(behind, start + length == self.num_bytes)
            if not whole or len(head) < 4 or any(b"\n" in field for field in head[:3]):
                length = self._measure(start, line, length)
                behind = self._read(start + length, 2)
            yield Row(_text(head[0], self.where(line)), line, start, length)
            start += length + (2 if behind == b"\r\n" else 1)
            line += 1

    def read(self, row: Row) -> RoiRecord:
        """One image, boxes divided by its size.

        Raises:
            DataError: wrong number of fields, damaged base64, arrays of another length, or another
                image than when the file was indexed; names the line. Ranges are left to the store.
        """
        record = self._decode(self._read(row.start, row.length), row.line)
        if record.image_id != row.image_id:
            raise DataError(
                f"{self.where(row.line)}: the file changed while it was read; "
                "start again when it is complete"
            )
        return record

    def where(self, line: int) -> str:
        """How a message names a line."""
        return f"{self.path}:{line}"

    def _head(self, start: int) -> tuple[list[bytes], RowSizes]:
        """The first fields of a row, what is behind three of them as one, and its sizes."""
        if self._sizes.min_objects is None:
            return self._read(start, _HEAD_BYTES).split(b"\t", 3), self._sizes
        head = self._read(start, _HEAD_BYTES + _encoded_bytes(8 * self._sizes.num_objects))
        fields = head.split(b"\t", 4)
        # base64 has 4 characters for 3 bytes, and 8 bytes an id: every number its own length.
        found = len(fields[3]) // 4 * 3 // 8 if len(fields) == 5 else 0
        return head.split(b"\t", 3), self._sizes.of(found) or self._sizes

    def _measure(self, start: int, line: int, expected: int) -> int:
        """Length of a row that is not as long as it should be, if it is sound for all that."""
        found = self._read(start, 2 * expected)
        text, end, _ = found.partition(b"\n")
        if not end and len(found) < expected:
            raise DataError(
                f"{self.where(line)}: the file ends after {len(found)} of {expected} bytes of "
                "this row: it was cut short; fetch it again"
            )
        if not end and len(found) == 2 * expected:
            raise DataError(
                f"{self.where(line)}: no end of line within {len(found)} bytes, expected "
                f"{expected} of {self._sizes.boxes} boxes; {HOW_MANY}"
            )
        text = text.removesuffix(b"\r")
        self._decode(text, line)
        return len(text)

    def _read(self, start: int, length: int) -> bytes:
        """That many bytes, fewer only at the end of the file."""
        found = b""
        try:
            while more := os.pread(self._descriptor, length - len(found), start + len(found)):
                found += more
        except OSError as error:
            raise DataError(unreadable(self.path, error)) from error
        return found

    def _decode(self, text: bytes, line: int) -> RoiRecord:
        where, sizes = self.where(line), self._sizes
        values = text.split(b"\t")
        if len(values) != len(FIELDS):
            raise DataError(
                f"{where}: {len(values)} fields, but a row has {len(FIELDS)}; {CORRECT}"
            )
        fields = dict(zip(FIELDS, values, strict=True))
        height, width, boxes = (
            _number(fields[name], name, where) for name in ("img_h", "img_w", "num_boxes")
        )
        exact = sizes.of(boxes)
        if exact is None:
            raise DataError(f"{where}: num_boxes is {boxes}, expected {sizes.boxes}; {HOW_MANY}")
        if min(height, width) < 1:
            raise DataError(f"{where}: a size of {height} x {width} pixels; {CORRECT}")
        arrays = {
            name: _array(fields[name], name, dtype, shape, where)
            for name, (dtype, shape) in exact.arrays.items()
        }
        corners: Float32[np.ndarray, "O 4"] = arrays["boxes"]  # x1, y1, x2, y2 in pixels
        ids: Int64[np.ndarray, " O"] = arrays["objects_id"]
        return RoiRecord(
            image_id=_text(fields["img_id"], where),
            height=height,
            width=width,
            boxes=corners / np.array([width, height, width, height], np.float32),
            roi_features=arrays["features"],
            object_ids=ids,
            object_scores=arrays["objects_conf"],
            attribute_ids=arrays["attrs_id"],
            attribute_scores=arrays["attrs_conf"],
        )


def _num_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return int(np.dtype(dtype).itemsize * np.prod(shape))


def _encoded_bytes(num_bytes: int) -> int:
    return -(-num_bytes // 3) * 4


def _is_line_end(behind: bytes, at_end: bool) -> bool:
    return at_end or behind[:1] == b"\n" or behind == b"\r\n"


def _text(value: bytes, where: str) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: img_id is not UTF-8 text; {CORRECT}") from error
    if not text:
        raise DataError(f"{where}: img_id is empty; {CORRECT}")
    return text


def _number(value: bytes, name: str, where: str) -> int:
    if not value.isdigit():
        raise DataError(f"{where}: {name} is {value[:20]!r}, expected a decimal number; {CORRECT}")
    return int(value)


def _array(
    value: bytes, name: str, dtype: str, shape: tuple[int, ...], where: str
) -> npt.NDArray[Any]:
    try:
        data = pybase64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise DataError(f"{where}: {name} is not base64 ({error}); {CORRECT}") from error
    expected = _num_bytes(dtype, shape)
    if len(data) != expected:
        raise DataError(
            f"{where}: {name} has {len(data)} bytes, but {np.dtype(dtype).name} of shape {shape} "
            f"has {expected}; {CORRECT}"
        )
    return np.frombuffer(data, dtype).reshape(shape)
