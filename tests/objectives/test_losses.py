"""The losses against sums written out by hand; nothing labelled is 0, never NaN."""

import pytest
import torch
from torch import Tensor

from lxmert_dist.objectives.losses import (
    accuracy,
    cross_entropy_sum,
    feature_regression_sum,
    soft_answer_sum,
    weighted_cross_entropy_sum,
)
from lxmert_dist.schema import IGNORED

DRAW = torch.Generator().manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=DRAW)


def test_cross_entropy() -> None:
    logits, labels = randn(4, 3), torch.tensor([2, IGNORED, 0, 1])
    terms = logits.log_softmax(-1)
    expected = -(terms[0, 2] + terms[2, 0] + terms[3, 1])
    torch.testing.assert_close(cross_entropy_sum(logits, labels), expected)


def test_weighted_cross_entropy() -> None:
    logits, labels = randn(2, 3, 4), torch.tensor([[0, 1, 2], [3, 0, 1]])
    weights = torch.tensor([[0.5, 0.0, 1.0], [0.25, 0.0, 2.0]])
    picked = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
    torch.testing.assert_close(
        weighted_cross_entropy_sum(logits, labels, weights), -(picked * weights).sum()
    )


def test_weighted_cross_entropy_leaves_out_what_is_ignored() -> None:
    logits, labels = randn(4, 5), torch.tensor([1, IGNORED, 4, IGNORED])
    kept = labels != IGNORED
    torch.testing.assert_close(
        weighted_cross_entropy_sum(logits, labels, torch.ones(4)),
        cross_entropy_sum(logits[kept], labels[kept]),
    )


def test_feature_regression() -> None:
    predicted, original = 3 * randn(5, 8), randn(5, 8)
    error = (predicted - original).abs()
    smooth = torch.where(error < 1, error**2 / 2, error - 0.5)
    assert (error < 1).any()
    assert (error > 1).any()
    torch.testing.assert_close(
        feature_regression_sum(predicted, original, "smooth_l1"), smooth.mean(1).sum()
    )
    torch.testing.assert_close(
        feature_regression_sum(predicted, original, "l2"), (error**2).mean(1).sum()
    )


def test_soft_answers() -> None:
    logits, scores = randn(3, 4), torch.rand(3, 4, generator=DRAW)
    mean = torch.nn.functional.binary_cross_entropy_with_logits(logits, scores)
    torch.testing.assert_close(soft_answer_sum(logits, scores), mean * 4 * 3)


def test_sums_add_up_over_micro_batches() -> None:
    logits, labels = randn(10, 3), torch.randint(-1, 3, (10,), generator=DRAW)
    parts = sum(cross_entropy_sum(logits[i : i + 3], labels[i : i + 3]) for i in range(0, 10, 3))
    torch.testing.assert_close(cross_entropy_sum(logits, labels), parts)


@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_labelled(rows: int) -> None:
    logits = randn(rows, 4).requires_grad_()
    total = cross_entropy_sum(logits, torch.full((rows,), IGNORED))
    if not rows:
        total = total + feature_regression_sum(logits, logits.detach(), "smooth_l1")
    total.backward()
    assert total.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_computed_in_float32(dtype: torch.dtype) -> None:
    logits, labels = (10 * randn(50, 30)).to(dtype), torch.arange(50) % 30
    half = cross_entropy_sum(logits, labels)
    assert half.dtype == torch.float32
    assert torch.equal(half, cross_entropy_sum(logits.float(), labels))
    assert soft_answer_sum(logits, logits.sigmoid()).dtype == torch.float32
    assert feature_regression_sum(logits, logits, "l2").dtype == torch.float32
    weights = torch.ones(1, 50)
    assert weighted_cross_entropy_sum(logits[None], labels[None], weights).dtype == torch.float32


def test_accuracy() -> None:
    logits = torch.eye(3)[torch.tensor([0, 1, 2, 2])]
    right, count = accuracy(logits, torch.tensor([0, 2, 2, IGNORED]))
    assert (right.item(), count.item()) == (2, 3)
    counted = torch.tensor([True, True, False, False])
    right, count = accuracy(logits, torch.tensor([0, 2, 2, 2]), counted)
    assert (right.item(), count.item()) == (1, 2)
