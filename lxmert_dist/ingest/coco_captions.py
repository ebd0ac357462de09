"""COCO's captions as published, such as ``captions_train2014.json``.

``{"images": [{"id": 57870, "file_name": "COCO_train2014_000000057870.jpg", …}, …], "annotations":
[{"image_id": 318556, "id": 48, "caption": "A very clean …"}, …]}``. Captions that stand before
their image wait in memory; in the published files the images come first.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from lxmert_dist.errors import CORRECT, DataError, came_before
from lxmert_dist.ingest.lxmert_json import Item
from lxmert_dist.ingest.sentence_files import OneFile
from lxmert_dist.json_list import read_members

SOURCE = "mscoco"


class CocoCaptions(OneFile):
    """A file of captions."""

    def items(self, read: Callable[[int], object]) -> Iterator[Item]:
        """An item a caption; an image is called as its file, without suffix.

        Raises:
            DataError: the file is damaged or not as this module says, an id comes twice, or a
                caption's image is not listed; names the line.
        """
        names: dict[int, str] = {}
        seen: set[int] = set()
        waiting: list[tuple[str, int, str]] = []
        for key, where, entry in read_members(self.path, read):
            if key == "images":
                _add_image(names, where, entry)
            elif key == "annotations":
                number, image, text = _caption(where, entry)
                if number in seen:
                    raise DataError(came_before(where, f"caption {number}"))
                seen.add(number)
                if image in names:
                    yield Item(where, names[image], {SOURCE: [text]}, {})
                else:
                    waiting.append((where, image, text))
        for where, image, text in waiting:
            if image not in names:
                raise DataError(
                    f"{where}: image_id {image} is not one of the file's images; {CORRECT}"
                )
            yield Item(where, names[image], {SOURCE: [text]}, {})
        if not seen:
            raise DataError(
                f'{self.path}: holds no captions; expected {{"images": […], "annotations": '
                '[{"image_id": …, "id": …, "caption": …}]}; name a file of captions of COCO'
            )


def _add_image(names: dict[int, str], where: str, entry: Any) -> None:
    match entry:
        case {"id": int(number), "file_name": str(file_name)} if file_name:
            if number in names:
                raise DataError(came_before(where, f"image {number}"))
            names[number] = PurePosixPath(file_name).stem
        case _:
            raise DataError(
                f'{where}: expected an image, {{"id": 1, "file_name": "….jpg"}}; {CORRECT}'
            )


def _caption(where: str, entry: Any) -> tuple[int, int, str]:
    match entry:
        case {"id": int(number), "image_id": int(image), "caption": str(text)}:
            return number, image, text
        case _:
            keys = sorted(entry) if isinstance(entry, Mapping) else entry
            raise DataError(
                f'{where}: expected a caption, {{"id": 1, "image_id": 2, "caption": "…"}}; '
                f"found {keys!r:.80}; {CORRECT}"
            )
