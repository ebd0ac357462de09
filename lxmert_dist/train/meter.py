"""Sums and counts that become means, the clock of the loop, and its progress bar."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from torch import Tensor
from tqdm.auto import tqdm

from lxmert_dist.progress import drawn_over
from lxmert_dist.schema import LossReport
from lxmert_dist.train.world import World, total

_LOG_SECONDS = 10.0
"""Between two lines of progress where they are not drawn over each other, as in a job's log."""

Numbers = dict[str, float | Tensor]


@dataclass
class Meter:
    """Sums of terms and how many there were, by name."""

    sums: Numbers = field(default_factory=dict)
    counts: Numbers = field(default_factory=dict)

    def add(self, report: LossReport, counts: Mapping[str, float], weight: float = 1.0) -> None:
        """Take in what a task reported on a micro-batch with the given counts of loss terms."""
        for name, value in report.losses.items():
            self._add(name, value.detach() * weight, counts[name] * weight)
        for name, (value, count) in report.metrics.items():
            self._add(name, value.detach() * weight, count * weight)

    def over_ranks(
        self, world: World, more: Mapping[str, float] | None = None
    ) -> tuple["Meter", dict[str, float]]:
        """The same over all ranks, and the sums of what else there is; one collective."""
        parts = {"sums": self.sums, "counts": self.counts, "more": more or {}}
        flat = {f"{part}:{k}": v for part, values in parts.items() for k, v in values.items()}
        summed = total(flat, world)
        sums, counts, rest = (
            {k: summed[f"{part}:{k}"] for k in values} for part, values in parts.items()
        )
        return Meter(dict(sums), dict(counts)), rest

    def merge(self, other: "Meter") -> None:
        """Take in another meter."""
        for name, value in other.sums.items():
            self._add(name, value, other.counts[name])

    def means(self) -> dict[str, float]:
        """Mean of each name that counted anything."""
        return {
            name: float(value) / float(self.counts[name])
            for name, value in self.sums.items()
            if float(self.counts[name]) > 0
        }

    def _add(self, name: str, value: float | Tensor, count: float | Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value
        self.counts[name] = self.counts.get(name, 0.0) + count


@dataclass
class Clock:
    """Where the time of some steps went; validation and checkpoints do not count."""

    steps: int = 0
    busy_seconds: float = 0.0
    wait_seconds: float = 0.0

    def add(self, busy_seconds: float, wait_seconds: float) -> None:
        """Take in one step."""
        self.steps += 1
        self.busy_seconds += busy_seconds
        self.wait_seconds += wait_seconds

    def rates(self, pairs_per_step: int) -> dict[str, float]:
        """Pairs per second over all ranks, seconds per step, and the share spent waiting."""
        seconds = max(self.busy_seconds + self.wait_seconds, 1e-9)
        return {
            "pairs_per_second": self.steps * pairs_per_step / seconds,
            "seconds_per_step": seconds / max(self.steps, 1),
            "data_wait_share": self.wait_seconds / seconds,
        }


class Progress:
    """A bar with losses, rate and time left."""

    def __init__(self, total_steps: int, done: int, *, enabled: bool) -> None:
        """Only the main rank shows one."""
        self._bar = tqdm(
            total=total_steps,
            initial=done,
            unit="step",
            disable=not enabled,
            dynamic_ncols=True,
            smoothing=0.05,
            mininterval=0.1 if drawn_over() else _LOG_SECONDS,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self) -> None:
        """One step is done."""
        self._bar.update()

    def show(
        self,
        metrics: Mapping[str, float],
        names: Sequence[str],
        data: Mapping[str, float] | None = None,
    ) -> None:
        """Put the rate, what the data path took, and the losses beside the bar."""
        words = [f"{metrics.get('pairs_per_second', 0.0):.0f} pairs/s"]
        if data:
            wait = metrics.get("data_wait_share", 0.0)
            words.append(f"wait {wait:.1%}, {data['bytes_per_pair'] / 1e3:.2f} KB/pair")
            failed = sum(count for name, count in data.items() if name.startswith("failed_"))
            words += [f"{failed:.0f} failed reads"] if failed else []
        words += [f"{n} {metrics[n]:.3f}" for n in names if n in metrics]
        self._bar.set_postfix_str(", ".join(words), refresh=False)
