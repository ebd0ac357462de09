"""Files that are wrong, truncated or malicious: refused in a line that names them."""

import json
import os
import pickle
import resource
from dataclasses import replace

import pytest
import torch

from lxmert_dist.errors import CheckpointError, ConfigError, DataError
from lxmert_dist.interop.source import Guess, of_path, of_run
from tiny_weights import fine_tuned, released, two_images


@pytest.fixture
def tensors(pretraining):
    return {name: tensor.clone() for name, tensor in released(pretraining).items()}


def refuse(path, message, guess=Guess(num_heads=4)):  # noqa: B008
    with pytest.raises(CheckpointError, match=message) as caught:
        of_path(path, guess)
    assert len(str(caught.value).splitlines()) <= 2
    assert str(path) in str(caught.value) or "is no parameter" in message


class Evil:
    """Runs code where a pickle is loaded with trust."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("form", ["zip", "old", "plain pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(tensors, tmp_path, form):
    path, mark = tmp_path / "model_LXRT.pth", tmp_path / "it ran"
    tree = {**tensors, "extra": Evil(mark)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(tree))
    else:
        torch.save(tree, path, _use_new_zipfile_serialization=form == "zip")
    refuse(path, r"refused: it holds code.*no code of a file is run")
    assert not mark.exists()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file(tensors, save, share, old):
    path = save(tensors, _use_new_zipfile_serialization=not old)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refuse(path, "truncated or damaged")


@pytest.mark.parametrize("damage", ["header", "length", "cut"])
def test_damaged_safetensors(pretraining, tmp_path, damage):
    pretraining.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    match damage:
        case "header":
            data[8:40] = b"x" * 32
        case "length":
            data[:8] = (1 << 60).to_bytes(8, "little")
        case _:
            data = data[:-100]
    path.write_bytes(data)
    refuse(path, "truncated or damaged")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"weights", "neither by safetensors nor by torch.save"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path, content, message):
    path = tmp_path / "model_LXRT.pth"
    path.write_bytes(content)
    refuse(path, message)


def test_what_is_not_tensors_by_name(save):
    refuse(save([torch.zeros(2)]), "no tensors by name")
    refuse(save({"epoch": 3}), "no tensors by name")


def test_a_wrapped_state_dict_is_found(tensors, save):
    assert of_path(save({"state_dict": tensors, "epoch": 3}), Guess(4)).num_tensors == len(tensors)


def test_another_model(save):
    refuse(save({"resnet.conv1.weight": torch.zeros(2, 2)}), "is not recognised.*resnet.conv1")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(tensors, save, value):
    tensors["bert.pooler.dense.bias"][3] = value
    refuse(save(tensors), r"bert\.pooler\.dense\.bias has values that are NaN or infinite")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bert.pooler.dense.bias", r"lacks model\.pooler\.dense\.bias"),
        ("bert.encoder.layer.0.attention.self.key.bias", r"lack bert\.encoder.*key\.bias"),
        ("bert.embeddings.position_embeddings.weight", "lack bert.*position_embeddings"),
        ("cls.predictions.transform.dense.weight", r"lacks masked_lm_head\.transform"),
        ("obj_predict_head.decoder_dict.attr.bias", r"lacks visual_head\.attribute_label\.bias"),
        ("obj_predict_head.decoder_dict.obj.weight", r"lacks visual_head\.object_label\.weight"),
        ("answer_head.logit_fc.3.weight", r"lacks answer_head\.decoder\.weight"),
    ],
)
def test_a_missing_tensor(tensors, save, name, message):
    del tensors[name]
    with pytest.raises(CheckpointError, match=message):
        of_path(save(tensors), Guess(4))


def test_a_tensor_of_another_shape(tensors, save):
    tensors["bert.encoder.r_layers.0.output.dense.bias"] = torch.zeros(17)
    refuse(save(tensors), r"feed_forward\.contract\.bias is \(17,\)")


def test_a_tensor_that_lxmert_does_not_have(tensors, save):
    tensors["bert.encoder.layer.1.adapter.weight"] = torch.zeros(2)
    refuse(save(tensors), r"adapter\.weight is no parameter of LXMERT")


def test_a_decoder_that_is_not_tied(tensors, save):
    tensors["cls.predictions.decoder.weight"] += 1
    refuse(save(tensors), "decoder.weight differs from bert.embeddings.word_embeddings.weight")


def test_integers(tensors, save):
    tensors["bert.pooler.dense.weight"] = torch.ones(16, 16, dtype=torch.int8)
    refuse(save(tensors), r"bert\.pooler\.dense\.weight is torch\.int8")


def test_our_names_without_what_they_belong_to(save):
    refuse(save({"model.text_embedding.word.weight": torch.zeros(4, 4)}), "give the run's dir")


def test_a_checkpoint_with_a_head_that_nobody_knows(tensors, save):
    weights = of_path(save(tensors), Guess(num_heads=4)).weights
    more = {**weights.tensors, "depth_head.decoder.bias": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"depth_head\.decoder\.bias is of no model"):
        of_run(replace(weights, tensors=more))


def test_heads_that_nobody_counts(tensors, save):
    refuse_heads = pytest.raises(CheckpointError, match="give --num-heads")
    for heads in (None, 5):  # 16 features are less than one head of 64, and 5 does not divide them
        with refuse_heads:
            of_path(save(tensors), Guess(num_heads=heads))


def test_a_head_that_is_neither(answering, save):
    tensors = fine_tuned(answering)
    tensors["logit_fc.0.weight"] = torch.zeros(32, 24)
    refuse(save(tensors, "BEST.pth"), "its head reads 24 features")


def test_too_few_layers_of_bert(bert, save):
    with pytest.raises(CheckpointError, match="has 4 layers, not 9; give --language-layers 4"):
        of_path(save(bert.state_dict(), "bert.bin"), Guess(num_heads=4))


def test_configs_that_contradict(pretraining, tmp_path):
    pretraining.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def change(**settings):
        (tmp_path / "config.json").write_text(json.dumps({**config, **settings}))
        return pytest.raises(CheckpointError)

    for settings, message in (
        ({"l_layers": 3}, "l_layers=3, but there are 2"),
        ({"hidden_act": "relu"}, "hidden_act=relu"),
        ({"model_type": "vilt"}, "is of a vilt"),
    ):
        with change(**settings) as caught:
            of_path(tmp_path, Guess())
        assert message in str(caught.value)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        of_path(tmp_path, Guess())


def test_an_index_that_leaves_its_directory(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    refuse(tmp_path, r"names '\.\./secret\.safetensors'")


def test_directories(tmp_path, save, tensors):
    refuse(tmp_path / "nothing", "nothing at")
    refuse(tmp_path, "there is: none")
    save(tensors, "a.pth")
    save(tensors, "b.pth")
    refuse(tmp_path, r"a\.pth, b\.pth; name the file")
    step = tmp_path / "zero" / "global_step3"
    step.mkdir(parents=True)
    (step / "mp_rank_00_model_states.pt").write_bytes(b"")
    refuse(tmp_path / "zero", "checkpoint of DeepSpeed itself")


def traces(path):
    return sorted(child.name for child in path.iterdir())


def test_a_full_disk_leaves_nothing(save, turn, tmp_path, tensors):
    file = save(tensors)
    before = traces(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for to in ("huggingface", "lxmert", "lxmert_dist"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
        try:
            with pytest.raises(CheckpointError, match=r"cannot write .*export"):
                turn(file, to)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert traces(tmp_path) == before


def test_nothing_is_overwritten_by_chance(save, turn, tmp_path, tensors):
    file = save(tensors)
    out = tmp_path / "export 0"
    out.mkdir()
    (out / "thesis.txt").write_text("all of it")
    for overwrite, message in ((False, "add --overwrite"), (True, "not written by this command")):
        with pytest.raises(ConfigError, match=message):
            turn(file, "lxmert", overwrite=overwrite)
        (tmp_path / f"export {overwrite + 1}").mkdir()
        out = tmp_path / f"export {overwrite + 1}"
        (out / "thesis.txt").write_text("all of it")
    assert (tmp_path / "export 1" / "thesis.txt").read_text() == "all of it"


def test_an_earlier_export_is_replaced_on_demand(save, turn, tmp_path, tensors):
    from lxmert_dist.interop import Request, convert

    file = save(tensors)
    out, _ = turn(file, "lxmert")
    source = of_path(file, Guess(4))
    with pytest.raises(ConfigError, match="add --overwrite"):
        convert(source, Request("huggingface", out))
    convert(source, Request("huggingface", out, overwrite=True))
    assert "config.json" in traces(out)
    assert "model_LXRT.pth" not in traces(out)


def test_tables_of_answers_that_do_not_fit(answering, save, turn, tmp_path):
    file = save(fine_tuned(answering), "BEST.pth")
    table = tmp_path / "answers.json"
    for text, error, message in (
        ('["yes", "no"]', CheckpointError, "has 2 answers, the answer head 7 rows"),
        ('{"yes": 0}', DataError, "is no table of answers"),
        ("[1, 2]", DataError, "is no table of answers"),
        ("[", DataError, "cannot read answers"),
    ):
        table.write_text(text)
        with pytest.raises(error, match=message):
            turn(file, "lxmert_dist", answers=table)
    table.write_text('["yes"]')
    with pytest.raises(CheckpointError, match="with --answers"):
        turn(file, "lxmert_dist", target_answers=table)
    with pytest.raises(CheckpointError, match="no answer head"):
        turn(save(two_images(), "NLVR2.pth"), "lxmert_dist", target_answers=table)
