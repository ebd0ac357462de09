"""Questions in JSON Lines: ``{"uid": "458752000", "image": "a.jpg", "question": "what is it"}``."""

from pathlib import Path

from lxmert_dist.errors import DataError, came_before, holds_no
from lxmert_dist.json_list import read_lines
from lxmert_dist.predict.predictor import Question

_KEYS = ("uid", "image", "question")


def read_questions(path: Path, images: Path | None = None) -> list[Question]:
    """The questions of a file, in order.

    Args:
        path: of the file.
        images: the directory of the images; None takes that of the file.

    Raises:
        DataError: the file cannot be read or is empty, a line is not as this module says, a uid
            comes twice, or an image is missing; names the line.
    """
    folder = path.parent if images is None else images
    found: dict[str, Question] = {}
    for where, entry in read_lines(path):
        if strange := entry.keys() - set(_KEYS):
            raise DataError(
                f"{where}: unknown key {min(strange)!r}, a question has {', '.join(_KEYS)}; "
                "correct the line"
            )
        for key in _KEYS:
            value = entry.get(key)
            if not isinstance(value, str) or not value.strip():
                raise DataError(
                    f"{where}: {key} is {value!r}, expected text that is not empty; "
                    "correct the line"
                )
        uid, image = entry["uid"], folder / entry["image"]
        if uid in found:
            raise DataError(came_before(where, f"uid {uid!r}"))
        if not image.is_file():
            raise DataError(f"{where}: there is no image {image}; check the name, or --images DIR")
        found[uid] = Question(image, entry["question"], uid)
    if not found:
        raise DataError(holds_no(path, "questions"))
    return list(found.values())
