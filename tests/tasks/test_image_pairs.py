"""Sentences about two images, as in NLVR2, and answers of which one is right."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import LxmertModel

from lxmert_dist.errors import CheckpointError
from lxmert_dist.interop.hugging_face import ALL_HEADS, config_of
from lxmert_dist.interop.layouts import recognise
from lxmert_dist.interop.names import to_ours
from lxmert_dist.schema import IGNORED, AnswerTargets
from lxmert_dist.tasks.answering import AnsweringTask, answering_collate, single_answers
from lxmert_dist.tasks.inputs import images_apart
from lxmert_dist.tasks.transfer import load_pretrained
from lxmert_dist.tasks.weights import Description

ANSWERS = ["False", "True"]
TOLERANCE = 1e-5
"""Relative to the largest logit; worst measured (float32, torch 2.15, CPU): 0."""


def difference(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.fixture
def pair_spec(spec):
    return replace(spec, num_objects=2 * spec.num_objects, images_per_pair=2)


@pytest.fixture
def make_pairs(make_batch):
    """A raw batch whose rows have two images: row k those of images k and k + 1."""

    def make(pair_ids):
        first, second = make_batch(pair_ids), make_batch(np.asarray(pair_ids) + 6)
        joined = {
            name: np.concatenate([value, getattr(second, name)], axis=1)
            for name, value in vars(first).items()
            if isinstance(value, np.ndarray) and value.ndim > 1
        }
        return replace(first, **joined), first, second

    return make


def test_each_image_of_a_pair_gets_the_sentence(make_pairs):
    pairs, first, second = make_pairs([0, 7, 30])
    apart = images_apart(pairs, 2)
    assert apart.pair_ids.tolist() == [0, 0, 7, 7, 30, 30]
    assert apart.image_index.tolist() == [0, 1, 2, 3, 4, 5]
    assert (apart.roi_features[::2] == first.roi_features).all()
    assert (apart.roi_features[1::2] == second.roi_features).all()
    assert (apart.boxes[1::2] == second.boxes).all()
    assert images_apart(pairs, 1) is pairs


@pytest.mark.parity
@torch.no_grad()
def test_logits_are_those_of_transformers_model_on_each_image(
    model_config, pair_spec, spec, sentences, make_pairs
):
    torch.manual_seed(0)
    task = AnsweringTask(model_config, pair_spec, 2, "cross_entropy")
    description = Description(kind="pretraining", model=model_config, sizes=asdict(spec))
    reference = LxmertModel(config_of(description, ALL_HEADS)).eval()
    for parameter in [*reference.parameters(), *task.head.parameters()]:
        parameter.normal_(*((0.3, 0.2) if parameter.ndim == 1 else (0.0, 0.2)))
    released = recognise({f"lxmert.{k}": v for k, v in reference.state_dict().items()}, "reference")
    backbone = to_ours(released.tensors, model_config)
    task.model.load_state_dict({k.removeprefix("model."): v for k, v in backbone.items()})

    pairs, first, second = make_pairs([2, 9, 31, 50])
    batch = answering_collate(sentences, pair_spec, max_tokens=9, loss="cross_entropy")(pairs)
    logits = task.logits(batch)
    assert logits.shape == (4, 2)

    pooled = []
    for images in (first, second):
        tokens, lengths = sentences.tokens(
            pairs.pair_ids, max_tokens=9, cls_id=spec.cls_id, sep_id=spec.sep_id, pad_id=0
        )
        encoded = reference(
            input_ids=torch.from_numpy(tokens),
            attention_mask=torch.arange(tokens.shape[1]) < torch.from_numpy(lengths)[:, None],
            visual_feats=torch.from_numpy(images.roi_features).float(),
            visual_pos=torch.from_numpy(images.boxes),
        )
        pooled.append(encoded.pooled_output)
    head = task.head
    hidden = functional.gelu(head.transform.dense(torch.cat(pooled, dim=1)))
    expected = head.decoder(head.transform.layer_norm(hidden))
    assert difference(logits, expected) < TOLERANCE
    hidden = functional.gelu(head.transform.dense(torch.cat(pooled[::-1], dim=1)))
    swapped = head.decoder(head.transform.layer_norm(hidden))
    assert difference(logits, swapped) > 10 * TOLERANCE


def test_pairs_that_share_their_images_are_as_if_they_did_not(
    model_config, pair_spec, sentences, make_pairs
):
    torch.manual_seed(0)
    task = AnsweringTask(model_config, pair_spec, 2, "cross_entropy")
    pairs, *_ = make_pairs([0, 1, 7])  # the first two are of one image
    collate = answering_collate(sentences, pair_spec, max_tokens=9)
    images = {
        name: value[[0, 2]]
        for name, value in vars(pairs).items()
        if isinstance(value, np.ndarray) and name not in ("pair_ids", "image_index")
    }
    shared = replace(pairs, image_index=np.array([0, 0, 1]), **images)
    torch.testing.assert_close(task.logits(collate(shared)), task.logits(collate(pairs)))


def test_cross_entropy_takes_the_answer_of_the_highest_score(
    model_config, spec, sentences, make_batch
):
    torch.manual_seed(0)
    task = AnsweringTask(model_config, spec, spec.num_answers, "cross_entropy")
    batch = answering_collate(sentences, spec, max_tokens=8, loss="cross_entropy")(
        make_batch([0, 2, 4, 3, 110])
    )
    assert isinstance(batch.targets, AnswerTargets)
    labels = [0, 2, 4, IGNORED, 5]  # pair 3 has no answer
    assert single_answers(batch.targets.scores).tolist() == labels
    assert batch.counts == {"answer_cross_entropy": 4.0}
    logits = task.logits(batch)
    answered = [0, 1, 2, 4]
    expected = functional.cross_entropy(
        logits[answered], torch.tensor([labels[i] for i in answered]), reduction="sum"
    )
    report = task(batch)
    torch.testing.assert_close(report.losses["answer_cross_entropy"], expected)
    assert tuple(report.losses) == task.loss_names == tuple(task.loss_weights_at(0))
    assert report.metrics["accuracy"][1].item() == 5
    torch.testing.assert_close(task.probabilities(logits).sum(-1), torch.ones(5))
    soft = AnsweringTask(model_config, spec, spec.num_answers)
    torch.testing.assert_close(soft.probabilities(logits), logits.sigmoid())


def test_a_head_that_read_one_image_is_not_taken_over_by_one_that_reads_two(
    model_config, spec, pair_spec
):
    torch.manual_seed(0)
    single = AnsweringTask(model_config, spec, 2)
    pair = AnsweringTask(model_config, pair_spec, 2, "cross_entropy")
    before = {name: value.clone() for name, value in pair.head.state_dict().items()}
    report = load_pretrained(pair, single.state_dict(), ANSWERS, ())
    assert report.fresh == tuple(f"pair_head.{name}" for name in before)
    for name, value in pair.head.state_dict().items():
        assert torch.equal(value, before[name])
    again = AnsweringTask(model_config, pair_spec, 2, "cross_entropy")
    assert load_pretrained(again, pair.state_dict(), ANSWERS, ()).fresh == ()
    for name, value in again.state_dict().items():
        assert torch.equal(value, pair.state_dict()[name])


def test_a_head_of_another_width_is_refused(model_config, spec):
    torch.manual_seed(0)
    wide = model_config.model_copy(update={"hidden_size": 32})
    source, task = AnsweringTask(wide, spec, 2), AnsweringTask(model_config, spec, 2)
    with pytest.raises(CheckpointError, match="in the checkpoint, not"):
        load_pretrained(task, source.state_dict(), ANSWERS, ANSWERS)
