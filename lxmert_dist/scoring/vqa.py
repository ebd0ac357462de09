"""Accuracy on VQA v2: of all questions, by type of answer and by type of question."""

from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from lxmert_dist.errors import CORRECT, DataError, came_before
from lxmert_dist.json_list import read_members, whole_number
from lxmert_dist.scoring.predictions import Answers, check_complete
from lxmert_dist.scoring.result import ALL, Result, Samples, left_to_right
from lxmert_dist.scoring.vqa_answers import vqa_accuracy

PEOPLE = 10
"""So many answered each question."""

_TYPES = ("answer type", "question type")
"""What accuracies are told by, where the annotations have it."""

_HUNDREDTH = Decimal("0.01")


def score_vqa(answers: Answers, annotations: Path, *, partial: bool = False) -> Result:
    """The official accuracy.

    Args:
        answers: predictions, by ``question_id`` as text.
        annotations: the published file, ``{"annotations": [{"question_id": …, "image_id": …,
            "question_type": …, "answer_type": …, "answers": [{"answer": …, …}, …]}, …]}``; the
            notes say what is left out where the types or the images are not there.
        partial: score the questions that were answered, and those alone.

    Raises:
        DataError: the annotations are not as above, or do not fit the predictions; names the file
            and the question.
    """
    overall, by_type = Samples(), {name: Samples() for name in _TYPES}
    untyped: dict[str, str] = {}
    alone: list[str] = []
    asked: dict[str, bool] = {}
    for where, entry in read_annotations(annotations):
        uid = str(entry["question_id"])
        if uid in asked:
            raise DataError(came_before(where, f"question_id {uid}"))
        asked[uid] = True
        if uid in answers.by_uid:
            accuracy = vqa_accuracy(entry["answers"], answers.by_uid[uid])
            image = entry.get("image_id", f"question {uid}")
            overall.add("accuracy", accuracy, image)
            for name, samples in by_type.items():
                if (key := _key(name)) in entry:
                    samples.add(entry[key], accuracy, image)
                else:
                    untyped.setdefault(name, uid)
            if "image_id" not in entry:
                alone.append(uid)
    check_complete(answers, asked, annotations, partial)
    parts = {ALL: overall.figures(vqa_percent)}
    for name, samples in by_type.items():
        if name not in untyped:
            parts[name] = samples.figures(vqa_percent, ordered=True)
    notes = [
        f"no accuracy by {name}: question {uid} has no {_key(name)}"
        for name, uid in untyped.items()
    ]
    if alone:
        notes.append(
            f"question {alone[0]} has no image_id, and {len(alone):,} in all: intervals take them "
            "as independent, and are too narrow if they are not"
        )
    return Result("vqa", parts, notes=notes)


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
            raise DataError(f"{where}: expected an object in 'annotations'; {CORRECT}")
        number = whole_number(entry, "question_id", where)
        for key in map(_key, _TYPES):
            if not isinstance(entry.get(key, ""), str):
                raise DataError(
                    f"{where}: {key} of question {number} is {entry[key]!r}, expected text; "
                    f"{CORRECT}"
                )
        image = entry.get("image_id", "")
        if isinstance(image, bool) or not isinstance(image, int | str):
            raise DataError(
                f"{where}: image_id of question {number} is {image!r}, expected a number or a "
                f"name; {CORRECT}"
            )
        _check_people(entry.get("answers"), number, where)
        yield where, entry
    if not found:
        raise DataError(
            f'{path}: holds no {{"annotations": […]}}; name a file of annotations of VQA'
        )


def _key(name: str) -> str:
    return name.replace(" ", "_")


def _check_people(people: Any, number: int, where: str) -> None:
    if not isinstance(people, list) or not all(map(_is_answer, people)):
        raise DataError(
            f'{where}: answers of question {number} are no [{{"answer": "yes"}}, …], one a person; '
            f"{CORRECT}"
        )
    if len(people) != PEOPLE:
        raise DataError(
            f"{where}: question {number} has {len(people)} answers, VQA counts those of {PEOPLE}; "
            f"{CORRECT}"
        )


def _is_answer(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("answer"), str)
