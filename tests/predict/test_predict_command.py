"""``launch/predict.py``: one question, a file of them, a store's split; and what can go wrong."""

import json
from pathlib import Path

import pytest
from tiny_predictor import QUESTION, make_export

from lxmert_dist.cli import predict, score, submit
from lxmert_dist.detect import SalientDetector
from lxmert_dist.predict import Predictor
from lxmert_dist.scoring.predictions import read_predictions


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that was made for the detector without training."""
    salient = SalientDetector()
    sizes = {"feature_dim": salient.feature_dim, "num_objects": 4}
    return make_export(tmp_path_factory.mktemp("x") / "export", sizes, detector=salient.name)


@pytest.fixture
def asked(photos, tmp_path):
    """A file of VQA-like questions about the photographs, which lie elsewhere."""
    file = tmp_path / "asked.jsonl"
    entries = [
        {"uid": f"{number}", "image": photos[number % 3].name, "question": text}
        for number, text in enumerate(["ba de", "ba de fi", "lu", "go te", "ba"])
    ]
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return file


def test_one_question(command, weights, photos, tmp_path):
    out = tmp_path / "p.jsonl"
    line = ("--from", weights, "--image", photos[0], "--question", QUESTION, "--out", out)
    code, said, _ = command(predict.main, *line, "--top", 2)
    assert code == 0
    expected = Predictor.load(weights)(photos[0], QUESTION, top=2)
    assert said.splitlines() == [f"{value:.4f}  {answer}" for answer, value in expected.top]
    assert list(read_predictions(out)) == [expected]


def test_a_file_is_answered_scored_and_submitted(command, weights, photos, asked, tmp_path):
    out = tmp_path / "made" / "p.jsonl"
    line = ("--from", weights, "--questions", asked, "--images", photos[0].parent, "--out", out)
    code, said, error = command(predict.main, *line, "--batch", 2)
    assert code == 0, error
    assert f"wrote 5 predictions to {out}; " in said
    assert "5/5" in error, "a bar"
    found = list(read_predictions(out))
    assert [one.uid for one in found] == list("01234")
    assert {len(one.top) for one in found} == {4}
    single = Predictor.load(weights)(photos[1], "ba de fi")
    assert found[1].answer == single.answer
    assert found[1].score == pytest.approx(single.score, abs=1e-6)

    annotations, questions = tmp_path / "a.json", tmp_path / "q.json"
    right = [found[0].answer, found[1].answer, *("nothing of this kind",) * 3]
    people = [
        {
            "question_id": number,
            "image_id": number,
            "question_type": "what",
            "answer_type": "other",
            "answers": [{"answer": answer, "answer_id": i} for i in range(1, 11)],
        }
        for number, answer in enumerate(right)
    ]
    annotations.write_text(json.dumps({"annotations": people}))
    texts = [{"question_id": n, "image_id": n, "question": "ba"} for n in range(5)]
    questions.write_text(json.dumps({"questions": texts}))
    code, table, error = command(
        score.main, "vqa", "--predictions", out, "--annotations", annotations
    )
    assert code == 0, error
    assert "40.00" in table, "two of five are right"
    made = tmp_path / "submit.json"
    line = ("vqa", "--predictions", out, "--questions", questions, "--out", made)
    assert command(submit.main, *line)[0] == 0
    assert json.loads(made.read_text())[0] == {"question_id": 0, "answer": found[0].answer}


def test_a_split(command, tiny_store, tmp_path):
    export = make_export(tmp_path / "export", {"feature_dim": 16})
    out = tmp_path / "p.jsonl"
    line = ["--from", export, "--store", tiny_store, "--split", "valid", "--out", out]
    code, said, error = command(predict.main, *line, "--sources", "questions")
    assert code == 0, error
    found = list(read_predictions(out))
    assert f"wrote {len(found)} predictions" in said
    assert all(one.uid.startswith("valid/") for one in found)
    code, _, error = command(predict.main, *line, "--sources", "riddles")
    assert code == 2
    assert "riddles" in error
    code, _, error = command(predict.main, *line[:-4], "--split", "dev", "--out", out)
    assert code == 1
    assert "no split 'dev'" in error


def test_a_file_that_was_there_stays_when_an_image_is_damaged(command, weights, asked, tmp_path):
    out = tmp_path / "p.jsonl"
    out.write_text("earlier\n")
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    line = ("--from", weights, "--questions", asked, "--out", out)
    code, _, error = command(predict.main, *line)
    assert code == 1
    assert f"{tmp_path / '0.png'}: no image that Pillow can decode" in error
    assert out.read_text() == "earlier\n"
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([], "asked is nothing"),
        (["--image", "a.png"], "--image and --question go together"),
        (["--split", "test"], "--store and --split go together"),
        (["--questions", "q", "--store", "s", "--split", "t"], "--questions and --store"),
        (["--questions", "q"], "--questions needs --out"),
        (["--image", "a", "--question", "b", "--images", "c"], "--images goes with --questions"),
        (["--questions", "q", "--out", "o", "--attention", "d"], "--attention goes with --image"),
        (["--store", "s", "--split", "t", "--detector", "d"], "a --store has features already"),
        (["--store", "s", "--split", "t", "--out", "."], "is a directory"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_opened(command, line, message):
    code, _, error = command(predict.main, "--from", "nowhere", *line)
    assert code == 2
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no questions"),
        ('{"uid": "1", "image": "0.png"}', "q.jsonl:1: question is None"),
        ('{"uid": "1", "image": "0.png", "question": " "}', "q.jsonl:1: question is ' '"),
        ('{"uid": 1, "image": "0.png", "question": "ba"}', "q.jsonl:1: uid is 1"),
        ('{"uid": "1", "image": "9.png", "question": "ba"}', "there is no image"),
        ('{"uid": "1", "image": "0.png", "question": "ba", "sex": 1}', "unknown key 'sex'"),
        ('{"uid": "1", "image": "0.png", "question": "ba"}\n' * 2, "q.jsonl:2: uid '1' came"),
        ("[]", "q.jsonl:1"),
    ],
)
def test_wrong_questions(command, photos, tmp_path, text, message):
    file = tmp_path / "q.jsonl"
    file.write_text(text)
    line = ("--questions", file, "--images", photos[0].parent, "--out", tmp_path / "p.jsonl")
    code, _, error = command(predict.main, "--from", "nowhere", *line)
    assert code == 1
    assert message in error
    assert not (tmp_path / "p.jsonl").exists()


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as ended:
        predict.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for word in ("examples:", "--attention", "--max-tokens", "notebook"):
        assert word in said
