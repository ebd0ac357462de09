"""The rules of each task on cases worked out by hand, and what is refused."""

import json
import re

import pytest

from lxmert_dist.errors import DataError
from lxmert_dist.scoring.gqa import score_gqa
from lxmert_dist.scoring.nlvr2 import score_nlvr2
from lxmert_dist.scoring.predictions import Answers
from lxmert_dist.scoring.result import ALL
from lxmert_dist.scoring.vqa import score_vqa, vqa_percent
from lxmert_dist.scoring.vqa_answers import normalise_vqa_answer, vqa_accuracy


def people(*answers, ids=True):
    return [{"answer": a, **({"answer_id": n} if ids else {})} for n, a in enumerate(answers, 1)]


@pytest.mark.parametrize("n", range(11))
def test_ten_people_give_five_accuracies(n):
    given = people(*["Net."] * n, *[f"x{i}" for i in range(10 - n)])
    predicted = "net" if n < 10 else "Net."
    expected = {0: 0.0, 1: 0.3, 2: 0.6, 3: 0.9}.get(n, 1.0)
    assert vqa_accuracy(given, predicted) == pytest.approx(expected, abs=1e-12)


def test_nothing_is_normalised_where_all_agree():
    assert vqa_accuracy(people(*[" yes\n"] * 10), "yes") == 1
    assert vqa_accuracy(people(*["yes"] * 10), "Yes") == 0
    assert vqa_accuracy(people(*["yes"] * 9, "no"), "Yes.") == 1


def test_people_with_equal_records_are_left_out_together():
    # Each of the three leaves all three out and finds none that agrees; the others find three.
    given = [*["net"] * 3, *(f"x{i}" for i in range(7))]
    assert vqa_accuracy(people(*given, ids=False), "net") == pytest.approx(0.7)
    assert vqa_accuracy(people(*given), "net") == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("." * 40 + "a", "." * 8 + "a"),
        ("1,000.", "1000"),
        ("1٣,٣", "1٣ ٣"),
        (".٣", "٣"),
        (".3", ".3"),
    ],
)
def test_rules_of_the_official_script_that_are_easily_lost(given, expected):
    assert normalise_vqa_answer(given) == expected


def test_halves_are_rounded_away_from_zero():
    assert vqa_percent([1.0] + [0.0] * 7) == 12.5
    assert vqa_percent([1.0] + [0.0] * 31) == 3.13  # 3.125; round() makes it 3.12


def annotation(number, answers, **changes):
    return {
        "question_id": number,
        "image_id": number // 10,
        "question_type": "what is",
        "answer_type": "other",
        "answers": people(*answers),
        **changes,
    }


MANY = ["net"] * 8 + ["netting"] * 2


@pytest.fixture
def vqa(tmp_path):
    """Scores answers by the annotations that are given; without an error if that is a Result."""

    def vqa(answers, *entries, **settings):
        (tmp_path / "a.json").write_text(json.dumps({"annotations": entries}))
        return score_vqa(Answers(tmp_path / "p", answers), tmp_path / "a.json", **settings)

    return vqa


def told(figures):
    return {name: (figure.percent, len(figure.scores)) for name, figure in figures.items()}


def test_vqa_is_told_by_type(vqa):
    entries = [
        annotation(10, MANY),
        annotation(11, MANY, answer_type="number"),
        annotation(20, MANY, question_type="how many", answer_type="number"),
    ]
    result = vqa({"10": "a net", "11": "netting", "20": "mesh"}, *entries)
    assert told(result.parts[ALL]) == {"accuracy": (53.33, 3)}
    assert told(result.parts["answer type"]) == {"number": (30.0, 2), "other": (100.0, 1)}
    assert list(result.parts["answer type"]) == ["number", "other"]  # by name: other came first
    assert told(result.parts["question type"]) == {"how many": (0.0, 1), "what is": (80.0, 2)}
    assert result.parts[ALL]["accuracy"].clusters == [1, 1, 2]
    assert not result.notes


def test_partial_predictions_are_scored_if_one_says_so(vqa):
    entries = [annotation(10, MANY), annotation(11, MANY)]
    with pytest.raises(DataError, match=r"1 of 2 questions in .*a\.json have no answer, .* 11;"):
        vqa({"10": "net"}, *entries)
    assert told(vqa({"10": "net"}, *entries, partial=True).parts[ALL]) == {"accuracy": (100.0, 1)}


def test_annotations_need_no_types_and_no_images(vqa):
    bare = annotation(11, MANY)
    for key in ("image_id", "answer_type", "question_type"):
        del bare[key]
    result = vqa({"10": "net", "11": "net"}, annotation(10, MANY), bare)
    assert list(result.parts) == [ALL]
    assert [note for note in result.notes if "question 11 has no" in note] == list(result.notes)
    assert len(result.notes) == 3
    assert result.parts[ALL]["accuracy"].clusters == [1, "question 11"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question_id": "11"}, "question_id is '11'"),
        ({"question_id": 10}, "question_id 10 came before"),
        ({"image_id": None}, "image_id of question 11 is None"),
        ({"answer_type": 3}, "answer_type of question 11 is 3, expected text"),
        ({"answers": people(*MANY[:9])}, "question 11 has 9 answers, VQA counts those of 10"),
        ({"answers": people(*MANY, "net")}, "question 11 has 11 answers"),
        ({"answers": MANY}, "answers of question 11 are no"),
        ({"answers": None}, "answers of question 11 are no"),
        ({"answers": [{"answer": 3}] * 10}, "answers of question 11 are no"),
    ],
)
def test_what_is_wrong_with_annotations_is_named(vqa, tmp_path, changes, message):
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        vqa({"10": "net", "11": "net"}, annotation(10, MANY), annotation(11, MANY) | changes)
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'}:1: ")


def test_another_file_is_no_annotations(vqa, tmp_path):
    with pytest.raises(DataError, match="holds no"):
        vqa({"10": "net"})
    (tmp_path / "q.json").write_text('{"annotations": [3]}')
    with pytest.raises(DataError, match="expected an object in 'annotations'"):
        score_vqa(Answers(tmp_path / "p", {"1": "a"}), tmp_path / "q.json")


def question(answer, structural="query", **changes):
    return {
        "imageId": "7",
        "question": "What is it?",
        "answer": answer,
        "isBalanced": True,
        "types": {"structural": structural, "semantic": "rel", "detailed": "relS"},
        "semantic": [{"operation": "select", "dependencies": [], "argument": "dog (1)"}],
        "entailed": [],
        "groups": {"global": "thing"},
        **changes,
    }


@pytest.fixture
def gqa(tmp_path):
    """Scores answers by questions, and by choices if there are any."""

    def gqa(answers, questions, choices=None, **settings):
        (tmp_path / "q.json").write_text(json.dumps(questions))
        path = None
        if choices is not None:
            path = tmp_path / "c.json"
            path.write_text(json.dumps(choices))
        answers = Answers(tmp_path / "p", answers)
        return score_gqa(answers, tmp_path / "q.json", path, **settings)

    return gqa


GQA = {
    "a": question("dog", entailed=["a", "b", "u"]),
    "b": question("yes", "verify", imageId="8", groups={"global": None}, entailed=["a"]),
    "c": question("cat"),
    "u": question("no", "verify", isBalanced=False),
}


def test_gqa_counts_balanced_questions(gqa):
    result = gqa({"a": "dog", "b": "no", "c": "dog", "u": "no"}, GQA)
    # Right is a alone, from which b (wrong) and u (right) follow.
    assert told(result.parts[ALL]) == {
        "accuracy": (pytest.approx(100 / 3), 3),
        "binary": (0.0, 1),
        "open": (50.0, 2),
        "consistency": (50.0, 1),
    }
    assert told(result.parts["structural type"]) == {"query": (50.0, 2), "verify": (0.0, 1)}
    assert told(result.parts["semantic type"]) == {"relation": (pytest.approx(100 / 3), 3)}
    # Of "thing", dog is right once and was said twice, cat was right once and never said.
    assert result.statistics == {"distribution": 0.02}


def test_consistency_needs_answers_to_what_follows(gqa):
    result = gqa({"a": "dog", "b": "no", "c": "dog"}, GQA)
    assert "consistency" not in result.parts[ALL]
    assert any("u has none (1 in all)" in note for note in result.notes)
    result = gqa({"a": "x", "b": "no", "c": "dog"}, GQA)
    assert any("a right answer from which another follows" in note for note in result.notes)


def test_choices_give_validity_and_plausibility(gqa):
    common = {"structural": "compare", "semantic": "attr", "detailed": "twoCommon"}
    questions = {**GQA, "d": question("color", types=common)}
    choices = {uid: {"valid": ["dog", "cat"], "plausible": ["cat"]} for uid in questions}
    result = gqa({"a": "dog", "b": "no", "c": "cat", "d": "shape"}, questions, choices)
    assert told(result.parts[ALL])["validity"] == (75.0, 4)
    assert told(result.parts[ALL])["plausibility"] == (50.0, 4)


@pytest.mark.parametrize(
    ("operations", "steps"),
    [
        ([("select", "dog (1)"), ("query", "name")], "1"),
        ([("select", "dog (1)"), ("query", "color")], "2"),
        ([("select", "dog (1)"), ("choose color", "red|blue")], "2"),
        ([("select", "existing (2)"), ("exist", "?"), ("choose name", "a|b")], "0"),
    ],
)
def test_steps_are_those_of_reasoning(gqa, operations, steps):
    named = [{"operation": operation, "argument": argument} for operation, argument in operations]
    result = gqa({"a": "dog"}, {"a": question("dog", semantic=named)})
    assert list(result.parts["steps"]) == [steps]
    assert list(result.parts["words"]) == ["3"]


def test_groups_may_be_missing(gqa):
    result = gqa({"b": "yes"}, {"b": GQA["b"]})
    assert result.statistics == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"answer": None},
        {"imageId": 7},
        {"isBalanced": 1},
        {"types": {"structural": "query"}},
        {"semantic": ["select"]},
        {"entailed": [1]},
        {"groups": {}},
        {"question": None},
    ],
)
def test_what_a_question_lacks_is_told(gqa, changes):
    with pytest.raises(DataError, match=r"q\.json:1: question 'a' lacks what it is scored by"):
        gqa({"a": "dog"}, {"a": question("dog") | changes})


def test_files_of_gqa_must_belong_together(gqa, tmp_path):
    with pytest.raises(DataError, match=r"2 of 3 questions in .* have no answer, the first is b"):
        gqa({"a": "dog", "u": "no"}, GQA)
    partial = gqa({"a": "dog", "u": "no"}, GQA, partial=True)
    assert told(partial.parts[ALL])["accuracy"] == (100.0, 1)
    with pytest.raises(
        DataError, match=r"c\.json: has no choices for question a, and for 1 in all"
    ):
        gqa({"a": "dog"}, {"a": question("dog")}, {"b": {"valid": [], "plausible": []}})
    with pytest.raises(DataError, match="choices of question 'a' lack valid or plausible"):
        gqa({"a": "dog"}, {"a": question("dog")}, {"a": {"valid": []}})
    text = json.dumps({"a": question("dog"), "b": question("dog")}).replace('"b": {', '"a": {')
    (tmp_path / "twice.json").write_text(text)
    with pytest.raises(DataError, match="question 'a' came before"):
        score_gqa(Answers(tmp_path / "p", {"a": "dog"}), tmp_path / "twice.json")


@pytest.fixture
def nlvr2(tmp_path):
    """Scores answers by lines of examples."""

    def nlvr2(answers, *examples, **settings):
        (tmp_path / "e.json").write_text("".join(json.dumps(e) + "\n" for e in examples))
        return score_nlvr2(Answers(tmp_path / "p", answers), tmp_path / "e.json", **settings)

    return nlvr2


def example(uid, label="True"):
    return {"identifier": uid, "label": label, "sentence": "It is a dog."}


def test_nlvr2_is_consistent_by_sentence(nlvr2):
    examples = [example(f"dev-{uid}") for uid in ("1-0-0", "1-1-0", "1-0-1", "2-0-0")]
    answers = {"dev-1-0-0": "true", "dev-1-1-0": "False", "dev-1-0-1": "TRUE", "dev-2-0-0": "True"}
    result = nlvr2(answers, *examples)
    assert told(result.parts[ALL]) == {
        "accuracy": (75.0, 4),
        "consistency": (pytest.approx(200 / 3), 3),
    }
    assert result.parts[ALL]["consistency"].clusters == ["dev-1", "dev-1", "dev-2"]
    del answers["dev-1-1-0"]
    with pytest.raises(DataError, match="the first is dev-1-1-0"):
        nlvr2(answers, *examples)
    partial = nlvr2(answers, *examples, partial=True)
    assert told(partial.parts[ALL]) == {"accuracy": (100.0, 3), "consistency": (100.0, 3)}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"identifier": "dev-1-0", "label": "True"}, "identifier is 'dev-1-0'"),
        ({"identifier": 3, "label": "True"}, "identifier is 3"),
        (example("dev-1-0-0"), "identifier dev-1-0-0 came before"),
        ({"identifier": "dev-1-1-0"}, "label of dev-1-1-0 is None; name a file with labels"),
        (example("dev-1-1-0", "yes"), "label of dev-1-1-0: 'yes' is neither True nor False"),
    ],
)
def test_what_is_wrong_with_an_example_is_named(nlvr2, tmp_path, line, message):
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        nlvr2({"dev-1-0-0": "True", "dev-1-1-0": "True"}, example("dev-1-0-0"), line)
    assert str(caught.value).startswith(f"{tmp_path / 'e.json'}:2: ")


def test_an_answer_that_is_no_truth_is_named(nlvr2, tmp_path):
    with pytest.raises(DataError, match=r"p: answer to dev-1-0-0: 'net' is neither"):
        nlvr2({"dev-1-0-0": "net"}, example("dev-1-0-0"))
