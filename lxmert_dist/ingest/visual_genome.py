"""Visual Genome as published: questions, descriptions of regions, and which images are COCO's.

- ``question_answers.json``: ``[{"id": 1, "qas": [{"qa_id": 986768, "image_id": 1, "question":
  "What color is the clock?", "answer": "Green.", …}, …]}, …]``, an element an image;
- ``region_descriptions.json``: ``[{"id": 1, "regions": [{"region_id": 1382, "phrase": "the clock
  is green in colour", …}, …]}, …]``;
- ``image_data.json``: ``[{"image_id": 1, "coco_id": null, …}, …]``.

Some releases write ``image_id`` for ``id``.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lxmert_dist.errors import CORRECT, DataError, came_before, holds_no
from lxmert_dist.ingest.lxmert_json import Item, Label
from lxmert_dist.ingest.sentence_files import OneFile
from lxmert_dist.json_list import read_objects, whole_number

QUESTIONS, REGIONS = "visual7w", "vg"
"""What LXMERT's files call the questions and the regions."""


@dataclass(frozen=True)
class VgImages:
    """Which images of Visual Genome are in COCO, by their numbers in both; unknown by default."""

    coco_ids: Mapping[int, int] = field(default_factory=dict)

    def other_names(self, image_id: str) -> tuple[str, ...]:
        """What COCO 2014 may call an image; its number does not tell which part it is of."""
        coco = self.coco_ids.get(int(image_id)) if image_id.isdecimal() else None
        if coco is None:
            return ()
        return tuple(f"COCO_{part}_{coco:012d}" for part in ("train2014", "val2014"))


def read_image_data(path: Path) -> VgImages:
    """Read ``image_data.json``.

    Raises:
        DataError: it is damaged or not as this module says; names the line.
    """
    coco_ids: dict[int, int] = {}
    for where, entry in read_objects(path):
        image = whole_number(entry, "image_id", where)
        coco = entry.get("coco_id")
        if coco is not None:
            coco_ids[image] = whole_number(entry, "coco_id", where)
    return VgImages(coco_ids)


@dataclass(frozen=True)
class VgFile(OneFile):
    """``question_answers.json`` or ``region_descriptions.json``, as ``kind`` says."""

    kind: Literal["questions", "regions"]
    images: VgImages

    def items(self, read: Callable[[int], object]) -> Iterator[Item]:
        """An item an image.

        Raises:
            DataError: the file is damaged or not as this module says, or an image or a question of
                an image comes twice; names the line.
        """
        take = _questions if self.kind == "questions" else _regions
        seen: set[int] = set()
        for where, entry in read_objects(self.path, read):
            number = whole_number(entry, "id" if "id" in entry else "image_id", where)
            if number in seen:
                raise DataError(came_before(where, f"image {number}"))
            seen.add(number)
            sentences, labels = take(entry, f"{where}: image {number}")
            names = self.images.other_names(str(number))
            yield Item(where, str(number), sentences, labels, names)
        if not seen:
            raise DataError(holds_no(self.path, "images"))


_Said = tuple[dict[str, list[str]], dict[str, list[Label]]]


def _questions(entry: Mapping[str, Any], where: str) -> _Said:
    texts: list[str] = []
    labels: list[Label] = []
    seen: set[Any] = set()
    for qa in _list_of(entry, "qas", where):
        text, answer, number = qa.get("question"), qa.get("answer"), qa.get("qa_id")
        if not isinstance(text, str) or not isinstance(answer, str):
            raise DataError(
                f"{where}: qa_id {number!r} has question {text!r} and answer {answer!r}, "
                f"expected text for both; {CORRECT}"
            )
        if number is not None and number in seen:
            raise DataError(f"{where}: qa_id {number!r} comes twice; leave one out")
        seen.add(number)
        texts.append(text)
        labels.append({answer: 1.0} if answer else {})
    return {QUESTIONS: texts}, {QUESTIONS: labels}


def _regions(entry: Mapping[str, Any], where: str) -> _Said:
    phrases = []
    for region in _list_of(entry, "regions", where):
        phrase = region.get("phrase")
        if not isinstance(phrase, str):
            raise DataError(
                f"{where}: phrase of region {region.get('region_id')!r} is {phrase!r}, "
                f"expected text; {CORRECT}"
            )
        phrases.append(phrase)
    return {REGIONS: phrases}, {}


def _list_of(entry: Mapping[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    values = entry.get(name)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise DataError(
            f"{where} has no list of objects under {name!r}; name a file of Visual Genome's {name}"
        )
    return values
