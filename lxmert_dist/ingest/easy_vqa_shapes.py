"""easy-VQA's images with the box, shape and colour of what is in each.

The data set tells no boxes: a shape is where an image differs from its background, which is of one
colour. Shape and colour are what the questions and answers settle.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from lxmert_dist.errors import DataError
from lxmert_dist.ingest.captions import COLOURS, SHAPES, derive_facts
from lxmert_dist.ingest.easy_vqa import package_data, read_answers, read_part
from lxmert_dist.ingest.labels import label_numbers
from lxmert_dist.opening import open_image
from lxmert_dist.schema import IGNORED, LabelledImage

_DIFFERENT = 40
"""Difference of a colour value from the background's, of 255, that is a shape's. Pixels on an edge
are a mixture; gray (128) is the nearest colour to a background (230 and up), so that a pixel half
covered still differs by 51."""


def read_easy_vqa_shapes(
    root: Path | None, part: str, object_names: Sequence[str], attribute_names: Sequence[str]
) -> list[LabelledImage]:
    """The images of a part whose shape is known from its questions.

    Args:
        root: the data set's ``data`` directory; None takes the installed package's.
        part: ``train`` or ``test``.
        object_names: the shapes, in any order.
        attribute_names: the colours, in any order; where the questions leave it open, the
            attribute is ``IGNORED``.

    Raises:
        ConfigError: the names are not those of the data.
        DataError: a file is missing or malformed, answers contradict each other, or an image has
            nothing in it; names it.
    """
    objects = label_numbers(object_names, SHAPES, "training.object_names")
    colours = label_numbers(
        attribute_names, COLOURS if attribute_names else (), "training.attribute_names"
    )
    root = root or package_data()
    data = read_part(root, part, read_answers(root))
    said: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for question in data.questions:
        said[question.image_id] += [(question.text, answer) for answer in question.answers]
    found = []
    for image_id, path in data.images.items():
        facts = derive_facts(said[image_id])
        if facts.shape is None:
            continue
        colour = IGNORED if facts.colour is None else colours.get(facts.colour, IGNORED)
        found.append(
            LabelledImage(
                image_id=image_id,
                source=path,
                boxes=box_of_shape(open_image(path), image_id)[None],
                object_ids=np.array([objects[facts.shape]], np.int64),
                attribute_ids=np.array([colour], np.int64),
            )
        )
    return found


def box_of_shape(
    image: UInt8[np.ndarray, "height width 3"], name: str
) -> Float32[np.ndarray, " 4"]:
    """The box of what differs from the background, whose colour most of the border has.

    Returns:
        x1, y1, x2, y2 in pixels.

    Raises:
        DataError: all of the image is of one colour; names it.
    """
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    background = np.median(border, axis=0)
    different = (np.abs(image - background) >= _DIFFERENT).any(axis=2)
    rows, columns = different.any(axis=1).nonzero()[0], different.any(axis=0).nonzero()[0]
    if not len(rows):
        raise DataError(f"{name}: nothing differs from the background; leave it out")
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
