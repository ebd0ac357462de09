"""The files that the evaluation servers take, written and read, and the questions they are about.

- VQA: a JSON list, ``[{"question_id": 458752000, "answer": "net"}, …]``;
- GQA: a JSON list, ``[{"questionId": "202218649", "prediction": "picture"}, …]``;
- NLVR2: a line a question, ``test1-0-0-0,True``.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from lxmert_dist.errors import CORRECT, DataError, came_before, holds_no, unreadable
from lxmert_dist.json_list import read_lines, read_members, read_objects, whole_number
from lxmert_dist.scoring.predictions import Answers, collect, read_predictions
from lxmert_dist.scoring.replacing import replacing

Task = Literal["vqa", "gqa", "nlvr2"]

_HEAD = 1 << 10
_TRUTHS = {"true": "True", "false": "False"}
_Found = Iterator[tuple[str, str, str]]
"""Where each answer is, the id of its question as text, the answer."""


def read_answers(task: Task, path: Path) -> Answers:
    """The answers of a file of ours (``predictions.py``) or of one that a server takes.

    Raises:
        DataError: the file is neither, or answers a question twice; names the line.
    """
    start = _first_letter(path)
    if start == "{":
        found: _Found = ((str(path), one.uid, one.answer) for one in read_predictions(path))
    elif task == "nlvr2":
        found = _read_nlvr2(path)
    elif start == "[":
        found = _read_vqa(path) if task == "vqa" else _read_gqa(path)
    else:
        raise DataError(
            f"{path}: neither our predictions, a JSON object a line, nor the JSON list that "
            f"{task}'s server takes; name one of these"
        )
    return collect(path, found)


def write_submission(task: Task, path: Path, answers: Answers) -> None:
    """Write what the server takes, in the order of ``answers``; there as a whole or not at all.

    Raises:
        DataError: an id or an answer is not one of the task, the file cannot be written, or it does
            not read as what was given.
    """
    given = dict(answers.by_uid)
    if task == "vqa":
        content = _listed(
            {"question_id": _number(uid, answers), "answer": a} for uid, a in given.items()
        )
    elif task == "gqa":
        content = _listed(
            {"questionId": uid, "prediction": answer} for uid, answer in given.items()
        )
    else:
        given = {uid: truth(answer, f"{answers.path}: {uid}") for uid, answer in given.items()}
        content = iter([f"{uid},{answer}\n" for uid, answer in given.items()])
    with replacing(path) as temporary:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(content)
        if dict(read_answers(task, temporary).by_uid) != given:
            raise DataError(f"{path}: does not read as what was to be written; check the disk")


def read_question_ids(task: Task, path: Path) -> Iterator[str]:
    """The ids, as text, of the questions in a task's published file, with or without answers.

    ``{"questions": [{"question_id": …}, …]}`` of VQA, GQA's object by ids, NLVR2's JSON Lines.

    Raises:
        DataError: it is not such a file, or an id comes twice; names the line.
    """
    seen: set[str] = set()
    for where, uid in _question_ids(task, path):
        if uid in seen:
            raise DataError(came_before(where, f"question {uid}"))
        seen.add(uid)
        yield uid
    if not seen:
        raise DataError(holds_no(path, f"questions of {task}"))


def truth(answer: str, where: str) -> str:
    """NLVR2's "True" or "False", however it is capitalised.

    Raises:
        DataError: it is neither.
    """
    try:
        return _TRUTHS[answer.lower()]
    except KeyError:
        raise DataError(f"{where}: {answer!r} is neither True nor False; {CORRECT}") from None


def _question_ids(task: Task, path: Path) -> Iterator[tuple[str, str]]:
    match task:
        case "vqa":
            for key, where, entry in read_members(path):
                if key == "questions":
                    if not isinstance(entry, dict):
                        raise DataError(f"{where}: expected an object in 'questions'; {CORRECT}")
                    yield where, str(whole_number(entry, "question_id", where))
        case "gqa":
            for key, where, entry in read_members(path):
                if not isinstance(entry, dict):
                    raise DataError(
                        f"{where}: {key!r} is no question; name a file of GQA's questions"
                    )
                yield where, key
        case "nlvr2":
            for where, entry in read_lines(path):
                yield where, identifier(entry, where)


def identifier(entry: Mapping[str, object], where: str) -> str:
    """The id of a line of NLVR2, such as ``dev-850-2-0``: split, set of images, pair, sentence.

    Raises:
        DataError: it is not such an id.
    """
    found = entry.get("identifier")
    if not isinstance(found, str) or found.count("-") != 3 or "," in found:
        raise DataError(
            f"{where}: identifier is {found!r}, expected one such as 'dev-850-2-0'; {CORRECT}"
        )
    return found


def _first_letter(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(_HEAD).decode("utf-8", "replace").lstrip()
    except OSError as error:
        raise DataError(unreadable(path, error)) from error
    if not start:
        raise DataError(holds_no(path, "predictions"))
    return start[0]


def _read_vqa(path: Path) -> _Found:
    for where, entry in read_objects(path):
        number = whole_number(entry, "question_id", where)
        yield where, str(number), _text(entry, "answer", f"{where}: question {number}")


def _read_gqa(path: Path) -> _Found:
    for where, entry in read_objects(path):
        uid = _text(entry, "questionId", where)
        yield where, uid, _text(entry, "prediction", f"{where}: question {uid}")


def _read_nlvr2(path: Path) -> _Found:
    with path.open(encoding="utf-8", errors="replace") as file:  # what is no text is no id either
        for number, line in enumerate(file, 1):
            if text := line.strip():
                uid, _, answer = text.partition(",")
                yield f"{path}:{number}", uid, truth(answer, f"{path}:{number}: {uid}")


def _text(entry: Mapping[str, object], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise DataError(f"{where}: {key} is {value!r}, expected text; {CORRECT}")
    return value


def _number(uid: str, answers: Answers) -> int:
    if not (uid.isascii() and uid.isdecimal() and str(int(uid)) == uid):
        raise DataError(
            f"{answers.path}: {uid!r} is no question_id of VQA, which is a whole number; "
            "give predictions of its questions"
        )
    return int(uid)


def _listed(records: Iterator[Mapping[str, object]]) -> Iterator[str]:
    """The lines of a JSON list, a record a line."""
    before = "["
    for record in records:
        yield before + json.dumps(record)
        before = ",\n"
    yield "]\n"
