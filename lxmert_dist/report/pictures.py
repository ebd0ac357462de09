"""Image files beside a store, which itself holds features and boxes, but no pixels."""

import base64
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lxmert_dist.errors import DataError

_SUFFIXES = (".jpg", ".jpeg", ".png")
_SIDE = 480
"""Pixels of the longer side, at most; a page with some of them stays small."""
_DRAWING = 128
"""An image that is no larger is kept without loss."""


def find_picture(image_id: str, folder: Path | None, info: Mapping[str, Any]) -> str:
    """An image as a ``data:`` URI; empty where no file of it is at hand.

    Args:
        image_id: as the store has it.
        folder: holds ``<image_id>.jpg`` or ``.png``; None is where the data set's package is.
        info: of the store's manifest.

    Raises:
        DataError: there is a file, but it is damaged.
    """
    for file in _places(image_id, folder, info):
        if file.is_file():
            return _encoded(file)
    return ""


def _places(image_id: str, folder: Path | None, info: Mapping[str, Any]) -> Iterator[Path]:
    """Where an image may be; never outside of the folder, whatever its id says."""
    if folder is None and info.get("dataset") == "easy-vqa":
        from lxmert_dist.ingest.easy_vqa import package_data

        try:
            folder = package_data()
        except DataError:
            return
        part, _, number = image_id.partition("/")
        image_id = f"{part}/images/{number}"
    if folder is not None:
        files = (folder / f"{image_id}{suffix}" for suffix in _SUFFIXES)
        yield from (file for file in files if file.resolve().is_relative_to(folder.resolve()))


def _encoded(file: Path) -> str:
    from PIL import Image

    from lxmert_dist.opening import open_image

    image = Image.fromarray(open_image(file))
    image.thumbnail((_SIDE, _SIDE))
    kind = "png" if max(image.size) <= _DRAWING else "jpeg"
    data = io.BytesIO()
    image.save(data, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"
