"""Fine-tuning: soft targets, the loss, and what is taken over from pretraining."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lxmert_dist.config.sections import ModelConfig, ObjectivesConfig
from lxmert_dist.errors import CheckpointError, ConfigError
from lxmert_dist.schema import AnswerTargets, DataSpec, MicroBatch, PairBatch
from lxmert_dist.store.sentences import SentenceTable
from lxmert_dist.tasks.answering import AnsweringTask, answering_collate
from lxmert_dist.tasks.pretraining import PretrainingTask
from lxmert_dist.tasks.transfer import load_pretrained

SOURCE = ["yes", "no", "3", "circle", "gray", "blue", "square"]
TARGET = ["Three", "a circle", "purple", "Grey.", "yes"]
EXPECTED_ROWS = {0: 2, 1: 3, 3: 4, 4: 0}


@pytest.fixture
def task(model_config: ModelConfig, spec: DataSpec) -> AnsweringTask:
    torch.manual_seed(1)
    return AnsweringTask(model_config, spec, spec.num_answers)


@pytest.fixture
def batch(
    sentences: SentenceTable, spec: DataSpec, make_batch: Callable[..., PairBatch]
) -> MicroBatch:
    return answering_collate(sentences, spec, max_tokens=8)(make_batch([0, 2, 4, 3, 110]))


@pytest.fixture
def weights(model_config: ModelConfig, spec: DataSpec) -> dict[str, Tensor]:
    torch.manual_seed(0)
    pretraining = PretrainingTask(model_config, ObjectivesConfig(), spec)
    with torch.no_grad():
        for value in pretraining.parameters():
            value.normal_()
    return pretraining.state_dict()


def test_collate(batch: MicroBatch, make_batch: Callable[..., PairBatch]) -> None:
    assert isinstance(batch.targets, AnswerTargets)
    expected = np.zeros((5, 7), np.float32)
    expected[0, [0, 3]] = expected[2, [4, 0]] = (0.9, 0.3)
    expected[1, 2] = expected[4, 5] = 1.0  # pair 3 has no answer
    assert (batch.targets.scores.numpy() == expected).all()
    assert batch.counts == {"answer_bce": 5.0}
    assert batch.inputs.padded_token_ids()[:, 1].tolist() == [10, 12, 14, 13, 20]
    assert batch.inputs.attention_mask.sum(1).tolist() == [5, 7, 8, 8, 8]
    raw = make_batch([0, 2, 4, 3, 110])
    assert (batch.inputs.roi_features.numpy() == raw.roi_features).all()


def test_loss_and_accuracy(task: AnsweringTask, batch: MicroBatch) -> None:
    assert isinstance(batch.targets, AnswerTargets)
    scores = batch.targets.scores
    report = task(batch)
    logits = task.logits(batch)
    mean = torch.nn.functional.binary_cross_entropy_with_logits(logits, scores)
    torch.testing.assert_close(report.losses["answer_bce"] / 5, mean * 7)
    right, count = report.metrics["accuracy"]
    assert right.item() == pytest.approx(scores[range(5), logits.argmax(1)].sum().item())
    assert count.item() == 5
    assert tuple(report.losses) == task.loss_names == tuple(task.loss_weights_at(0))


def test_soft_scores_count_in_the_accuracy(task: AnsweringTask, batch: MicroBatch) -> None:
    with torch.no_grad():
        task.answer_head.decoder.weight.zero_()
        task.answer_head.decoder.bias.copy_(torch.arange(7) == 3)
    right, _ = task(batch).metrics["accuracy"]
    assert right.item() == pytest.approx(0.3)


def test_gradients(task: AnsweringTask, batch: MicroBatch) -> None:
    """Whatever requires a gradient gets one; the visual branch that is not run requires none."""
    task(batch).losses["answer_bce"].backward()
    frozen = [name for name, value in task.named_parameters() if not value.requires_grad]
    assert len(frozen) == 12
    assert all(name.startswith("model.cross_modality_encoder.layers.1.vision") for name in frozen)
    for name, value in task.named_parameters():
        assert (value.grad is not None) == value.requires_grad, name


def test_load_pretrained(
    model_config: ModelConfig, spec: DataSpec, weights: dict[str, Tensor]
) -> None:
    task = AnsweringTask(model_config, spec, len(TARGET))
    report = load_pretrained(task, weights, SOURCE, TARGET)
    assert report.copied_answers == 4
    assert report.missing_answers == ("purple",)
    for name, value in task.state_dict().items():
        if not name.startswith("answer_head.decoder."):
            assert torch.equal(value, weights[name]), name
            continue
        for row in range(len(TARGET)):
            source = EXPECTED_ROWS.get(row)
            expected = torch.zeros_like(value[row]) if source is None else weights[name][source]
            assert torch.equal(value[row], expected), (name, row)


def test_pretrained_without_answers(task: AnsweringTask, weights: dict[str, Tensor]) -> None:
    before = {name: value.clone() for name, value in task.answer_head.state_dict().items()}
    bare = {name: value for name, value in weights.items() if name.startswith("model.")}
    report = load_pretrained(task, bare, [], SOURCE)
    assert report.copied_answers == 0
    assert report.missing_answers == tuple(SOURCE)
    for name, value in task.answer_head.state_dict().items():
        assert torch.equal(value, before[name])
    words = "model.text_embedding.word.weight"
    assert torch.equal(task.state_dict()[words], weights[words])


def test_misfits_name_the_tensor_and_change_nothing(
    model_config: ModelConfig, spec: DataSpec, task: AnsweringTask, weights: dict[str, Tensor]
) -> None:
    word, first = "model.text_embedding.word.weight", "model.text_embedding.layer_norm.weight"
    before = {name: value.clone() for name, value in task.state_dict().items()}
    misfits = (
        ({**weights, word: weights[word][:-1]}, SOURCE, rf"{word} is \(60, 16\).*\(61, 16\)"),
        ({k: v for k, v in weights.items() if k != first}, SOURCE, f"no {first}"),
        ({**weights, "model.other": weights[first]}, SOURCE, r"holds model\.other"),
        (weights, SOURCE[:-1], r"answer_head\.decoder\.weight is \(7, 32\).*\(6, 32\)"),
    )
    for wrong, answers, message in misfits:
        with pytest.raises(CheckpointError, match=message):
            load_pretrained(task, wrong, answers, SOURCE)
    for name, value in task.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_answers_of_another_head(task: AnsweringTask, weights: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="5 target answers for a head of 7"):
        load_pretrained(task, weights, SOURCE, TARGET)


def test_no_answers(model_config: ModelConfig, spec: DataSpec) -> None:
    with pytest.raises(ConfigError, match="answers"):
        AnsweringTask(model_config, replace(spec, num_answers=0), 0)
