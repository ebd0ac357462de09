"""The optimisers and the learning-rate schedule."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from lxmert_dist.config import OptimizerConfig


class BertAdam(Optimizer):
    """Adam as BERT and LXMERT were trained: no bias correction, decoupled decay on everything.

    m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  p -= lr (m / (sqrt(v) + eps) + decay p)
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        """See the class; the schedule sets ``lr`` of the group before each step."""
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(group, params)

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p] = {
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        beta1, beta2 = group["betas"]
        grads = [p.grad for p in params if p.grad is not None]
        m = [self.state[p]["exp_avg"] for p in params]
        v = [self.state[p]["exp_avg_sq"] for p in params]
        torch._foreach_lerp_(m, grads, 1 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, grads, grads, value=1 - beta2)
        update = torch._foreach_sqrt(v)
        torch._foreach_add_(update, group["eps"])
        update = torch._foreach_div(m, update)
        torch._foreach_add_(update, params, alpha=group["weight_decay"])
        torch._foreach_add_(params, update, alpha=-group["lr"])


def build_optimizer(config: OptimizerConfig, params: Iterable[Tensor]) -> Optimizer:
    """The optimiser that the configuration names, with a learning rate of 0 until the first step.

    Zero, because DeepSpeed may call ``step`` once while it sets itself up.
    """
    betas = (config.beta1, config.beta2)
    match config.name:
        case "bert_adam":
            return BertAdam(params, 0.0, betas, config.eps, config.weight_decay)
        case "adamw":
            return torch.optim.AdamW(
                params, 0.0, betas, config.eps, config.weight_decay, fused=True
            )


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Rate of the update number ``step`` (from 0): linear warm-up, then linear to 0.

    f(x) = x/w if x < w else (1-x)/(1-w), x = step / total_steps (spec, section 4).
    """
    done, warmup = step / total_steps, config.warmup_fraction
    factor = done / warmup if done < warmup else (1 - done) / max(1 - warmup, 1e-12)
    return config.learning_rate * max(factor, 0.0)
