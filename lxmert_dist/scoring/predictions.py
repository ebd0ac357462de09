"""Predictions: our file of them, and the answers that any file of predictions gives.

Ours is JSON Lines, an object a question, with the answers that the model thought likeliest:
``{"uid": "458752000", "answer": "net", "score": 0.91, "top": [["net", 0.91], ["fence", 0.04]]}``.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lxmert_dist.errors import TOGETHER, DataError, came_before, holds_no
from lxmert_dist.json_list import read_lines
from lxmert_dist.scoring.replacing import replacing

_KEYS = frozenset({"uid", "answer", "score", "top"})


@dataclass(frozen=True)
class Prediction:
    """What a model answers to one question.

    ``uid`` is the question's id as text: VQA's ``question_id``, GQA's key, NLVR2's ``identifier``.
    ``score`` is in [0, 1]. ``top`` is empty, or has different answers with their scores, the
    highest first, and begins with ``answer`` and ``score``.
    """

    uid: str
    answer: str
    score: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Answers:
    """The answer to each question by its id as text, and the file that gives them."""

    path: Path
    by_uid: Mapping[str, str]


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write our file; it is there as a whole, or as it was before.

    Raises:
        DataError: a prediction is not as :class:`Prediction` says, an id comes twice, the file
            cannot be written, or it does not read as what was given.
    """
    with replacing(path) as temporary:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            for one in predictions:
                top = [list(pair) for pair in one.top]
                record = {"uid": one.uid, "answer": one.answer, "score": one.score, "top": top}
                file.write(json.dumps(record) + "\n")
        found = read_predictions(temporary)
        for number, (given, read) in enumerate(zip(predictions, found, strict=True), 1):
            if given != read:
                raise DataError(
                    f"{path}: line {number} does not read as {given} but as {read}; check the disk"
                )


def read_predictions(path: Path) -> Iterator[Prediction]:
    """The predictions of our file, in order.

    Raises:
        DataError: the file cannot be read, is not as this module says, or an id comes twice; names
            the line.
    """
    seen: set[str] = set()
    for where, entry in read_lines(path):
        prediction = _prediction(entry, where)
        if prediction.uid in seen:
            raise DataError(came_before(where, f"uid {prediction.uid!r}"))
        seen.add(prediction.uid)
        yield prediction


def collect(path: Path, answers: Iterable[tuple[str, str, str]]) -> Answers:
    """Answers by id.

    Args:
        path: the file that they are from.
        answers: where each is ("file:line"), the id, and the answer.

    Raises:
        DataError: an id comes twice, or there are no answers at all.
    """
    by_uid: dict[str, str] = {}
    for where, uid, answer in answers:
        if uid in by_uid:
            raise DataError(came_before(where, f"question {uid}"))
        by_uid[uid] = answer
    if not by_uid:
        raise DataError(holds_no(path, "predictions"))
    return Answers(path, by_uid)


def check_complete(answers: Answers, asked: Mapping[str, bool], truth: Path, partial: bool) -> None:
    """See that predictions and questions belong together.

    Args:
        answers: what was predicted.
        asked: all questions by id; whether each must be answered.
        truth: the file of the questions.
        partial: whether predictions may lack questions.

    Raises:
        DataError: a question that was answered is not among them, one that must be is not
            answered, or none is; names the files and the first such question.
    """
    path = answers.path
    unknown = [uid for uid in answers.by_uid if uid not in asked]
    if unknown:
        raise DataError(
            f"{path}: question {unknown[0]} is not in {truth}, and so are {len(unknown):,} in all; "
            f"{TOGETHER}"
        )
    needed = [uid for uid, must in asked.items() if must]
    missing = [uid for uid in needed if uid not in answers.by_uid]
    if len(missing) == len(needed):
        raise DataError(
            f"{path}: answers none of the {len(needed):,} questions in {truth}; {TOGETHER}"
        )
    if missing and not partial:
        raise DataError(
            f"{path}: {len(missing):,} of {len(needed):,} questions in {truth} have no answer, the "
            f"first is {missing[0]}; answer them, or say --partial to go on with the others"
        )


def _prediction(entry: Mapping[str, Any], where: str) -> Prediction:
    if unknown := entry.keys() - _KEYS:
        raise DataError(
            f"{where}: unknown key {min(unknown)!r}, a prediction has uid, answer, score, top; "
            "correct the line"
        )
    uid, answer = entry.get("uid"), entry.get("answer")
    if not isinstance(uid, str) or not uid:
        raise DataError(
            f"{where}: uid is {uid!r}, expected a question's id in quotes; correct the line"
        )
    if not isinstance(answer, str):
        raise DataError(f"{where}: answer of {uid} is {answer!r}, expected text; correct the line")
    score = _score(entry.get("score"), uid, where)
    top = entry.get("top", [])
    if not isinstance(top, list) or not all(map(_is_pair, top)):
        raise DataError(
            f'{where}: top of {uid} is no list such as [["net", 0.91], …]; correct the line'
        )
    pairs = tuple((text, _score(value, uid, where)) for text, value in top)
    texts, scores = [text for text, _ in pairs], [value for _, value in pairs]
    if len(set(texts)) < len(texts) or scores != sorted(scores, reverse=True):
        raise DataError(
            f"{where}: top of {uid} has an answer twice, or rising scores; correct the line"
        )
    if pairs and pairs[0] != (answer, score):
        raise DataError(
            f"{where}: top of {uid} begins with {pairs[0]}, the answer is {answer!r} with {score}; "
            "correct the line"
        )
    return Prediction(uid, answer, score, pairs)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _score(value: Any, uid: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(
            f"{where}: a score of {uid} is {value!r}, expected a number from 0 to 1; "
            "correct the line"
        )
    return float(value)
