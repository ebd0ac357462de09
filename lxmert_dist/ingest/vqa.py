"""VQA v2 as published: a file of questions, and a file of what ten people answered to each.

``{"data_subtype": "train2014", "questions": [{"question_id": 458752000, "image_id": 458752,
"question": "…"}]}`` and ``{"annotations": [{"question_id": 458752000, "image_id": 458752,
"answers": [{"answer": "net"}, …]}]}``. Both files are read side by side, and what has not met its
other half waits in memory: nothing does in the published files, which have the same order. The
questions of the test split have no annotations.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from lxmert_dist.errors import CORRECT, TOGETHER, DataError, came_before
from lxmert_dist.ingest.lxmert_json import Item, Label
from lxmert_dist.ingest.vqa_answers import VqaScores, soft_scores
from lxmert_dist.json_list import read_members, whole_number

SOURCE = "vqa"

_Question = tuple[str, int, str]
"""Where it is, its image, what is asked."""
_Answers = tuple[str, int, Label]
"""Where they are, the image, and their scores."""
_Entry = TypeVar("_Entry", _Question, _Answers)


@dataclass(frozen=True)
class VqaQuestions:
    """Questions with their annotations; ``name`` is that of the questions, without suffix.

    ``annotations``: None where there are none, as of the test split.
    """

    questions: Path
    annotations: Path | None
    scores: VqaScores = "leave-one-out"

    @property
    def name(self) -> str:
        """What ``--valid`` calls it."""
        return self.questions.stem

    @property
    def paths(self) -> Sequence[Path]:
        """The files."""
        return tuple(filter(None, (self.questions, self.annotations)))

    def items(self, read: Callable[[int], object]) -> Iterator[Item]:
        """An item a question, image ids as in ``COCO_train2014_000000458752``.

        Raises:
            DataError: a file is damaged or not as this module says, an id comes twice, or a
                question has no annotation or the reverse; names the file and the line.
        """
        part = _subtype(self.questions)
        questions = _once(_questions(self.questions, read))
        if self.annotations is None:
            yield from (_item(part, number, asked, {}) for number, asked in questions)
        else:
            yield from self._joined(part, questions, self.annotations, read)

    def _joined(
        self,
        part: str,
        questions: Iterator[tuple[int, _Question]],
        path: Path,
        read: Callable[[int], object],
    ) -> Iterator[Item]:
        annotations = _once(_annotations(path, self.scores, read))
        asked: dict[int, _Question] = {}
        answered: dict[int, _Answers] = {}
        for question, annotation in zip_longest(questions, annotations):
            if question:
                asked[question[0]] = question[1]
            if annotation:
                answered[annotation[0]] = annotation[1]
            for number in {entry[0] for entry in (question, annotation) if entry}:
                if number in asked and number in answered:
                    where, image, text = asked.pop(number)
                    there, same_image, label = answered.pop(number)
                    if image != same_image:
                        raise DataError(
                            f"{there}: question {number} is about image {same_image}, but "
                            f"{where} says {image}; {TOGETHER}"
                        )
                    yield _item(part, number, (where, image, text), label)
        for waiting, lacks, other in (
            (asked, "annotation", path),
            (answered, "question", self.questions),
        ):
            for number, (where, *_) in waiting.items():
                raise DataError(
                    f"{where}: question {number} has no {lacks} in {other}, and so have "
                    f"{len(waiting)} in all; {TOGETHER}"
                )


def _item(part: str, number: int, question: _Question, label: Label) -> Item:
    where, image, text = question
    labels = {SOURCE: [label]} if label else {}
    name = f"COCO_{part}_{image:012d}"
    return Item(where, name, {SOURCE: [text]}, labels, uids={SOURCE: [str(number)]})


def _questions(path: Path, read: Callable[[int], object]) -> Iterator[tuple[int, _Question]]:
    for where, entry in _entries(path, "questions", read):
        text = entry.get("question")
        if not isinstance(text, str):
            raise DataError(f"{where}: question is {text!r}, expected text; {CORRECT}")
        number, image = (
            whole_number(entry, "question_id", where),
            whole_number(entry, "image_id", where),
        )
        yield number, (where, image, text)


def _annotations(
    path: Path, scores: VqaScores, read: Callable[[int], object]
) -> Iterator[tuple[int, _Answers]]:
    for where, entry in _entries(path, "annotations", read):
        number, image = (
            whole_number(entry, "question_id", where),
            whole_number(entry, "image_id", where),
        )
        match entry.get("answers"):
            case [_, *_] as given if all(map(_is_answer, given)):
                label = soft_scores([answer["answer"] for answer in given], scores)
            case _:
                raise DataError(
                    f"{where}: answers of question {number} are no "
                    f'[{{"answer": "yes"}}, …], one a person; {CORRECT}'
                )
        yield number, (where, image, label)


def _is_answer(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("answer"), str)


def _entries(
    path: Path, key: str, read: Callable[[int], object]
) -> Iterator[tuple[str, dict[str, Any]]]:
    found = False
    for name, where, value in read_members(path, read):
        if name == key:
            found = True
            if not isinstance(value, dict):
                raise DataError(f"{where}: expected an object in {key!r}; {CORRECT}")
            yield where, value
    if not found:
        raise DataError(f'{path}: holds no {{"{key}": […]}}; name a file of VQA v2')


def _once(entries: Iterator[tuple[int, _Entry]]) -> Iterator[tuple[int, _Entry]]:
    seen: set[int] = set()
    for number, entry in entries:
        if number in seen:
            raise DataError(came_before(entry[0], f"question_id {number}"))
        seen.add(number)
        yield number, entry


def _subtype(path: Path) -> str:
    """Which part of COCO the images are of; the published files say so before their questions."""
    for name, where, value in read_members(path):
        if name == "data_subtype":
            if isinstance(value, str) and value:
                return value
            raise DataError(
                f"{where}: data_subtype is {value!r}, expected e.g. 'train2014'; {CORRECT}"
            )
    raise DataError(
        f'{path}: no data_subtype, such as "train2014", says which images it is about; '
        "add it, or fetch the file again"
    )
