"""The losses, as sums of terms in float32, and their accuracies (paper, section 3.1).

The loop divides sums by counts (``objectives.loss_norm``), so with global ones a loss depends
neither on the number of ranks nor on accumulation, and a batch without a single term gives 0 and
zero gradients, never NaN.

Shapes: L labelled things of any rank, C classes, M masked objects, F feature width, B pairs,
A answers.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from lxmert_dist.schema import IGNORED


def cross_entropy_sum(
    logits: Float[Tensor, "L C"], labels: Int64[Tensor, " L"]
) -> Float[Tensor, ""]:
    """Cross-entropy over the labels that are not ``IGNORED``."""
    return functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")


def weighted_cross_entropy_sum(
    logits: Float[Tensor, "*L C"],
    labels: Int64[Tensor, "*L"],
    weights: Float[Tensor, "*L"],
) -> Float[Tensor, ""]:
    """Cross-entropy of every object times its weight >= 0; 0 and ``IGNORED`` leave it out."""
    terms = functional.cross_entropy(
        logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return (terms * weights.flatten().float()).sum()


def feature_regression_sum(
    predicted: Float[Tensor, "M F"],
    original: Float[Tensor, "M F"],
    kind: Literal["smooth_l1", "l2"],
) -> Float[Tensor, ""]:
    """Regression error of each object, averaged over its F features.

    ``smooth_l1`` (beta 1) is the released code, ``l2`` (squared error) the paper.
    """
    loss = functional.smooth_l1_loss if kind == "smooth_l1" else functional.mse_loss
    return loss(predicted.float(), original.float(), reduction="none").mean(-1).sum()


def soft_answer_sum(
    logits: Float[Tensor, "B A"], scores: Float[Tensor, "B A"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy against soft scores in [0, 1], over all answers and pairs."""
    return functional.binary_cross_entropy_with_logits(
        logits.float(), scores.float(), reduction="sum"
    )


@torch.no_grad()
def accuracy(
    logits: Float[Tensor, "*L C"],
    labels: Int64[Tensor, "*L"],
    counted: Bool[Tensor, "*L"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """How many arg-maxima are right, of how many.

    Args:
        logits: scores of the classes.
        labels: the right classes.
        counted: True at the things that count; None counts those not ``IGNORED``.
    """
    if counted is None:
        counted = labels != IGNORED
    right = (logits.argmax(-1) == labels) & counted
    return right.sum().float(), counted.sum().float()
