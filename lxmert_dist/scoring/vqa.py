"""Accuracy on VQA v2: of all questions, by type of answer and by type of question."""

from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from lxmert_dist.errors import DataError
from lxmert_dist.json_list import read_members, whole_number
from lxmert_dist.scoring.predictions import Answers, check_complete
from lxmert_dist.scoring.result import ALL, Result, Samples, left_to_right
from lxmert_dist.scoring.vqa_answers import vqa_accuracy

PEOPLE = 10
"""So many answered each question."""

_HUNDREDTH = Decimal("0.01")


def score_vqa(answers: Answers, annotations: Path, *, partial: bool = False) -> Result:
    """The official accuracy.

    Args:
        answers: predictions, by ``question_id`` as text.
        annotations: the published file, ``{"annotations": [{"question_id": …, "image_id": …,
            "question_type": …, "answer_type": …, "answers": [{"answer": …, …}, …]}, …]}``.
        partial: score the questions that were answered, and those alone.

    Raises:
        DataError: the annotations are not as above, or do not fit the predictions; names the file
            and the question.
    """
    overall, by_answer, by_question = Samples(), Samples(), Samples()
    asked: dict[str, bool] = {}
    for where, entry in read_annotations(annotations):
        uid = str(entry["question_id"])
        if uid in asked:
            raise DataError(f"{where}: question_id {uid} came before in this file")
        asked[uid] = True
        if uid in answers.by_uid:
            accuracy = vqa_accuracy(entry["answers"], answers.by_uid[uid])
            image = entry["image_id"]
            overall.add("accuracy", accuracy, image)
            by_answer.add(entry["answer_type"], accuracy, image)
            by_question.add(entry["question_type"], accuracy, image)
    check_complete(answers, asked, annotations, partial)
    parts = {
        ALL: overall.figures(vqa_percent),
        "answer type": by_answer.figures(vqa_percent, ordered=True),
        "question type": by_question.figures(vqa_percent, ordered=True),
    }
    return Result("vqa", parts)


def vqa_percent(accuracies: Sequence[float]) -> float:
    """The mean in per cent with two digits, halves away from zero: the script is of Python 2.

    Python 3 rounds halves to even digits, so that 12.125 would become 12.12.
    """
    mean = 100 * left_to_right(accuracies) / len(accuracies)
    return float(Decimal(mean).quantize(_HUNDREDTH, ROUND_HALF_UP))


def read_annotations(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The annotations of a file, each with where it is; all that is scored by is checked.

    Raises:
        DataError: one is not as :func:`score_vqa` says, or there is none; names the question.
    """
    found = False
    for key, where, entry in read_members(path):
        if key != "annotations":
            continue
        found = True
        if not isinstance(entry, dict):
            raise DataError(f"{where}: expected an object in 'annotations'")
        number = whole_number(entry, "question_id", where)
        for name in ("question_type", "answer_type"):
            if not isinstance(entry.get(name), str):
                raise DataError(
                    f"{where}: {name} of question {number} is {entry.get(name)!r}, expected text"
                )
        image = entry.get("image_id")
        if isinstance(image, bool) or not isinstance(image, int | str):
            raise DataError(f"{where}: image_id of question {number} is {image!r}")
        _check_people(entry.get("answers"), number, where)
        yield where, entry
    if not found:
        raise DataError(f'{path}: holds no {{"annotations": […]}}; is it the right file of VQA?')


def _check_people(people: Any, number: int, where: str) -> None:
    if not isinstance(people, list) or not all(map(_is_answer, people)):
        raise DataError(
            f'{where}: answers of question {number} are no [{{"answer": "yes"}}, …], one a person'
        )
    if len(people) != PEOPLE:
        raise DataError(
            f"{where}: question {number} has {len(people)} answers; VQA counts those of {PEOPLE}"
        )


def _is_answer(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("answer"), str)
