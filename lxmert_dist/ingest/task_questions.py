"""What LXMERT is fine-tuned on: its own files of VQA, GQA and NLVR2, and NLVR2 as published.

LXMERT's are JSON lists, an object a question: of VQA ``{"question_id": 458752000, "img_id":
"COCO_train2014_000000458752", "sent": "…", "label": {"net": 1}}``, of GQA the same with an id in
quotes, of NLVR2 ``{"identifier": "train-10171-0-0", "img0": "train-10171-0-img0", "img1": "…",
"sent": "…", "label": 1}``. Files of a test split have no labels. NLVR2's own are JSON Lines,
``{"identifier": "dev-850-0-0", "sentence": "…", "label": "False"}``.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lxmert_dist.errors import CORRECT, DataError, came_before, holds_no
from lxmert_dist.ingest.lxmert_json import Item, Label, check_label
from lxmert_dist.ingest.sentence_files import OneFile
from lxmert_dist.json_list import read_lines, read_objects

NLVR2 = "nlvr2"
NLVR2_ANSWERS = ("False", "True")
"""By LXMERT's label."""


class TaskJson(OneFile):
    """A file of questions as LXMERT published it; the id tells which task it is of."""

    def items(self, read: Callable[[int], object]) -> Iterator[Item]:
        """An item a question.

        Raises:
            DataError: the file is damaged or not as this module says; names the line.
        """
        return _once(self.path, (_item(entry, w) for w, entry in read_objects(self.path, read)))


class Nlvr2Lines(OneFile):
    """A file of sentences as NLVR2 published it."""

    def items(self, read: Callable[[int], object]) -> Iterator[Item]:
        """An item a sentence; as :meth:`TaskJson.items`."""
        return _once(self.path, (_line(entry, w) for w, entry in read_lines(self.path, read)))


def _once(path: Path, items: Iterator[Item]) -> Iterator[Item]:
    seen: set[str] = set()
    for item in items:
        for uid in next(iter(item.uids.values())):
            if uid in seen:
                raise DataError(came_before(item.where, f"question {uid!r}"))
            seen.add(uid)
        yield item
    if not seen:
        raise DataError(holds_no(path, "questions"))


def _item(entry: Mapping[str, Any], where: str) -> Item:
    match entry:
        case {"identifier": str(uid), "img0": str(first), "img1": str(second), "sent": str(text)}:
            return _pair(where, uid, (first, second), text, _truth(entry.get("label"), where))
        case {"question_id": int() | str() as number, "img_id": str(image), "sent": str(text)}:
            label = entry.get("label", {})
            if not isinstance(label, dict):
                raise DataError(
                    f"{where}: label is {label!r:.60}, expected {{answer: score}}; {CORRECT}"
                )
            check_label(label, f"{where}: label of question {number}")
            source = "gqa" if isinstance(number, str) else "vqa"
            labels = {source: [label]} if label else {}
            return Item(where, image, {source: [text]}, labels, uids={source: [str(number)]})
        case _:
            raise DataError(
                f"{where}: expected question_id, img_id and sent (VQA, GQA), or identifier, img0, "
                f"img1 and sent (NLVR2), found {', '.join(sorted(entry))[:80]}; {CORRECT}"
            )


def _line(entry: Mapping[str, Any], where: str) -> Item:
    match entry:
        case {"identifier": str(uid), "sentence": str(text)} if uid.count("-") == 3:
            images = uid.rpartition("-")[0]
            pair = (f"{images}-img0", f"{images}-img1")
            return _pair(where, uid, pair, text, _truth(entry.get("label"), where))
        case _:
            raise DataError(
                f'{where}: expected {{"identifier": "dev-850-0-0", "sentence": "…"}}, found '
                f"{', '.join(sorted(entry))[:80]}; {CORRECT}"
            )


def _pair(where: str, uid: str, pair: tuple[str, str], text: str, label: Label) -> Item:
    labels = {NLVR2: [label]} if label else {}
    return Item(where, "", {NLVR2: [text]}, labels, pair=pair, uids={NLVR2: [uid]})


def _truth(label: Any, where: str) -> Label:
    """A label as an answer: LXMERT writes 0 and 1, NLVR2 "False" and "True"."""
    if label is None:
        return {}
    if isinstance(label, int) and label in (0, 1):
        return {NLVR2_ANSWERS[label]: 1.0}
    if isinstance(label, str) and label.capitalize() in NLVR2_ANSWERS:
        return {label.capitalize(): 1.0}
    raise DataError(f"{where}: label is {label!r}, expected 0, 1, True or False; {CORRECT}")
