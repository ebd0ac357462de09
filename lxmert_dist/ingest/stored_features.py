"""The features of a store that ``launch/extract.py`` made, with the doors of ``FeatureFile``."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate

import numpy as np
from jaxtyping import Float

from lxmert_dist.ingest.butd_tsv import Row
from lxmert_dist.schema import RoiRecord
from lxmert_dist.store import Split, Store, open_store
from lxmert_dist.store.catalogue import open_catalogue

_SMALL = ("boxes", "object_ids", "object_scores", "attribute_ids", "attribute_scores")
_DTYPES = (np.float32, np.int64, np.float32, np.int64, np.float32)


class StoredFeatures:
    """A finished store. Its images are best read in their order: a shard is held, not fetched anew.

    Attributes:
        path: its URI.
        num_bytes: of all its images.
    """

    def __init__(self, uri: str) -> None:
        """Open it.

        Raises:
            StoreError: there is none, or it is damaged or out of reach.
        """
        self.path = uri
        self._store: Store = open_store(uri)
        self._splits: list[Split] = [self._store.split(n) for n in self._store.manifest.splits]
        self._ends = [*accumulate(split.num_images for split in self._splits)]
        first = self._splits[0]
        self._image_bytes = first.num_objects * first.feature_dim * first.dtype.itemsize
        self._held: tuple[int, int] | None = None
        self._features: Float[np.ndarray, "n O F"] = np.empty((0, 0, 0), first.dtype)

    @property
    def num_bytes(self) -> int:
        """See the class."""
        return self._ends[-1] * self._image_bytes

    def close(self) -> None:
        """Nothing is held open."""

    def probe(self) -> str:
        """The digest of the store."""
        return self._store.digest

    def index(self) -> Iterator[Row]:
        """Its images, split after split, in their order: ``line`` counts them."""
        line = 0
        for split in self._splits:
            for image_id in split.image_ids:
                line += 1
                yield Row(image_id, line, 0, self._image_bytes)

    def read(self, row: Row) -> RoiRecord:
        """One image.

        Raises:
            CorruptObjectError: its object is missing, or stays damaged when read anew.
            StoreError: the store is out of reach.
        """
        number = next(i for i, end in enumerate(self._ends) if row.line <= end)
        split = self._splits[number]
        image = row.line - 1 - self._ends[number] + split.num_images
        shard, place = divmod(image, split.images_per_shard)
        if self._held != (number, shard):
            self._features, self._held = split.read_shard(shard), (number, shard)
        boxes = split.num_objects if split.num_boxes is None else int(split.num_boxes[image])
        small = {
            name: getattr(split, name)[image, :boxes].astype(dtype)
            for name, dtype in zip(_SMALL, _DTYPES, strict=True)
        }
        height, width = split.sizes[image].tolist()
        return RoiRecord(
            image_id=row.image_id,
            height=height,
            width=width,
            roi_features=self._features[place, :boxes].astype(np.float32),
            **small,
        )


def open_stored(uri: str) -> StoredFeatures:
    """A store, opened once a process: one task after the other reads of it.

    Raises:
        StoreError: there is none, or it is damaged or out of reach.
    """
    return _opened(uri, open_catalogue(uri).digest)


@lru_cache(maxsize=1)
def _opened(uri: str, digest: str) -> StoredFeatures:
    return StoredFeatures(uri)
