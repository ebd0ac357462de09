"""The names of images in one form, in which those of different data sets can be compared."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Literal

ImageKey = tuple[str, int | str]
"""("coco", number), ("vg", number) or ("name", file name without suffix)."""

NumberOf = Literal["coco", "vg"]
"""Whose number a plain number is: VQA and COCO write COCO's, LXMERT and GQA Visual Genome's."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_COCO = re.compile(r"(?:COCO_)?(?:train|val|test)20\d\d_(\d+)|(\d{12})")


def image_key(name: str, coco_ids: Mapping[int, int], number_of: NumberOf = "vg") -> ImageKey:
    """The normal form of an image's name.

    ``COCO_val2014_000000000042.jpg``, ``val2014/000000000042.jpg`` and, where plain numbers are
    COCO's, ``42`` are one image; its parts do not share numbers.

    Args:
        name: a name or a path, with or without suffix.
        coco_ids: Visual Genome's number -> COCO's, of the images that are in both.
        number_of: whose plain numbers are.
    """
    path = PurePosixPath(name)
    stem = path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name
    if match := _COCO.fullmatch(stem):
        return "coco", int(match[1] or match[2])
    if not (stem.isascii() and stem.isdecimal()):
        return "name", stem
    number = int(stem)
    if number_of == "vg" and number in coco_ids:
        return "coco", coco_ids[number]
    return number_of, number
