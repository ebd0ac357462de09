"""The optimisers, what they decay, and the learning-rate schedule."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.optimizer import Optimizer

from lxmert_dist.config import OptimizerConfig


class BertAdam(Optimizer):
    """Adam as BERT and LXMERT were trained: decoupled decay, and no bias correction.

    m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  p -= lr (m / (sqrt(v) + eps) + decay p)
    (spec of the released code). It is torch's fused AdamW after infinitely many steps: both of its
    corrections, 1 - beta^step, are then exactly 1.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        """See the class; the schedule sets ``lr`` of the groups before each step.

        Raises:
            ValueError: a parameter is not contiguous; the fused kernel would mix its elements up.
        """
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )
        if not all(p.is_contiguous() for group in self.param_groups for p in group["params"]):
            raise ValueError("BertAdam moves contiguous parameters only")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            moving = [(p, p.grad.contiguous()) for p in group["params"] if p.grad is not None]
            if moving:
                self._update(group, *map(list, zip(*moving, strict=True)))

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p] = {
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        beta1, beta2 = group["betas"]
        adamw(
            params,
            grads,
            [self.state[p]["exp_avg"] for p in params],
            [self.state[p]["exp_avg_sq"] for p in params],
            [],
            [torch.full((), math.inf, device=p.device) for p in params],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def build_optimizer(config: OptimizerConfig, params: Iterable[Tensor]) -> Optimizer:
    """The optimiser that the configuration names, with a learning rate of 0 until the first step.

    Zero, because DeepSpeed may call ``step`` once while it sets itself up.

    Args:
        config: names the optimiser and what it decays.
        params: of the task, in the shapes of its layers: a vector is a bias or a norm's weight.
    """
    groups = _groups(config, list(params))
    betas = (config.beta1, config.beta2)
    match config.name:
        case "bert_adam":
            return BertAdam(groups, 0.0, betas, config.eps, config.weight_decay)
        case "adamw":
            return torch.optim.AdamW(
                groups, 0.0, betas, config.eps, config.weight_decay, fused=True
            )


def _groups(config: OptimizerConfig, params: list[Tensor]) -> list[dict[str, Any]]:
    """One group of everything, or the decayed and the rest; none of them is empty."""
    if config.decay_exclude == "none":
        return [{"params": params}]
    matrices = {"params": [p for p in params if p.ndim > 1]}
    vectors = {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0}
    return [group for group in (matrices, vectors) if group["params"]]


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Rate of the update number ``step`` (from 0): linear warm-up, then linear to 0.

    f(x) = x/w if x < w else (1-x)/(1-w), x = step / total_steps (spec, section 4).
    """
    done, warmup = step / total_steps, config.warmup_fraction
    factor = done / warmup if done < warmup else (1 - done) / max(1 - warmup, 1e-12)
    return config.learning_rate * max(factor, 0.0)
