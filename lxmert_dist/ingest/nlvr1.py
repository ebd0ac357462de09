"""NLVR v1 (Suhr et al., ACL 2017): three gray squares with coloured shapes, and what they are.

Of a sentence there are six images, one for each order of its squares; it is true of all or of none.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from lxmert_dist.errors import DataError
from lxmert_dist.ingest.labels import label_numbers
from lxmert_dist.ingest.source import RawSentence, RawSplit
from lxmert_dist.schema import IGNORED, LabelledImage

SQUARE, GAP = 100, 50
"""Pixels of a square's side, and between two."""
ORDERS = 6
"""Images of a sentence."""
SOURCE = "nlvr1"
"""Of sentences."""
SHAPES = ("circle", "square", "triangle")
COLOURS = {"black": "black", "yellow": "yellow", "#0099ff": "blue"}
"""What the files call the colours -> what the sentences do."""
Root = Path | zipfile.Path


def read_nlvr1(
    directory: Path, part: str, object_names: Sequence[str], attribute_names: Sequence[str]
) -> list[LabelledImage]:
    """All images of a part: of each sentence six, one for each order of its three squares.

    Args:
        directory: where ``PART.zip`` or ``PART/`` is.
        part: such as ``dev``.
        object_names: the classes, ``SHAPES`` in any order.
        attribute_names: the colours, in any order; none leaves them out.

    Returns:
        Images of 400x100 pixels, their files read, not decoded.

    Raises:
        ConfigError: the names are not those of the data.
        DataError: a file is missing, damaged, or not as published; names it, and the line.
    """
    objects = label_numbers(object_names, SHAPES, "training.object_names")
    colours = label_numbers(
        attribute_names, COLOURS.values() if attribute_names else (), "training.attribute_names"
    )
    root = _root(directory, part)
    file = root / f"{part}.json"
    files = _image_files(root)
    images: list[LabelledImage] = []
    for where, entry in _entries(file):
        try:
            squares = [
                list(_things(square, objects, colours)) for square in entry["structured_rep"]
            ]
            if len(squares) != 3:
                raise ValueError(f"{len(squares)} squares instead of 3")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _bad_entry(where, error) from error
        images += _images(files, file, f"{part}-{entry['identifier']}", squares)
    return images


def read_nlvr1_sentences(directory: Path, part: str) -> RawSplit:
    """The sentences of a part, each with its six images and what people judged.

    Args:
        directory: where ``PART.zip`` or ``PART/`` is.
        part: such as ``dev``.

    Returns:
        Image files, read, by ids such as ``dev-1572-0-5``, which are the sentences' uids too.

    Raises:
        DataError: a file is missing, damaged, or not as published; names it, and the line.
    """
    root = _root(directory, part)
    file = root / f"{part}.json"
    files = _image_files(root)
    images: dict[str, Path | bytes] = {}
    sentences = []
    for where, entry in _entries(file):
        match entry:
            case {"sentence": str(text), "label": "true" | "false" as label}:
                pass
            case _:
                raise _bad_entry(where, ValueError("no sentence, or no label true or false"))
        for order in range(ORDERS):
            image_id = f"{part}-{entry['identifier']}-{order}"
            images[image_id] = _image(files, file, image_id)
            sentences.append(RawSentence(image_id, image_id, SOURCE, text, {label: 1.0}))
    return RawSplit(images, sentences)


def _entries(file: Root) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_read(file).decode("utf-8", "replace").splitlines(), 1):
        where = f"{file}:{number}"
        try:
            entry = json.loads(line)
            str(entry["identifier"])
        except (ValueError, KeyError, TypeError) as error:
            raise _bad_entry(where, error) from error
        yield where, entry


def _bad_entry(where: str, error: Exception) -> DataError:
    return DataError(
        f"{where}: not a sentence of NLVR v1 ({type(error).__name__}: {error}); "
        "fetch the file again"
    )


def _root(directory: Path, part: str) -> Root:
    archive = directory / f"{part}.zip"
    if archive.is_file():
        try:
            return zipfile.Path(zipfile.ZipFile(archive), f"{part}/")
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{archive}: truncated or damaged ({error}); fetch it again") from error
    if (directory / part).is_dir():
        return directory / part
    raise DataError(f"there is neither {archive} nor {directory / part}/; check --data")


def _read(file: Root) -> bytes:
    try:
        return file.read_bytes()
    except (OSError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file}: missing or damaged ({error}); fetch the data again") from error


def _things(
    square: Any, objects: Mapping[str, int], colours: Mapping[str, int]
) -> Iterator[tuple[tuple[int, int, int, int], int, int]]:
    """Box within its square, class and colour of each thing."""
    for thing in square:
        left, top, size = thing["x_loc"], thing["y_loc"], thing["size"]
        colour = colours[COLOURS[thing["color"].lower()]] if colours else IGNORED
        yield (left, top, left + size, top + size), objects[thing["type"]], colour


def _image_files(root: Root) -> dict[str, Root]:
    """By name; not every part says in which folder an image is."""
    try:
        folders = [folder for folder in (root / "images").iterdir() if folder.is_dir()]
        return {file.name: file for folder in folders for file in folder.iterdir()}
    except (OSError, KeyError) as error:
        raise DataError(f"{root / 'images'}: missing ({error}); fetch the data again") from error


def _images(
    files: Mapping[str, Root], source: Root, name: str, squares: list[list[Any]]
) -> Iterator[LabelledImage]:
    """The six orders, as the files number them."""
    for order, places in enumerate(permutations(range(3))):
        shifted = [
            ((box[0] + shift, box[1], box[2] + shift, box[3]), thing, colour)
            for place, which in enumerate(places)
            for shift in [place * (SQUARE + GAP)]
            for box, thing, colour in squares[which]
        ]
        image_id = f"{name}-{order}"
        yield LabelledImage(
            image_id=image_id,
            source=_image(files, source, image_id),
            boxes=np.array([box for box, _, _ in shifted], np.float32).reshape(-1, 4),
            object_ids=np.array([thing for _, thing, _ in shifted], np.int64),
            attribute_ids=np.array([colour for _, _, colour in shifted], np.int64),
        )


def _image(files: Mapping[str, Root], source: Root, image_id: str) -> bytes:
    if f"{image_id}.png" not in files:
        raise DataError(f"{source}: there is no image {image_id}.png; fetch the data again")
    return _read(files[f"{image_id}.png"])
