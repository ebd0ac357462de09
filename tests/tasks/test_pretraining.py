"""The pretraining task: its losses, over any way of forming batches."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from lxmert_dist.config.sections import ModelConfig, ObjectivesConfig
from lxmert_dist.schema import AnswerTargets, DataSpec, MicroBatch, PairBatch
from lxmert_dist.store.sentences import SentenceTable
from lxmert_dist.tasks import PretrainingTask, pretraining_collate
from tasks_batch import collated, pretrain_targets

MakeBatch = Callable[..., PairBatch]
PER_IMAGE = 6


def build(
    model_config: ModelConfig, spec: DataSpec, objectives: ObjectivesConfig | None = None
) -> PretrainingTask:
    torch.manual_seed(0)
    return PretrainingTask(model_config, objectives or ObjectivesConfig(), spec)


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
