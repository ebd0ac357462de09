"""``launch/score.py`` and ``launch/submit.py``: the table, the file, the errors."""

import json

import mlflow
import pytest

from lxmert_dist.cli import score, submit

EXAMPLES = [("dev-1-0-0", "True"), ("dev-1-1-0", "False"), ("dev-2-0-0", "True")]
RIGHT = {"True": "True", "False": "True"}
"""What is predicted for each label: two of three are right."""


@pytest.fixture
def files(tmp_path):
    """NLVR2's examples, and predictions of ours for them."""
    labels, predictions = tmp_path / "dev.json", tmp_path / "p.jsonl"
    lines = [json.dumps({"identifier": uid, "label": label}) for uid, label in EXAMPLES]
    labels.write_text("\n".join(lines))
    answers = [{"uid": u, "answer": RIGHT[label], "score": 0.75} for u, label in EXAMPLES]
    predictions.write_text("\n".join(map(json.dumps, answers)))
    return ["--predictions", predictions], labels, tmp_path


def words(line):
    return " ".join(line.split())


def test_figures_are_shown_and_written(command, files):
    predictions, labels, place = files
    out = place / "out" / "score.json"
    line = ["nlvr2", *predictions, "--annotations", labels, "--bootstrap", 200, "--json", out]
    code, said, error = command(score.main, *line)
    assert (code, error) == (0, "")
    heading, accuracy, consistency = said.splitlines()
    assert words(heading) == "all questions per cent count 95 % interval"
    # One set of images has a wrong example, the other none; a quarter of the draws has one alone.
    assert words(accuracy) == "accuracy 66.67 3 50.00 to 100.00"
    assert words(consistency) == "consistency 50.00 2 0.00 to 100.00"
    written = json.loads(out.read_text())
    assert written["parts"]["all questions"]["accuracy"] == {
        "percent": 100 * (2 / 3),
        "count": 3,
        "low": 50.0,
        "high": 100.0,
    }
    assert written["task"] == "nlvr2"
    assert (written["bootstrap"], written["seed"], written["partial"]) == (200, 0, False)


def test_no_intervals_unless_they_are_asked_for(command, files):
    predictions, labels, place = files
    out = place / "score.json"
    code, said, _ = command(score.main, "nlvr2", *predictions, "--questions", labels, "--json", out)
    assert code == 0
    assert "interval" not in said
    figure = json.loads(out.read_text())["parts"]["all questions"]["accuracy"]
    assert figure.keys() == {"percent", "count"}


def test_statistics_and_notes_are_told(command, tmp_path):
    question = {
        "imageId": "7",
        "question": "What is it?",
        "answer": "dog",
        "isBalanced": True,
        "types": {"structural": "query", "semantic": "obj", "detailed": "x"},
        "semantic": [],
        "entailed": [],
        "groups": {"global": "animal"},
    }
    (tmp_path / "q.json").write_text(json.dumps({"1": question}))
    (tmp_path / "c.json").write_text(json.dumps({"1": {"valid": ["cat"], "plausible": []}}))
    (tmp_path / "p.json").write_text(json.dumps([{"questionId": "1", "prediction": "cat"}]))
    line = ["gqa", "--predictions", tmp_path / "p.json", "--questions", tmp_path / "q.json"]
    code, said, _ = command(score.main, *line)
    assert code == 0
    assert "distribution 0.01" in map(words, said.splitlines())
    assert "note: validity and plausibility need the file of choices (--choices)" in said
    assert "note: consistency needs a right answer" in said
    code, said, _ = command(score.main, *line, "--choices", tmp_path / "c.json")
    assert code == 0
    lines = [words(line) for line in said.splitlines()]
    assert {"validity 100.00 1", "plausibility 0.00 1"} < set(lines)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--choices", "c.json"], 2, "--choices goes with gqa; leave it out for nlvr2"),
        (["--bootstrap", -1], 2, "--bootstrap counts from 0"),
        (["--seed", -1], 2, "--seed counts from 0"),
        (["--json", "{place}/dev.json/out"], 1, "dev.json/out: cannot be written"),
    ],
)
def test_wrong_options_are_named(command, files, options, code, message):
    predictions, labels, place = files
    options = [str(option).format(place=place) for option in options]
    line = ["nlvr2", *predictions, "--annotations", labels, *options]
    found, _, error = command(score.main, *line)
    assert found == code
    assert message in error


def test_missing_answers_are_named_unless_they_are_allowed(command, files):
    predictions, labels, _ = files
    path = predictions[1]
    path.write_text(path.read_text().partition("\n")[0])
    line = ["nlvr2", *predictions, "--annotations", labels]
    code, said, error = command(score.main, *line)
    assert (code, said) == (1, "")
    assert f"{path}: 2 of 3 questions in {labels} have no answer, the first is dev-1-1-0" in error
    code, said, _ = command(score.main, *line, "--partial")
    assert code == 0
    assert "accuracy 100.00 1" in map(words, said.splitlines())


def test_what_the_server_gets_scores_the_same(command, files):
    predictions, labels, place = files
    out = place / "submit.csv"
    code, said, _ = command(submit.main, "nlvr2", *predictions, "--questions", labels, "--out", out)
    assert (code, said) == (0, f"wrote 3 answers to {out}\n")
    assert out.read_text() == "dev-1-0-0,True\ndev-1-1-0,True\ndev-2-0-0,True\n"
    expected = command(score.main, "nlvr2", *predictions, "--annotations", labels)
    assert command(score.main, "nlvr2", "--predictions", out, "--annotations", labels) == expected


def test_a_server_gets_all_answers_unless_one_says_otherwise(command, files):
    predictions, labels, place = files
    labels.write_text(labels.read_text() + '\n{"identifier": "dev-9-0-0"}\n')
    out = place / "submit.csv"
    line = ["nlvr2", *predictions, "--questions", labels, "--out", out]
    code, _, error = command(submit.main, *line)
    assert code == 1
    assert "the first is dev-9-0-0" in error
    assert not out.exists()
    assert command(submit.main, *line, "--partial")[0] == 0
    assert out.exists()


@pytest.mark.parametrize("main", [score.main, submit.main])
def test_help_shows_examples(capsys, main):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    for task in ("vqa", "gqa", "nlvr2"):
        assert f".py {task} --predictions" in said


def test_figures_are_added_to_a_run_of_mlflow(command, files):
    predictions, labels, place = files
    uri = f"sqlite:///{place / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("e", (place / "artifacts").as_uri())
    run_id = client.create_run(experiment, run_name="nlvr2").info.run_id
    line = ["nlvr2", *predictions, "--annotations", labels, "--tracking-uri", uri, "--run-id"]
    assert command(score.main, *line, run_id)[0] == 0
    assert client.get_run(run_id).data.metrics == {
        "score/nlvr2/all questions/accuracy": pytest.approx(100 * 2 / 3),
        "score/nlvr2/all questions/consistency": 50.0,
    }
    kept = (place / "artifacts" / run_id / "artifacts" / "score-nlvr2.json").read_text()
    assert json.loads(kept)["parts"]["all questions"]["accuracy"]["count"] == 3
    code, _, error = command(score.main, *line, "unknown")
    assert code == 2
    assert "has no run unknown; check the id and the URI" in error
