"""Runs that start from converted weights: what they take over, and what they refuse."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import BertForPreTraining, LxmertForPreTraining, LxmertForQuestionAnswering

from lxmert_dist.config import FinetuneConfig, PretrainConfig, load_config
from lxmert_dist.errors import CheckpointError
from lxmert_dist.interop.hugging_face import outputs_of_directory
from lxmert_dist.interop.probe import make_probe, our_inputs
from lxmert_dist.interop.source import Guess, of_path, of_run
from lxmert_dist.store import open_store
from lxmert_dist.store import uri as uris
from lxmert_dist.tasks import AnsweringTask
from lxmert_dist.train.checkpoint import find_weights
from lxmert_dist.train.job import build
from runs import DEFAULTS, ROOT, SMALL, pretrain
from tiny_store import ANSWERS, ATTRIBUTE_CLASSES, OBJECT_CLASSES
from tiny_weights import fine_tuned, released, theirs

FITS = {
    "visual_feat_dim": 16,
    "num_qa_labels": len(ANSWERS),
    "num_object_labels": len(OBJECT_CLASSES),
    "num_attr_labels": len(ATTRIBUTE_CLASSES),
}
"""Of the tiny store."""

MODEL = (
    "model.hidden_size=16",
    "model.num_heads=4",
    "model.intermediate_size=24",
    "model.num_language_layers=2",
    "model.num_relationship_layers=1",
    "model.num_cross_layers=2",
    "model.max_positions=20",
    "model.layer_norm_eps=1e-12",
)
PRETRAINING, FINE_TUNING = PretrainConfig, FinetuneConfig


@pytest.fixture
def answers(tmp_path):
    file = tmp_path / "answers.json"
    file.write_text(str(ANSWERS).replace("'", '"'))
    return file


@pytest.fixture
def job(tiny_store, tmp_path):
    """A function that builds a run from an export."""

    def job(kind, init, *settings):
        defaults = ROOT / "configs" / "finetune" / "easy_vqa.toml"
        chosen = [s for s in SMALL if not s.startswith("model.")]
        places = [f"directory={tmp_path / 'run'}", f"data.store={tiny_store}", "data.sources=[]"]
        return build(
            load_config(
                kind,
                defaults if kind is FinetuneConfig else DEFAULTS,
                [*chosen, *places, *MODEL, f"init={init}", *settings],
            )
        )

    return job


def test_fine_tuning_says_what_transformers_says(save, turn, job, answers):
    model = theirs(LxmertForQuestionAnswering, **FITS)
    ours, _ = turn(save(fine_tuned(model), "BEST.pth"), "lxmert_dist", answers=answers)
    hugging_face, _ = turn(save(fine_tuned(model), "BEST.pth"), "huggingface", answers=answers)
    task = job(FINE_TUNING, ours).task.eval()
    assert isinstance(task, AnsweringTask)
    probe = make_probe(65, 16, 20)
    expected = outputs_of_directory(hugging_face, "answering", probe)["image_qa"]
    with torch.no_grad():
        pooled = task.model(our_inputs(probe), need_vision=False).pooled
        found = task.answer_head(pooled)
    # Worst measured: 0.
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-6 * float(expected.abs().max()))


def test_pretraining_goes_on_with_every_parameter(save, turn, job, answers):
    model = theirs(LxmertForPreTraining, **FITS)
    ours, _ = turn(save(released(model)), "lxmert_dist", answers=answers)
    built = job(PRETRAINING, ours)
    assert not built.start.fresh
    assert not built.start.missing_answers
    state = released(model)
    word = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(built.task.model.text_embedding.word.weight, state[word])
    head = built.task.answer_head.decoder.weight
    assert torch.equal(head, state["answer_head.logit_fc.3.weight"])


def test_pretraining_starts_from_bert(save, turn, job):
    bert = theirs(BertForPreTraining)
    source = of_path(save(bert.state_dict(), "bert.bin"), Guess(4, "lower", 2))
    ours, _ = turn(source, "lxmert_dist")
    built, fresh = job(PRETRAINING, ours), job(PRETRAINING, "scratch")
    assert fresh.start is None
    took = set(built.start.copied)
    for name, value in built.task.state_dict().items():
        is_bert = name.startswith(
            ("model.text_embedding", "model.language", "model.pooler", "masked_lm", "matching")
        )
        assert (name in took) == is_bert, name
        assert torch.equal(value, fresh.task.state_dict()[name]) != is_bert, name
    assert built.start.unused == ()
    tuned = job(FINE_TUNING, ours)
    assert any(name.startswith("masked_lm_head") for name in tuned.start.unused)


def test_heads_of_other_sizes_and_classes_start_fresh(save, turn, job):
    model = theirs(LxmertForPreTraining, **{**FITS, "num_object_labels": 9})
    ours, _ = turn(save(released(model)), "lxmert_dist")
    start = job(PRETRAINING, ours).start
    fresh = {name.rpartition(".")[0] for name in start.fresh}
    assert fresh == {
        "visual_head.object_label",
        "answer_head.transform.dense",
        "answer_head.transform.layer_norm",
        "answer_head.decoder",
    }, "one by its shape, the other since its rows have no names"
    assert start.copied_answers == 0


def test_classes_with_other_names_start_fresh(save, turn, job):
    """As many classes, in another order: the same rows would say other things."""
    source = of_path(save(released(theirs(LxmertForPreTraining, **FITS))), Guess(4))
    classes = {
        "object_classes": tuple(OBJECT_CLASSES),
        "attribute_classes": tuple(reversed(ATTRIBUTE_CLASSES)),
    }
    description = source.weights.description.model_copy(update=classes)
    ours, _ = turn(of_run(replace(source.weights, description=description)), "lxmert_dist")
    fresh = {name.rpartition(".")[0] for name in job(PRETRAINING, ours).start.fresh}
    assert "visual_head.attribute_label" in fresh
    assert "visual_head.object_label" not in fresh


def test_other_word_pieces_features_and_heads_are_refused(save, turn, job, tiny_store, tmp_path):
    model = theirs(LxmertForPreTraining, **FITS)
    file = save(released(model))
    own = Path(open_store(tiny_store).tokenizer_dir())
    ours, _ = turn(file, "lxmert_dist", tokenizer=own)
    assert job(PRETRAINING, ours).start.copied

    other = tmp_path / "other tokenizer"
    other.mkdir()
    pieces = (own / "vocab.txt").read_text().splitlines()
    pieces[10], pieces[11] = pieces[11], pieces[10]
    (other / "vocab.txt").write_text("\n".join(pieces) + "\n")
    wrong, _ = turn(file, "lxmert_dist", tokenizer=other)
    with pytest.raises(CheckpointError, match="other word pieces"):
        job(PRETRAINING, wrong)

    with pytest.raises(CheckpointError, match=r"model\.num_heads=4, this run has 2"):
        job(PRETRAINING, ours, "model.num_heads=2")
    wide, _ = turn(save(released(theirs(LxmertForPreTraining))), "lxmert_dist")
    with pytest.raises(CheckpointError, match="feature_dim=12, but the store has 16"):
        job(PRETRAINING, wide)
    with pytest.raises(CheckpointError, match=r"holds model\.language_encoder\.layers\.1"):
        job(PRETRAINING, ours, "model.num_language_layers=1")


def test_an_export_without_description_is_named(save, turn, job):
    ours, _ = turn(save(released(theirs(LxmertForPreTraining, **FITS))), "lxmert_dist")
    (ours / "model.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"model\.json is damaged"):
        job(PRETRAINING, ours)


def test_a_run_tells_what_it_took_over_once(save, turn, answers, tiny_store, tmp_path, capsys):
    ours, _ = turn(
        save(released(theirs(LxmertForPreTraining, **FITS))), "lxmert_dist", answers=answers
    )
    sizes = [s for s in SMALL if not s.startswith(("model.", "train.max_steps"))]
    settings = [*sizes, *MODEL, f"init={ours}", "train.max_steps=2"]
    directory = tmp_path / "run"
    pretrain(directory, tiny_store, *settings)
    told = capsys.readouterr().err
    assert f"weights of {ours}" in told
    assert "0 start fresh" in told
    assert "answers: 4 of 4 found by name" in told
    pretrain(directory, tiny_store, *settings)
    assert "start fresh" not in capsys.readouterr().err


def test_an_export_opens_from_anywhere(save, turn, tmp_path):
    ours, _ = turn(save(released(theirs(LxmertForPreTraining))), "lxmert_dist")
    place = f"memory://{tmp_path.name}/export"
    for file in ours.rglob("*.*"):
        uris.upload(file, uris.join(place, str(file.relative_to(ours))))
    here, there = find_weights(str(ours)), find_weights(place)
    assert there.description == here.description
    assert all(torch.equal(there.tensors[n], t) for n, t in here.tensors.items())
