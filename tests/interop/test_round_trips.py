"""Weights through every format and back: the same bits, and the same outputs."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForQuestionAnswering,
    LxmertForPreTraining,
    LxmertForQuestionAnswering,
    LxmertModel,
)

from lxmert_dist.errors import ConfigError
from lxmert_dist.interop.source import Guess, of_path, of_run
from lxmert_dist.tasks.weights import open_export
from tiny_weights import fine_tuned, released, theirs, two_images, worst

pytestmark = pytest.mark.parity

USUAL = 5e-6
"""Between two implementations, relative to the largest value.

Worst measured: 2.4e-6 for BERT, 0 for these small LXMERTs; 2.0e-7 for a random one of 9/5/5 layers.
"""


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("old_file", [False, True])
def test_a_released_snapshot_through_every_format(pretraining, save, turn, prefix, old_file):
    file = save(released(pretraining, prefix), _use_new_zipfile_serialization=not old_file)
    ours, first = turn(file, "lxmert_dist")
    assert first.num_tensors == len(pretraining.state_dict())
    assert first.num_parameters == sum(p.numel() for p in pretraining.parameters())
    hugging_face, second = turn(of_run(open_export(str(ours))), "huggingface")
    back, third = turn(hugging_face, "lxmert")
    assert equal(torch.load(back / "model_LXRT.pth"), released(pretraining, "module."))
    for conversion in (first, second, third):
        assert 0 <= worst(conversion) < USUAL
        assert len(conversion.differences) == 9
    opened = LxmertForPreTraining.from_pretrained(hugging_face)
    assert equal(opened.state_dict(), pretraining.state_dict())
    apart = load_file(back / "model_LXRT.safetensors")
    assert equal(
        apart
        | {
            "module.cls.predictions.decoder.weight": apart[
                "module.bert.embeddings.word_embeddings.weight"
            ]
        },
        torch.load(back / "model_LXRT.pth"),
    )


@pytest.mark.parametrize("inside", ["lxrt_encoder.model.", "lxrt_encoder.model.module."])
def test_a_fine_tuned_snapshot(answering, save, turn, inside):
    file = save(fine_tuned(answering, inside), "BEST.pth")
    ours, first = turn(file, "lxmert_dist")
    assert first.description.kind == "answering"
    hugging_face, second = turn(of_run(open_export(str(ours))), "huggingface")
    opened = LxmertForQuestionAnswering.from_pretrained(hugging_face)
    assert equal(opened.state_dict(), answering.state_dict())
    back, third = turn(hugging_face, "lxmert")
    assert equal(torch.load(back / "BEST.pth"), fine_tuned(answering))
    assert all("image_qa" in c.differences for c in (first, second, third))
    assert max(worst(c) for c in (first, second, third)) < USUAL


def test_nlvr2(save, turn):
    tensors = two_images()
    file = save(tensors, "BEST.pth")
    ours, first = turn(file, "lxmert_dist")
    assert first.description.kind == "pair"
    assert worst(first) < USUAL
    assert "pair" in first.differences
    back, _ = turn(of_run(open_export(str(ours))), "lxmert")
    assert equal(torch.load(back / "BEST.pth"), tensors)
    with pytest.raises(ConfigError, match="no class for NLVR2"):
        turn(file, "huggingface")


@pytest.mark.parametrize("shape", ["safetensors", "bin", "shards"])
def test_directories_of_hugging_face(pretraining, tmp_path, turn, shape):
    source = tmp_path / "source"
    pretraining.save_pretrained(source, max_shard_size="10KB" if shape == "shards" else "1GB")
    if shape == "shards":
        assert len(list(source.glob("*.safetensors"))) > 2
    if shape == "bin":
        (source / "model.safetensors").unlink()
        torch.save(pretraining.state_dict(), source / "pytorch_model.bin")
    out, conversion = turn(source, "huggingface")
    assert equal(LxmertForPreTraining.from_pretrained(out).state_dict(), pretraining.state_dict())
    assert worst(conversion) == 0, "twice the same code"


def test_the_backbone_alone(tmp_path, turn):
    model = theirs(LxmertModel)
    model.save_pretrained(tmp_path / "source")
    ours, first = turn(tmp_path / "source", "lxmert_dist")
    assert first.description.kind == "backbone"
    out, second = turn(of_run(open_export(str(ours))), "huggingface")
    assert equal(LxmertModel.from_pretrained(out).state_dict(), model.state_dict())
    assert max(worst(first), worst(second)) < USUAL


def test_half_precision_is_widened(pretraining, tmp_path, turn):
    halves = {name: tensor.half() for name, tensor in released(pretraining).items()}
    halves.pop("cls.predictions.decoder.weight")
    save_file(halves, tmp_path / "half.safetensors")
    ours, _ = turn(tmp_path / "half.safetensors", "lxmert_dist")
    tensors = load_file(ours / "weights.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    word = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(tensors["model.text_embedding.word.weight"], halves[word].float())


def test_a_model_without_answers(turn, tmp_path):
    theirs(LxmertForPreTraining, task_qa=False).save_pretrained(tmp_path / "source")
    ours, first = turn(tmp_path / "source", "lxmert_dist")
    assert "num_answers" not in first.description.sizes
    out, second = turn(of_run(open_export(str(ours))), "huggingface")
    assert not LxmertForPreTraining.from_pretrained(out).config.task_qa
    assert "image_qa" not in second.differences


def old_words(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the words of the first BERT archives."""

    def old(name: str) -> str:
        if "LayerNorm" in name:
            return name.replace(".weight", ".gamma").replace(".bias", ".beta")
        return name

    return {old(name): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(("which", "first"), [("lower", 0), ("upper", 1)])
@pytest.mark.parametrize("old", [False, True])
def test_bert(bert, save, turn, which, first, old):
    tensors = bert.state_dict()
    file = save(old_words(tensors) if old else tensors, "pytorch_model.bin")
    source = of_path(file, Guess(4, which, 3))
    assert source.label == f"BERT, layers {first} to {first + 2} of 4"
    ours, conversion = turn(source, "lxmert_dist")
    assert worst(conversion) < USUAL
    assert set(conversion.differences) == {"language", "pooled", "masked_lm", "matching"}
    export = open_export(str(ours))
    assert export.description.partial
    assert not any("cross" in name or "visual" in name for name in export.tensors)
    stem = "bert.encoder.layer"
    for i in range(3):
        theirs_value = tensors[f"{stem}.{first + i}.output.dense.weight"]
        name = f"model.language_encoder.layers.{i}.feed_forward.contract.weight"
        assert torch.equal(export.tensors[name], theirs_value)
    for to in ("huggingface", "lxmert"):
        with pytest.raises(ConfigError, match="only a start"):
            turn(source, to)


def test_bert_without_heads(bert, tmp_path, turn):
    bert.bert.save_pretrained(tmp_path / "bert")
    source = of_path(tmp_path / "bert", Guess(language_layers=2))
    _, conversion = turn(source, "lxmert_dist")
    assert set(conversion.differences) == {"language", "pooled"}


def test_answers_travel_with_the_weights(answering, tmp_path, save, turn):
    names = [f"answer {i}" for i in range(7)]
    (tmp_path / "names.json").write_text(json.dumps([{"ans": n, "dsets": []} for n in names]))
    file = save(fine_tuned(answering), "BEST.pth")
    out, _ = turn(file, "huggingface", answers=tmp_path / "names.json")
    model = AutoModelForQuestionAnswering.from_pretrained(out)
    assert model.config.id2label[3] == "answer 3"
    assert of_path(out, Guess()).weights.description.answers == tuple(names)
    (out / "answers.json").unlink()
    assert of_path(out, Guess()).weights.description.answers == tuple(names), "by id2label"
