"""``launch/convert.py`` from a run to every format, and what it says of mistakes."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoTokenizer, LxmertForPreTraining

from lxmert_dist.cli import convert
from lxmert_dist.train.checkpoint import find
from runs import ROOT, environment, pretrain
from tiny_store import ANSWERS
from tiny_weights import released


@pytest.fixture(scope="module")
def run(tiny_store, tmp_path_factory):
    """The directory of a run of four steps."""
    directory = tmp_path_factory.mktemp("run")
    pretrain(directory, tiny_store, "train.max_steps=4")
    return directory


def attempt(capsys, *arguments):
    code = convert.main([str(argument) for argument in arguments])
    return code, capsys.readouterr()


def test_a_run_as_a_user_converts_it(run, tmp_path):
    out = tmp_path / "export"
    line = [sys.executable, str(ROOT / "launch" / "convert.py"), "--from", str(run)]
    done = subprocess.run(
        [*line, "--to", "huggingface", "--out", str(out)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1/1/1 layers, width 32, 2 heads" in done.stdout
    assert "answers     4 rows, named" in done.stdout
    assert "difference  at most" in done.stdout
    model = LxmertForPreTraining.from_pretrained(out)
    weights = find(str(run)).tensors("weights")
    assert torch.equal(model.answer_head.logit_fc[3].weight, weights["answer_head.decoder.weight"])
    assert list(model.config.id2label.values()) == ANSWERS
    assert len(AutoTokenizer.from_pretrained(out)) == 65, "the tokenizer of the run's store"
    assert {"README.md", "conversion.json", "answers.json"} <= {p.name for p in out.iterdir()}


def test_a_checkpoint_to_an_export_and_on(run, tmp_path, capsys):
    first, second = tmp_path / "ours", tmp_path / "released"
    step = find(str(run)).uri
    code, said = attempt(capsys, "--from", step, "--to", "lxmert_dist", "--out", first)
    assert code == 0, said.err
    description = json.loads((first / "model.json").read_text())
    assert description["answers"] == ANSWERS
    assert description["source"] == "step 4 of run easy_vqa"
    code, said = attempt(capsys, "--from", first, "--to", "lxmert", "--out", second)
    assert code == 0, said.err
    assert "tokenizer   " in said.out
    assert "none is included" not in said.out
    tensors = torch.load(second / "model_LXRT.pth", weights_only=True)
    ours = find(str(run)).tensors("weights")
    table = "module.bert.embeddings.word_embeddings.weight"
    assert torch.equal(tensors[table], ours["model.text_embedding.word.weight"])


def test_mistakes_are_one_line(pretraining, save, tmp_path, capsys):
    file, out = save(released(pretraining)), tmp_path / "out"
    evil = tmp_path / "evil.pth"
    evil.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    for arguments, code, message in (
        (("--from", tmp_path / "no", "--out", out), 1, "nothing at"),
        (("--from", "memory://no", "--out", out), 1, "must lie on a disk"),
        (("--from", file, "--out", "memory://there"), 2, "not a local directory"),
        (("--from", file, "--out", out), 1, "give --num-heads"),
        (("--from", file, "--out", out, "--num-heads", "0"), 2, "count from 1"),
        (("--from", file, "--out", tmp_path, "--num-heads", "4"), 2, "exists already"),
        (("--from", evil, "--out", out), 1, "written neither by"),
    ):
        ended, said = attempt(capsys, "--to", "lxmert", *arguments)
        assert ended == code, said
        assert message in said.err
        assert len(said.err.strip().splitlines()) <= 2
        assert "Traceback" not in said.err
    assert not out.exists()
    with pytest.raises(SystemExit) as ended:
        convert.main(["--from", "x", "--to", "tensorflow", "--out", "y"])
    assert ended.value.code == 2


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as ended:
        convert.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "examples:" in said
    assert "--set init=" in said
