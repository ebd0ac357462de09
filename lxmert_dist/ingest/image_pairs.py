"""Two images of one sentence, as in NLVR2, are one row of the store, one behind the other."""

from collections.abc import Sequence

import numpy as np

from lxmert_dist.schema import RoiRecord


def pair_id(image_ids: Sequence[str]) -> str:
    """What a row of several images is called."""
    return "+".join(image_ids)


def image_ids(row_id: str, images_per_pair: int) -> list[str]:
    """The images of a row, by what :func:`pair_id` calls it."""
    return row_id.split("+", images_per_pair - 1)


def join_records(records: Sequence[RoiRecord]) -> RoiRecord:
    """One record of the objects of all images, in their order; each box keeps to its image.

    The size in pixels is that of the first image.
    """
    if len(records) == 1:
        return records[0]
    first = records[0]
    return RoiRecord(
        image_id=pair_id([record.image_id for record in records]),
        height=first.height,
        width=first.width,
        boxes=np.concatenate([record.boxes for record in records]),
        roi_features=np.concatenate([record.roi_features for record in records]),
        object_ids=np.concatenate([record.object_ids for record in records]),
        object_scores=np.concatenate([record.object_scores for record in records]),
        attribute_ids=np.concatenate([record.attribute_ids for record in records]),
        attribute_scores=np.concatenate([record.attribute_scores for record in records]),
    )
