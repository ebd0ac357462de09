"""Every figure is the official script's, to the last digit that it tells."""

import json

import official_scorers
import pytest

from lxmert_dist.scoring.gqa import score_gqa
from lxmert_dist.scoring.nlvr2 import score_nlvr2
from lxmert_dist.scoring.result import ALL
from lxmert_dist.scoring.servers import read_answers
from lxmert_dist.scoring.vqa import score_vqa, vqa_percent
from lxmert_dist.scoring.vqa_answers import normalise_vqa_answer, vqa_accuracy

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def record():
    return json.loads(official_scorers.RECORD.read_text())


def percents(figures):
    return {name: figure.percent for name, figure in figures.items()}


def files(place, **contents):
    """Each in a file; a string as it is, anything else as JSON."""
    paths = []
    for name, content in contents.items():
        path = place / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        paths.append(path)
    return paths


def check_vqa(place, case, said):
    assert [normalise_vqa_answer(text) for text in case["strings"]] == said["strings"]
    entries = case["annotations"]["annotations"]
    found = {
        str(entry["question_id"]): vqa_percent([vqa_accuracy(entry["answers"], result["answer"])])
        for entry, result in zip(entries, case["results"], strict=True)
    }
    assert found == said["questions"]
    results, annotations = files(place, r=case["results"], a=case["annotations"])
    result = score_vqa(read_answers("vqa", results), annotations)
    assert percents(result.parts[ALL]) == {"accuracy": said["accuracy"]["overall"]}
    assert percents(result.parts["answer type"]) == said["accuracy"]["perAnswerType"]
    assert percents(result.parts["question type"]) == said["accuracy"]["perQuestionType"]


def check_gqa(place, case, said):
    paths = files(place, p=case["predictions"], q=case["questions"], c=case["choices"])
    predictions, questions, choices = paths
    result = score_gqa(read_answers("gqa", predictions), questions, choices)
    names = ("accuracy", "binary", "open", "consistency", "validity", "plausibility")
    assert percents(result.parts[ALL]) == {name: said[name] for name in names}
    assert result.statistics == {"distribution": said["distribution"]}
    long = {"attr": "attribute", "cat": "category", "global": "scene", "obj": "object"}
    for part, name in (
        ("structural type", "accuracyPerStructuralType"),
        ("semantic type", "accuracyPerSemanticType"),
        ("steps", "accuracyPerSteps"),
        ("words", "accuracyPerLength"),
    ):
        found = {key: [f.percent, len(f.scores)] for key, f in result.parts[part].items()}
        expected = {
            {**long, "rel": "relation"}.get(key, key): list(value)
            for key, value in said[name].items()
        }
        assert found == expected


def check_nlvr2(place, case, said):
    lines = "".join(f"{uid},{answer}\n" for uid, answer in case["predictions"].items())
    examples = "".join(json.dumps(example) + "\n" for example in case["examples"])
    predictions, labels = files(place, p=lines, l=examples)
    result = score_nlvr2(read_answers("nlvr2", predictions), labels)
    assert percents(result.parts[ALL]) == {name: 100 * share for name, share in said.items()}


CHECKS = {"vqa": check_vqa, "gqa": check_gqa, "nlvr2": check_nlvr2}


@pytest.mark.parametrize("task", CHECKS)
def test_the_record_of_the_official_scripts_is_met(record, tmp_path, task):
    CHECKS[task](tmp_path, record["cases"][task], record["said"][task])


@pytest.mark.skipif(not official_scorers.SCRIPTS, reason="OFFICIAL_SCORERS names no scripts")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("task", CHECKS)
def test_the_official_scripts_say_the_same_now(tmp_path, task, seed):
    case = official_scorers.draw_cases(seed, size=400)[task]
    CHECKS[task](tmp_path, case, getattr(official_scorers, task)(case))
