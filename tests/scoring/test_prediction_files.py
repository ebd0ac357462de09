"""Files of predictions: what is written is read again, in our format and in those of servers."""

import json
import re

import pytest

from lxmert_dist.errors import DataError
from lxmert_dist.scoring import predictions as module
from lxmert_dist.scoring import servers
from lxmert_dist.scoring.predictions import (
    Answers,
    Prediction,
    check_complete,
    read_predictions,
    write_predictions,
)
from lxmert_dist.scoring.servers import read_answers, read_question_ids, write_submission

PREDICTIONS = [
    Prediction("458752000", "net", 0.91, (("net", 0.91), ('a "fence"\n', 0.0625), ("é🙂", 0.0))),
    Prediction("458752001", "", 1.0),
    Prediction("9", "\ud800", 1 / 3, (("\ud800", 1 / 3),)),  # half a character, as JSON may hold it
]
GOOD = {"uid": "1", "answer": "net", "score": 0.5, "top": [["net", 0.5], ["fence", 0.25]]}


def test_predictions_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "runs" / "p.jsonl"
    write_predictions(path, PREDICTIONS)
    assert list(read_predictions(path)) == PREDICTIONS
    first = json.loads(path.read_text().splitlines()[0])
    assert first["uid"] == "458752000"
    assert first["top"][0] == ["net", 0.91]
    assert [file.name for file in path.parent.iterdir()] == ["p.jsonl"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"uid": 1}, "uid is 1, expected a question's id"),
        ({"uid": ""}, "uid is ''"),
        ({"answer": None}, "answer of 1 is None"),
        ({"score": 1.5}, "a score of 1 is 1.5, expected a number from 0 to 1"),
        ({"score": float("nan")}, "a score of 1 is nan"),
        ({"score": True}, "a score of 1 is True"),
        ({"score": "0.5"}, "a score of 1 is '0.5'"),
        ({"top": {}}, "top of 1 is no list such as"),
        ({"top": [["net"]]}, "top of 1 is no list such as"),
        ({"top": [[1, 0.5]]}, "top of 1 is no list such as"),
        ({"top": [["net", -0.5]]}, "a score of 1 is -0.5"),
        ({"top": [["net", 0.5], ["net", 0.1]]}, "an answer twice, or rising scores"),
        ({"top": [["net", 0.5], ["fence", 0.6]]}, "an answer twice, or rising scores"),
        ({"top": [["fence", 0.5]]}, "begins with ('fence', 0.5), the answer is 'net' with 0.5"),
        ({"top": [["net", 0.75]]}, "begins with ('net', 0.75)"),
        ({"topk": []}, "unknown key 'topk'"),
    ],
)
def test_what_is_wrong_with_a_prediction_is_named(tmp_path, changes, message):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({**GOOD, "uid": "0"}) + "\n" + json.dumps({**GOOD, **changes}))
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        list(read_predictions(path))
    assert str(caught.value).startswith(f"{path}:2: ")


def test_a_uid_comes_once(tmp_path):
    with pytest.raises(DataError, match="uid '9' came before"):
        write_predictions(tmp_path / "p.jsonl", [PREDICTIONS[2], PREDICTIONS[2]])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_read_again_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "p.jsonl"
    write_predictions(path, PREDICTIONS)
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"a score of 1 is 2\.0"):
        write_predictions(path, [Prediction("1", "net", 2.0)])
    other = [Prediction("458752000", "other", 0.5)]
    monkeypatch.setattr(module, "read_predictions", lambda _: iter(other))
    with pytest.raises(DataError, match="line 1 does not read as"):
        write_predictions(path, PREDICTIONS[:1])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "p.jsonl"
    with pytest.raises(DataError, match=r"p\.jsonl: cannot be written"):
        write_predictions(path, PREDICTIONS)


SUBMISSIONS = {
    "vqa": ({"458752000": "net", "7": 'a "b", é'}, None),
    "gqa": ({"202218649": "picture", "00012": "no"}, None),
    "nlvr2": (
        {"test1-0-1-0": "TRUE", "test1-0-0-1": "false"},
        "test1-0-1-0,True\ntest1-0-0-1,False\n",
    ),
}


@pytest.mark.parametrize("task", SUBMISSIONS)
def test_servers_get_their_formats(tmp_path, task):
    answers, text = SUBMISSIONS[task]
    path = tmp_path / "out"
    write_submission(task, path, Answers(tmp_path / "p.jsonl", answers))
    if text is not None:
        assert path.read_text() == text
    keys = {"vqa": ("question_id", "answer"), "gqa": ("questionId", "prediction")}
    if task in keys:
        name, value = keys[task]
        number = int if task == "vqa" else str
        expected = [{name: number(uid), value: answer} for uid, answer in answers.items()]
        assert json.loads(path.read_text()) == expected
    found = read_answers(task, path)
    assert list(found.by_uid) == list(answers)
    assert [a.lower() for a in found.by_uid.values()] == [a.lower() for a in answers.values()]


@pytest.mark.parametrize("task", SUBMISSIONS)
def test_our_file_serves_every_task(tmp_path, task):
    answers, _ = SUBMISSIONS[task]
    write_predictions(tmp_path / "p.jsonl", [Prediction(u, a, 0.5) for u, a in answers.items()])
    assert read_answers(task, tmp_path / "p.jsonl").by_uid == answers


@pytest.mark.parametrize(
    ("task", "uid", "answer", "message"),
    [
        ("vqa", "x1", "net", "'x1' is no question_id of VQA"),
        ("vqa", "007", "net", "'007' is no question_id"),
        ("vqa", "٣", "net", "is no question_id"),
        ("nlvr2", "dev-0-0-0", "yes", "dev-0-0-0: 'yes' is neither True nor False"),
    ],
)
def test_what_a_server_would_refuse_is_not_written(tmp_path, task, uid, answer, message):
    with pytest.raises(DataError, match=re.escape(message)):
        write_submission(task, tmp_path / "out", Answers(tmp_path / "p.jsonl", {uid: answer}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("vqa", "", "holds no predictions"),
        ("vqa", "[]", "holds no predictions"),
        ("vqa", "a,b", "neither our predictions, a JSON object a line, nor the JSON list"),
        ("vqa", '[{"question_id": "1", "answer": "a"}]', "question_id is '1'"),
        ("vqa", '[{"question_id": 1, "answer": 2}]', "question 1: answer is 2, expected text"),
        (
            "vqa",
            '[{"question_id": 1, "answer": "a"},\n{"question_id": 1, "answer": "a"}]',
            ":2: question 1 came",
        ),
        ("gqa", '[{"questionId": 1, "prediction": "a"}]', "questionId is 1, expected text"),
        ("gqa", '[{"questionId": "1"}]', "question 1: prediction is None"),
        ("nlvr2", "dev-0-0-0,True\ndev-0-0-0,True\n", ":2: question dev-0-0-0 came before"),
        ("nlvr2", "dev-0-0-0,1\n", ":1: dev-0-0-0: '1' is neither True nor False"),
        ("nlvr2", "dev-0-0-0\n", "'' is neither True nor False"),
        ("nlvr2", b"dev-0-0-0,True\n\xff\xfe,True,\n", ":2: "),
    ],
)
def test_what_is_wrong_with_a_file_of_answers_is_named(tmp_path, task, text, message):
    path = tmp_path / "p"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_answers(task, path)
    assert str(path) in str(caught.value)


def test_a_submission_that_reads_otherwise_is_not_left(tmp_path, monkeypatch):
    given = Answers(tmp_path / "p.jsonl", {"1": "net"})
    other = Answers(tmp_path / "p.jsonl", {"1": "fence"})
    monkeypatch.setattr(servers, "read_answers", lambda *_: other)
    with pytest.raises(DataError, match="does not read as what was to be written"):
        write_submission("vqa", tmp_path / "out", given)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="nothing: cannot be read"):
        read_answers("vqa", tmp_path / "nothing")


@pytest.mark.parametrize(
    ("task", "text", "ids"),
    [
        ("vqa", '{"questions": [{"question_id": 4, "question": "?"}, {"question_id": 5}]}', "4 5"),
        ("gqa", '{"0012": {"question": "?"}, "3": {}}', "0012 3"),
        (
            "nlvr2",
            '{"identifier": "dev-1-0-0"}\n{"identifier": "dev-1-1-0"}\n',
            "dev-1-0-0 dev-1-1-0",
        ),
    ],
)
def test_questions_need_no_answers(tmp_path, task, text, ids):
    (tmp_path / "q").write_text(text)
    assert list(read_question_ids(task, tmp_path / "q")) == ids.split()


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        (
            "vqa",
            '{"questions": [{"question_id": 4}, {"question_id": 4}]}',
            "question 4 came before",
        ),
        ("vqa", '{"questions": [4]}', "expected an object in 'questions'"),
        ("vqa", '{"annotations": []}', "holds no questions of vqa"),
        ("gqa", '{"1": {}, "1": {}}', "question 1 came before"),
        ("gqa", '{"info": "GQA"}', "'info' is no question"),
        ("nlvr2", '{"identifier": "dev-1"}', "identifier is 'dev-1', expected one such as"),
    ],
)
def test_what_is_wrong_with_questions_is_named(tmp_path, task, text, message):
    (tmp_path / "q").write_text(text)
    with pytest.raises(DataError, match=re.escape(message)):
        list(read_question_ids(task, tmp_path / "q"))


def test_questions_and_predictions_must_belong_together(tmp_path):
    truth, asked = tmp_path / "q", {"1": True, "2": True, "3": False}
    answers = Answers(tmp_path / "p", {"1": "a", "2": "b"})
    check_complete(answers, asked, truth, partial=False)
    some = Answers(tmp_path / "p", {"2": "b"})
    check_complete(some, asked, truth, partial=True)
    with pytest.raises(
        DataError, match=r"1 of 2 questions in .*q have no answer, the first is 1;.*--partial"
    ):
        check_complete(some, asked, truth, partial=False)
    for partial in (False, True):
        other = Answers(tmp_path / "p", {"1": "a", "2": "b", "8": "c"})
        with pytest.raises(DataError, match=r"question 8 is not in .*q, and so are 1 in all"):
            check_complete(other, asked, truth, partial)
        unneeded = Answers(tmp_path / "p", {"3": "c"})
        with pytest.raises(DataError, match="answers none of the 2 questions"):
            check_complete(unneeded, asked, truth, partial)
