"""What the pretraining task's collate function draws, masks and swaps."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from lxmert_dist.config.sections import ObjectivesConfig
from lxmert_dist.errors import ConfigError
from lxmert_dist.schema import IGNORED, DataSpec, MicroBatch, PairBatch
from lxmert_dist.store.sentences import SentenceTable
from lxmert_dist.tasks import pretraining_collate
from tasks_batch import collated, pretrain_targets

MakeBatch = Callable[..., PairBatch]
PER_IMAGE = 6


def word_labels(batch: MicroBatch) -> torch.Tensor:
    """The original ids of masked word pieces in the grid (B, T), ``IGNORED`` elsewhere."""
    targets, inputs = pretrain_targets(batch), batch.inputs
    grid = torch.full(inputs.attention_mask.shape, IGNORED)
    grid.view(-1)[inputs.slots[targets.masked_tokens]] = targets.masked_lm
    return grid


def answers(batch: MicroBatch) -> torch.Tensor:
    """The answer of every pair (B,), ``IGNORED`` where there is none."""
    targets = pretrain_targets(batch)
    every = torch.full((len(batch.pair_ids),), IGNORED)
    every[targets.questions] = targets.answer_ids
    return every


def same(first: MicroBatch, rows: list[int], second: MicroBatch) -> None:
    """``rows`` of the first batch are the second, up to padding."""
    pairs = (
        (first.inputs.padded_token_ids(), second.inputs.padded_token_ids(), 0),
        (first.inputs.attention_mask, second.inputs.attention_mask, 0),
        (word_labels(first), word_labels(second), IGNORED),
    )
    for a, b, nothing in pairs:
        width = min(a.shape[1], b.shape[1])
        assert torch.equal(a[rows][:, :width], b[:, :width])
        assert (a[rows][:, width:] == nothing).all()
    assert torch.equal(first.inputs.roi_features[rows], second.inputs.roi_features)
    one, two = pretrain_targets(first), pretrain_targets(second)
    for name in ("is_matched", "masked_objects"):
        assert torch.equal(getattr(one, name)[rows], getattr(two, name)), name
    assert torch.equal(answers(first)[rows], answers(second))


def test_a_pair_does_not_depend_on_its_batch(
    sentences: SentenceTable, spec: DataSpec, make_batch: MakeBatch
) -> None:
    whole = collated(sentences, spec, make_batch(range(120)))
    rows = [100, 4, 37, 5]
    same(whole, rows, collated(sentences, spec, make_batch(rows)))


def test_epochs_differ_and_a_fixed_one_does_not(
    sentences: SentenceTable, spec: DataSpec, make_batch: MakeBatch
) -> None:
    pairs = list(range(60))
    first, second = (collated(sentences, spec, make_batch(pairs, epoch=e)) for e in (0, 1))
    assert not torch.equal(
        pretrain_targets(first).masked_objects, pretrain_targets(second).masked_objects
    )
    fixed = (collated(sentences, spec, make_batch(pairs, epoch=e), fixed_epoch=0) for e in (3, 4))
    for batch in fixed:
        same(first, pairs, batch)


def test_sentences_are_framed_cut_and_swapped(
    sentences: SentenceTable, spec: DataSpec, make_batch: MakeBatch
) -> None:
    pairs = np.arange(120)
    batch = collated(
        sentences, spec, make_batch(pairs), ObjectivesConfig(token_mask_rate=0.0), max_tokens=7
    )
    ids, real = batch.inputs.padded_token_ids().numpy(), batch.inputs.attention_mask.numpy()
    assert ids.shape[1] == 7
    lengths = real.sum(1)
    assert (ids[:, 0] == spec.cls_id).all()
    assert (ids[np.arange(120), lengths - 1] == spec.sep_id).all()
    assert (ids[~real] == spec.pad_id).all()
    matched = pretrain_targets(batch).is_matched.numpy().astype(bool)
    assert (ids[:, 1] == 10 + pairs % 50)[matched].all()
    assert (lengths == np.minimum(5 + pairs % 7, 7))[matched].all()
    assert 30 < matched.sum() < 90
    assert (ids[:, 1] != 10 + pairs % 50)[~matched].mean() > 0.9


def test_targets_are_the_raw_values(
    sentences: SentenceTable, spec: DataSpec, make_batch: MakeBatch
) -> None:
    raw = make_batch(range(60))
    batch = collated(sentences, spec, raw)
    targets, inputs = pretrain_targets(batch), batch.inputs
    masked = targets.masked_objects.numpy()
    assert (targets.roi_features.numpy() == raw.roi_features[masked]).all()
    assert (targets.object_ids.numpy() == raw.object_ids).all()
    assert (targets.attribute_scores.numpy() == raw.attribute_scores).all()
    assert (inputs.boxes.numpy() == raw.boxes).all(), "boxes are never masked"
    assert (inputs.roi_features.numpy() == raw.roi_features)[~masked].all()
    assert not (inputs.roi_features.numpy() == raw.roi_features)[masked].all()
    answered = answers(batch) != IGNORED
    assert not answered[targets.is_matched == 0].any()
    expected = np.arange(60) % 2 == 0
    assert (answered.numpy() == (expected & (targets.is_matched.numpy() == 1))).all()
    single = [pair for pair in range(60) if pair % 4 == 2 and answered[pair]]
    assert answers(batch)[single].tolist() == [pair % 7 for pair in single]


def test_counts(sentences: SentenceTable, spec: DataSpec, make_batch: MakeBatch) -> None:
    batch = collated(sentences, spec, make_batch(range(60)))
    targets = pretrain_targets(batch)
    expected = {
        "masked_lm": len(targets.masked_lm),
        "matching": 60,
        "object_label": 300,
        "attribute_label": 300,
        "roi_feature": 300,
        "image_qa": len(targets.answer_ids),
    }
    assert batch.counts == expected
    objectives = ObjectivesConfig(visual_mean_over="masked")
    masked = int(targets.masked_objects.sum())
    assert 0 < masked < 300
    for name in ("object_label", "attribute_label", "roi_feature"):
        expected[name] = masked
    assert collated(sentences, spec, make_batch(range(60)), objectives).counts == expected


def test_nothing_leaks_into_the_inputs(
    write_sentences: Callable[..., SentenceTable], spec: DataSpec, make_batch: MakeBatch
) -> None:
    """Other answers, classes and scores give the same inputs, bit for bit."""
    raw = make_batch(range(60))
    other = replace(
        raw,
        object_ids=(raw.object_ids + 1) % spec.num_object_classes,
        object_scores=raw.object_scores / 2,
        attribute_ids=(raw.attribute_ids + 1) % spec.num_attribute_classes,
        attribute_scores=raw.attribute_scores / 2,
    )
    first = collated(write_sentences(shift=0), spec, raw)
    second = collated(write_sentences(shift=1), spec, other)
    for name in ("token_ids", "slots", "attention_mask", "roi_features", "boxes"):
        assert torch.equal(getattr(first.inputs, name), getattr(second.inputs, name)), name
    one, two = pretrain_targets(first), pretrain_targets(second)
    assert len(one.answer_ids) > 5
    assert (one.answer_ids != two.answer_ids).all()


def test_the_masked_features_do_not_reach_the_inputs(
    sentences: SentenceTable, spec: DataSpec, make_batch: MakeBatch
) -> None:
    objectives = ObjectivesConfig(object_replace_fraction=1.0, object_random_fraction=0.0)
    raw = make_batch(range(60))
    first = collated(sentences, spec, raw, objectives)
    changed = raw.roi_features.copy()
    changed[pretrain_targets(first).masked_objects.numpy()] += 1
    second = collated(sentences, spec, replace(raw, roi_features=changed), objectives)
    assert torch.equal(first.inputs.roi_features, second.inputs.roi_features)


def test_one_image_cannot_be_mismatched(sentences: SentenceTable, spec: DataSpec) -> None:
    with pytest.raises(ConfigError, match="mismatch_rate"):
        pretraining_collate(
            sentences,
            spec,
            ObjectivesConfig(),
            seed=1,
            max_tokens=9,
            candidates=np.arange(PER_IMAGE),
        )
