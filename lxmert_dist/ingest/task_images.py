"""Which images a task's file is about, whichever published format it has.

Questions or annotations of VQA, questions of GQA, COCO's images or annotations, NLVR2 (JSON Lines),
LXMERT's files for pretraining and for tasks, a JSON list of ids, or text with an id a line.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lxmert_dist.errors import CORRECT, DataError, holds_no, unreadable
from lxmert_dist.ingest.image_ids import ImageKey, NumberOf, image_key
from lxmert_dist.json_list import read_lines, read_members, read_objects

_HEAD = 1 << 16


def read_task_images(
    path: Path, coco_ids: Mapping[int, int], read: Callable[[int], object]
) -> dict[ImageKey, str]:
    """The images of a task, each with the name by which the file calls it first.

    Args:
        path: of the file.
        coco_ids: see ``image_ids.image_key``.
        read: told of the bytes of every block that was read.

    Raises:
        DataError: the file is damaged, or tells of no image in any form that is known; names the
            line.
    """
    images: dict[ImageKey, str] = {}
    for name, number_of in _names(path, read):
        images.setdefault(image_key(name, coco_ids, number_of), name)
    if not images:
        raise DataError(holds_no(path, "names of images"))
    return images


def _names(path: Path, read: Callable[[int], object]) -> Iterator[tuple[str, NumberOf]]:
    head = _head(path)
    if head.startswith("{"):
        yield from (_names_of_lines if _is_lines(head) else _names_of_members)(path, read)
    elif head.startswith("["):
        if head[1:].lstrip()[:1] == "{":
            for where, entry in read_objects(path, read):
                yield from _names_of(entry, where)
        else:
            yield from _names_of_list(path, read)
    else:
        with path.open("rb") as file:
            for line in file:
                read(len(line))
                if name := line.decode("utf-8", "replace").strip():
                    yield name, "vg"


def _head(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD).decode("utf-8", "replace").lstrip()
    except OSError as error:
        raise DataError(unreadable(path, error)) from error


def _is_lines(head: str) -> bool:
    """Whether the first line is an object by itself, and is one of NLVR2 or of ours."""
    try:
        first = json.loads(head.partition("\n")[0])
    except json.JSONDecodeError:
        return False
    return "identifier" in first or "image_id" in first


def _names_of_lines(path: Path, read: Callable[[int], object]) -> Iterator[tuple[str, NumberOf]]:
    for where, entry in read_lines(path, read):
        yield from _names_of(entry, where)


def _names_of_list(path: Path, read: Callable[[int], object]) -> Iterator[tuple[str, NumberOf]]:
    try:
        text = path.read_text("utf-8")
        names = json.loads(text)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {CORRECT}") from error
    read(len(text.encode()))
    for name in names:
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise DataError(f"{path}: holds {name!r:.60}, expected names of images; {CORRECT}")
        yield str(name), "vg"


def _names_of_members(path: Path, read: Callable[[int], object]) -> Iterator[tuple[str, NumberOf]]:
    for key, where, entry in read_members(path, read):
        match entry:
            case {"file_name": str(name)} if key == "images":
                yield name, "coco"
            case {"image_id": int(number)} if key in ("questions", "annotations"):
                yield str(number), "coco"
            case {"imageId": str(name)}:
                yield name, "vg"
            case {} if key in ("questions", "annotations", "images"):
                yield from _names_of(entry, where)


def _names_of(entry: Mapping[str, Any], where: str) -> Iterator[tuple[str, NumberOf]]:
    """The images of one record of LXMERT's files, of NLVR2, or of our JSON Lines."""
    match entry:
        case {"img_id": str(name)} | {"image_id": str(name)}:
            yield name, "vg"
        case {"img0": str(first), "img1": str(second)}:
            yield first, "vg"
            yield second, "vg"
        case {"identifier": str(identifier)}:
            pair = identifier.rpartition("-")[0]
            yield f"{pair}-img0", "vg"
            yield f"{pair}-img1", "vg"
        case {"image_id": int(number)}:
            yield str(number), "coco"
        case _:
            raise DataError(
                f"{where}: names no image: expected img_id, image_id, imageId, file_name, "
                f"identifier, or img0 and img1, found {', '.join(sorted(entry))[:80]}; {CORRECT}"
            )
