"""Answer heads move row by row, by what the answers say."""

import json

import pytest
import torch

from lxmert_dist.interop.answers import read_answers
from lxmert_dist.interop.source import Guess, of_path, of_run
from lxmert_dist.tasks.transfer import TransferReport, match_answers
from lxmert_dist.tasks.weights import open_export
from tiny_weights import ANSWERS, released, worst

TARGET = ["Three", "a circle", "purple", "Grey.", "yes", *(f"new {i}" for i in range(10))]
ROWS = {0: 2, 1: 3, 3: 4, 4: 0}


@pytest.fixture
def tables(tmp_path):
    source, target = tmp_path / "all_ans.json", tmp_path / "label2ans.json"
    source.write_text(json.dumps([{"ans": answer, "dsets": ["vqa"]} for answer in ANSWERS]))
    target.write_text(json.dumps(TARGET))
    return source, target


@pytest.mark.parametrize("to", ["huggingface", "lxmert", "lxmert_dist"])
def test_a_head_in_another_order(pretraining, save, turn, tables, to):
    source, target = tables
    out, conversion = turn(save(released(pretraining)), to, answers=source, target_answers=target)
    reopened = of_run(open_export(str(out))) if to == "lxmert_dist" else None
    if to == "lxmert":
        reopened = of_path(out / "model_LXRT.pth", Guess(4))
        assert read_answers(out / "answers.json") == TARGET
    opened = (reopened or of_path(out, Guess())).weights
    old = pretraining.answer_head.logit_fc[3]
    for kind, expected in (("weight", old.weight), ("bias", old.bias)):
        found = opened.tensors[f"answer_head.decoder.{kind}"]
        for row in range(len(TARGET)):
            is_known = row in ROWS
            wanted = expected[ROWS[row]] if is_known else torch.zeros_like(expected[0])
            assert torch.equal(found[row], wanted), (kind, row)
    if to != "lxmert":
        assert list(opened.description.answers) == TARGET
    report = "\n".join(conversion.lines())
    assert "4 of 15 found by name; without: 'purple', 'new 0'" in report
    assert "and 3 more" in report
    told = json.loads((out / "conversion.json").read_text())
    assert told["missing_answers"] == ["purple", *(f"new {i}" for i in range(10))]
    assert "4 of 15 found" in (out / "README.md").read_text()
    assert worst(conversion) < 5e-6  # worst measured: 1.2e-7


def test_rows_without_names_are_told(pretraining, save, turn):
    _, conversion = turn(save(released(pretraining)), "lxmert_dist")
    assert "7 rows without names" in "\n".join(conversion.lines())


def test_answers_are_matched_once_normalised():
    assert match_answers(ANSWERS, TARGET) == ROWS
    assert match_answers([], TARGET) == {}


def test_the_report_of_a_start():
    report = TransferReport(
        copied=("model.pooler.dense.weight",),
        fresh=("answer_head.decoder.weight", "answer_head.decoder.bias"),
        unused=("matching_head.decoder.bias",),
        copied_answers=1,
        missing_answers=("yes",),
    )
    assert list(report.lines()) == [
        "parameters: 1 taken over, 2 start fresh",
        "fresh: answer_head.decoder (2)",
        "not used: matching_head.decoder",
        "answers: 1 of 2 found by name; without: 'yes'",
    ]
