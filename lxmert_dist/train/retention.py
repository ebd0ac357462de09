"""Which checkpoints of a run stay."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lxmert_dist.config import CheckpointConfig


@dataclass(frozen=True)
class Retention:
    """The newest ``keep``, every ``keep_every``-th step, and the best by a metric."""

    keep: int = 2
    keep_every: int = 0
    """0: none."""
    best: str = ""
    """Empty: none."""
    highest: bool = False

    @classmethod
    def of(cls, config: CheckpointConfig) -> "Retention":
        """What a configuration says."""
        return cls(config.keep, config.keep_every, config.best, config.best_is == "highest")

    def kept(self, steps: Sequence[int], metrics: Mapping[int, Mapping[str, float]]) -> set[int]:
        """Which steps stay, of the complete checkpoints of these steps.

        Args:
            steps: ascending; the newest is always kept.
            metrics: by step, those of a validation right before the checkpoint.
        """
        stay = set(steps[-self.keep :])
        if self.keep_every:
            stay |= {step for step in steps if step % self.keep_every == 0}
        best = self.best_step({step: metrics.get(step, {}) for step in steps})
        return stay if best is None else stay | {best}

    def best_step(self, metrics: Mapping[int, Mapping[str, float]]) -> int | None:
        """The best step, the earliest of equals; None where none has the metric."""
        sign = -1.0 if self.highest else 1.0
        judged = [
            (sign * found[self.best], step)
            for step, found in metrics.items()
            if math.isfinite(found.get(self.best, math.nan))
        ]
        return min(judged)[1] if judged else None
