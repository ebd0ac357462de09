"""The pretraining task and its collate function."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from lxmert_dist.config.sections import ModelConfig, ObjectivesConfig
from lxmert_dist.errors import ConfigError
from lxmert_dist.schema import (
    IGNORED,
    AnswerTargets,
    DataSpec,
    MicroBatch,
    PairBatch,
    PretrainTargets,
)
from lxmert_dist.store.sentences import SentenceTable
from lxmert_dist.tasks import PretrainingTask, pretraining_collate

MakeBatch = Callable[..., PairBatch]
PER_IMAGE = 6


def collated(
    sentences: SentenceTable,
    spec: DataSpec,
    raw: PairBatch,
    objectives: ObjectivesConfig | None = None,
    **arguments: object,
) -> MicroBatch:
    settings = {"seed": 1, "max_tokens": 9, **arguments}
    return pretraining_collate(sentences, spec, objectives or ObjectivesConfig(), **settings)(raw)


def build(
    model_config: ModelConfig, spec: DataSpec, objectives: ObjectivesConfig | None = None
) -> PretrainingTask:
    torch.manual_seed(0)
    return PretrainingTask(model_config, objectives or ObjectivesConfig(), spec)


def pretrain_targets(batch: MicroBatch) -> PretrainTargets:
    assert isinstance(batch.targets, PretrainTargets)
    return batch.targets


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


def test_rounded_numbers_of_rows_change_nothing(
    model_config: ModelConfig, sentences: SentenceTable, spec: DataSpec, make_batch: MakeBatch
) -> None:
    """Worst measured: losses 1e-7, gradients 3e-7 of the largest."""
    raw = make_batch(range(30))
    for settings in ({}, {"label_scope": "masked"}):
        objectives = ObjectivesConfig(**settings)
        seen = []
        for multiple in (1, 16):
            batch = collated(sentences, spec, raw, objectives, multiple=multiple)
            targets = pretrain_targets(batch)
            for rows in (targets.masked_tokens, targets.masked_object_rows, targets.questions):
                assert len(rows) % multiple == 0
            task = build(model_config, spec, objectives)
            report = task(batch)
            sum(report.losses.values()).backward()
            counted = [float(count) for _, count in report.metrics.values()]
            gradient = torch.cat([p.grad.flatten() for p in task.parameters()])
            seen.append((torch.stack(list(report.losses.values())), counted, gradient))
        torch.testing.assert_close(seen[0][0], seen[1][0], rtol=1e-6, atol=0)
        assert seen[0][1] == seen[1][1]
        scale = float(seen[0][2].abs().max())
        torch.testing.assert_close(seen[0][2], seen[1][2], rtol=0, atol=2e-6 * scale)


def grouped(raw: PairBatch, index: list[int]) -> PairBatch:
    """The pairs of a batch with image ``index[i]`` for pair i, whose draws its first pair keys."""
    first = np.unique(index, return_index=True)[1]
    names = ("roi_features", "boxes", "object_ids", "object_scores", "attribute_ids")
    arrays = {n: getattr(raw, n)[first] for n in (*names, "attribute_scores", "image_rows")}
    return replace(
        raw,
        image_index=np.asarray(index),
        object_keys=raw.pair_ids[first],
        pool_ids=raw.pool_ids[first],
        **arrays,
    )


def test_grouped_pairs_equal_pairs_apart(
    model_config: ModelConfig, sentences: SentenceTable, spec: DataSpec, make_batch: MakeBatch
) -> None:
    """Losses and gradients of pairs that share an image and its mask, however they are batched.

    Worst measured: losses 2e-7, gradients 4e-7 of the largest.
    """
    index = [p // PER_IMAGE for p in range(4 * PER_IMAGE)]
    group = grouped(make_batch(range(len(index))), index)
    apart = replace(
        group,
        image_index=np.arange(len(index)),
        **{
            name: getattr(group, name)[index]
            for name in (
                "image_rows", "object_keys", "roi_features", "boxes", "object_ids",
                "object_scores", "attribute_ids", "attribute_scores", "pool_ids",
            )
        },
    )  # fmt: skip
    for settings in ({}, {"label_scope": "masked", "visual_mean_over": "masked"}):
        objectives = ObjectivesConfig(**settings)
        seen = []
        for raw, size in ((group, 24), (apart, 24), (group, 4), (apart, 1)):
            task = build(model_config, spec, objectives)
            micro = [
                collated(sentences, spec, raw.select(slice(at, at + size)), objectives)
                for at in range(0, 24, size)
            ]
            losses = torch.stack(
                [torch.stack(list(task(batch).losses.values())) for batch in micro]
            ).sum(0)
            losses.sum().backward()
            gradient = torch.cat([p.grad.flatten() for p in task.parameters()])
            counts = {n: sum(m.counts[n] for m in micro) for n in task.loss_names}
            seen.append((losses, gradient, counts))
        for losses, gradient, counts in seen[1:]:
            assert counts == seen[0][2]
            torch.testing.assert_close(losses, seen[0][0], rtol=2e-6, atol=0)
            scale = float(gradient.abs().max())
            torch.testing.assert_close(gradient, seen[0][1], rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize("off", ["object_label", "attribute_label", "roi_feature", "all"])
def test_visual_tasks_that_are_off(
    off: str,
    model_config: ModelConfig,
    sentences: SentenceTable,
    spec: DataSpec,
    make_batch: MakeBatch,
) -> None:
    names = ("object_label", "attribute_label", "roi_feature")
    without = names if off == "all" else (off,)
    objectives = ObjectivesConfig(**{f"{name}_weight": 0.0 for name in without})
    batch = collated(sentences, spec, make_batch(range(20)), objectives)
    task = build(model_config, spec, objectives)
    losses = task(batch).losses
    full = build(model_config, spec)(batch).losses
    for name in task.loss_names:
        expected = 0.0 if name in without else full[name].item()
        assert losses[name].item() == pytest.approx(expected, rel=1e-6), name
    sum(losses.values()).backward()
    for name, value in task.named_parameters():
        assert (value.grad is not None) == value.requires_grad, name
    assert any(not value.requires_grad for value in task.parameters())


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


def test_sums_over_micro_batches_equal_one_batch(
    model_config: ModelConfig, sentences: SentenceTable, spec: DataSpec, make_batch: MakeBatch
) -> None:
    """Accumulated mean gradients equal those of one batch; worst measured 1.2e-7 of the largest."""
    raw = make_batch(range(64))
    collate = pretraining_collate(sentences, spec, ObjectivesConfig(), seed=1, max_tokens=9)
    gradients, losses = [], []
    for size in (64, 24, 8):
        task = build(model_config, spec)
        micro = [collate(raw.select(slice(at, at + size))) for at in range(0, 64, size)]
        counts = {name: sum(m.counts[name] for m in micro) for name in task.loss_names}
        total = dict.fromkeys(task.loss_names, 0.0)
        for batch in micro:
            report = task(batch)
            terms = {n: loss / counts[n] for n, loss in report.losses.items()}
            weights = task.loss_weights_at(0)
            sum(weights[n] * term for n, term in terms.items()).backward()
            for name, term in terms.items():
                total[name] += term.item()
        losses.append(total)
        gradients.append(torch.cat([p.grad.flatten() for p in task.parameters()]))
    for other in (1, 2):
        assert losses[other] == pytest.approx(losses[0], rel=1e-6)
        scale = float(gradients[0].abs().max())
        torch.testing.assert_close(gradients[other], gradients[0], rtol=0, atol=1e-6 * scale)


def test_no_term_is_no_nan_and_every_parameter_has_a_gradient(
    model_config: ModelConfig,
    write_sentences: Callable[..., SentenceTable],
    spec: DataSpec,
    make_batch: MakeBatch,
) -> None:
    objectives = ObjectivesConfig(token_mask_rate=0.0, object_mask_rate=0.0)
    batch = collated(write_sentences(answered=False), spec, make_batch(range(8)), objectives)
    for name in ("masked_lm", "image_qa"):
        assert batch.counts[name] == 0
    task = build(model_config, spec, objectives)
    report = task(batch)
    assert tuple(report.losses) == task.loss_names
    for name in ("masked_lm", "roi_feature", "image_qa"):
        assert report.losses[name].item() == 0
    sum(report.losses.values()).backward()
    for name, value in task.named_parameters():
        assert value.grad is not None, name
        assert value.grad.isfinite().all(), name


def test_store_without_answers(
    model_config: ModelConfig,
    write_sentences: Callable[..., SentenceTable],
    spec: DataSpec,
    make_batch: MakeBatch,
) -> None:
    task = build(model_config, replace(spec, num_answers=0))
    assert task.answer_head is None
    report = task(collated(write_sentences(answered=False), spec, make_batch(range(8))))
    assert report.losses["image_qa"].item() == 0
    assert [value.item() for value in report.metrics["image_qa_accuracy"]] == [0, 0]


def test_settings_of_the_label_losses(
    model_config: ModelConfig, sentences: SentenceTable, spec: DataSpec, make_batch: MakeBatch
) -> None:
    raw = make_batch(range(30))
    ones = replace(
        raw,
        object_scores=np.ones_like(raw.object_scores),
        attribute_scores=np.ones_like(raw.attribute_scores),
    )
    weighed, unit = (collated(sentences, spec, r) for r in (raw, ones))
    task = build(model_config, spec)
    names = ("object_label", "attribute_label")

    def losses(batch: MicroBatch, **settings: object) -> list[float]:
        task.objectives = ObjectivesConfig(**settings)
        report = task(batch)
        return [report.losses[name].item() for name in names]

    assert losses(weighed) != losses(unit)
    assert losses(weighed, weigh_labels_by_score=False) == losses(unit)

    targets = pretrain_targets(weighed)
    masked = targets.masked_objects
    hidden = replace(
        targets,
        object_scores=targets.object_scores * masked,
        attribute_scores=targets.attribute_scores * masked,
    )
    assert losses(weighed, label_scope="masked") == pytest.approx(
        losses(replace(weighed, targets=hidden)), rel=1e-6
    )
    task.objectives = ObjectivesConfig(label_scope="masked")
    counted = task(weighed).metrics["object_label_accuracy"][1]
    assert counted.item() == masked.sum().item()


def test_metrics(
    model_config: ModelConfig, sentences: SentenceTable, spec: DataSpec, make_batch: MakeBatch
) -> None:
    batch = collated(sentences, spec, make_batch(range(30)))
    metrics = build(model_config, spec)(batch).metrics
    counts = {name: count.item() for name, (_, count) in metrics.items()}
    assert counts == {
        "masked_lm_accuracy": batch.counts["masked_lm"],
        "matching_accuracy": 30,
        "object_label_accuracy": 150,
        "attribute_label_accuracy": 150,
        "image_qa_accuracy": batch.counts["image_qa"],
    }
    for right, count in metrics.values():
        assert 0 <= right.item() <= count.item()
        assert not right.requires_grad


def test_bf16_weights_give_float32_losses(
    model_config: ModelConfig, sentences: SentenceTable, spec: DataSpec, make_batch: MakeBatch
) -> None:
    """Worst measured difference: 1.2e-4 of the loss."""
    batch = collated(sentences, spec, make_batch(range(30)))
    task = build(model_config, spec)
    exact = {name: loss.item() for name, loss in task(batch).losses.items()}
    for name, loss in task.bfloat16()(batch).losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[name], rel=1e-3), name


def test_it_learns(
    model_config: ModelConfig, sentences: SentenceTable, spec: DataSpec, make_batch: MakeBatch
) -> None:
    """All six losses fall on a batch that is seen again and again."""
    batch = collated(sentences, spec, make_batch(range(32)))
    task = build(model_config, spec)
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-2)
    seen: list[dict[str, float]] = []
    for _ in range(60):
        terms = {n: loss / batch.counts[n] for n, loss in task(batch).losses.items()}
        seen.append({name: term.item() for name, term in terms.items()})
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    for name in task.loss_names:
        assert seen[-1][name] < 0.8 * seen[0][name], name


def test_batch_of_another_task(
    model_config: ModelConfig, sentences: SentenceTable, spec: DataSpec, make_batch: MakeBatch
) -> None:
    batch = collated(sentences, spec, make_batch(range(4)))
    with pytest.raises(TypeError, match="pretraining_collate"):
        build(model_config, spec)(replace(batch, targets=AnswerTargets(torch.zeros(4, 7))))
