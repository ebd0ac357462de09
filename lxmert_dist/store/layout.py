"""Where things lie in a store and how the arrays are stored; what writer and reader agree on."""

from collections.abc import Mapping
from typing import Any

import numpy as np

SCHEMA_VERSION = 1
"""Of layout and manifest together; a reader refuses every other."""

FORMAT = "lxmert_dist feature store"
"""Stands in the attributes of the root group, the first object that is written."""

POINTER_KEY = "manifest.json"
ROOT_KEY = "zarr.json"
FEATURES = "roi_features"
SENTENCES = "sentences.arrow"
IMAGE_IDS = "image_ids.arrow"
TOKENIZER = "tokenizer"
VOCABULARIES = "vocabularies"
MANIFESTS = "manifests"
PARTS = "parts"
"""What a half-written store remembers of its finished shards; gone when it is finished."""

JOB_KEY = f"{PARTS}/job.json"
"""What a half-written store is made of."""

SMALL_ARRAYS: Mapping[str, tuple[np.dtype[Any], tuple[str, ...]]] = {
    "boxes": (np.dtype("<f4"), ("image", "object", "x1_y1_x2_y2")),
    "object_ids": (np.dtype("<i2"), ("image", "object")),
    "object_scores": (np.dtype("<f2"), ("image", "object")),
    "attribute_ids": (np.dtype("<i2"), ("image", "object")),
    "attribute_scores": (np.dtype("<f2"), ("image", "object")),
    "sizes": (np.dtype("<i4"), ("image", "height_width")),
}
"""The arrays that are one object each: how they are stored and what their dimensions are."""

NUM_BOXES = "num_boxes"
"""One more small array, of a store whose images differ in their number of boxes, and of no other:
behind that many, all that an image's rows of the other arrays hold is zeros."""


def small_arrays(varying: bool) -> Mapping[str, tuple[np.dtype[Any], tuple[str, ...]]]:
    """:data:`SMALL_ARRAYS`, with :data:`NUM_BOXES` where the number of boxes varies."""
    return {**SMALL_ARRAYS, NUM_BOXES: (np.dtype("<i2"), ("image",))} if varying else SMALL_ARRAYS


def row_shape(name: str, num_objects: int) -> tuple[int, ...]:
    """The shape of an image's row in a small array."""
    shapes: Mapping[str, tuple[int, ...]] = {
        "boxes": (num_objects, 4),
        "sizes": (2,),
        NUM_BOXES: (),
    }
    return shapes.get(name, (num_objects,))


def manifest_key(digest: str) -> str:
    """Where the manifest of a digest lies."""
    return f"{MANIFESTS}/{digest}.json"
