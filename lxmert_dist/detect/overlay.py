"""A picture of what a detector found, for looking."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from lxmert_dist.errors import DataError
from lxmert_dist.schema import RoiRecord

_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")


def draw_record(
    image: UInt8[np.ndarray, "height width 3"],
    record: RoiRecord,
    *,
    object_classes: Sequence[str],
    attribute_classes: Sequence[str],
    limit: int | None = None,
) -> Image.Image:
    """Draw boxes with attribute, object and score.

    Args:
        image: RGB, of the size that the record tells.
        record: of this image.
        object_classes: names of the record's object ids.
        attribute_classes: names of its attribute ids; one with score 0 is not written.
        limit: how many boxes are drawn, the likeliest objects; None draws all.

    Raises:
        DataError: the record is of an image of another size.
    """
    height, width = image.shape[:2]
    if (record.height, record.width) != (height, width):
        raise DataError(
            f"image {record.image_id} is {width}x{height}, and its record is of "
            f"{record.width}x{record.height}; give the image that was detected"
        )
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    line = max(1, min(height, width) // 200)
    font = ImageFont.load_default(max(10, min(height, width) // 40))
    likeliest = (-record.object_scores).argsort(kind="stable")[:limit]
    for place in likeliest[::-1]:  # the likeliest is drawn last, on top
        colour = _COLOURS[int(record.object_ids[place]) % len(_COLOURS)]
        left, top, right, bottom = np.rint(record.boxes[place] * [width, height, width, height])
        draw.rectangle([left, top, max(right - 1, left), max(bottom - 1, top)], None, colour, line)
        label = _label(record, int(place), object_classes, attribute_classes)
        text = draw.textbbox((left + line, top + line), label, font)
        draw.rectangle(text, colour)
        draw.text((left + line, top + line), label, "white", font)
    return picture


def _label(
    record: RoiRecord, place: int, object_classes: Sequence[str], attribute_classes: Sequence[str]
) -> str:
    name = object_classes[int(record.object_ids[place])]
    if record.attribute_scores[place] > 0:
        name = f"{attribute_classes[int(record.attribute_ids[place])]} {name}"
    return f"{name} {record.object_scores[place]:.2f}"
