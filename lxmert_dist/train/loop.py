"""The one training loop: pretraining and fine-tuning differ only in their job."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch

from lxmert_dist import keyed
from lxmert_dist.config import PretrainConfig
from lxmert_dist.errors import NonFiniteLossError
from lxmert_dist.keyed import Purpose
from lxmert_dist.schema import StepBatch
from lxmert_dist.stream.loader import Loader
from lxmert_dist.train.engine import Engine
from lxmert_dist.train.job import Evaluation, Job
from lxmert_dist.train.meter import Clock, Meter, Progress
from lxmert_dist.train.optimizer import learning_rate
from lxmert_dist.train.reading import Reading
from lxmert_dist.train.recorder import Recorder
from lxmert_dist.train.stop import Stop
from lxmert_dist.train.watchdog import Watchdog
from lxmert_dist.train.world import World, identity_of, identity_parts, total


@dataclass
class Trainer:
    """The loop of one rank."""

    job: Job
    world: World
    engine: Engine
    recorder: Recorder
    stop: Stop
    watchdog: Watchdog
    step: int = 0
    """Optimiser steps done."""
    validated: bool = False
    """Whether the weights of ``step`` were validated already, before an earlier start ended."""
    meter: Meter = field(default_factory=Meter)
    """Of the steps since the last line of metrics, as is ``clock``."""
    clock: Clock = field(default_factory=Clock)
    reading: Reading = field(default_factory=Reading)
    """As ``clock``."""
    latest: dict[str, float] = field(default_factory=dict)
    """Learning rate, gradient norm and loss scale of the last step."""
    flags: dict[str, float] = field(default_factory=dict)
    """What the ranks were asked during the last step: see ``Stop``."""

    def run(self) -> None:
        """Train from ``step`` to the end, with evaluations and checkpoints as they are due.

        Raises:
            NonFiniteLossError: a loss is NaN or infinite; the weights are those of the step before.
            StoppedError: a signal ended it; the weights are those of ``step``.
        """
        job, config = self.job, self.job.config
        if self.step == 0 or (self._due(config.train.validate_every) and not self.validated):
            self._evaluate()
        self.watchdog.mark(f"waiting for the data of step {self.step}")
        with (
            job.loader(self.world, job.position(self.step)) as loader,
            Progress(job.total_steps, self.step, enabled=self.world.is_main) as progress,
        ):
            for batch in take(loader, job.total_steps - self.step):
                self.watchdog.mark(f"training step {self.step}")
                started = time.perf_counter()
                self._step(batch)
                self.clock.add(time.perf_counter() - started, batch.wait_seconds)
                self.reading.add(batch)
                self.step += 1
                at_end = self.step == job.total_steps
                if at_end or self.step % config.train.log_every == 0:
                    self._log(progress, loader)
                self.stop.check(self.flags)
                if self._due(config.train.validate_every):
                    self._evaluate()
                if self._due(config.checkpoint.every):
                    self.recorder.checkpoint(self.step)
                progress.advance()
                self.watchdog.mark(f"waiting for the data of step {self.step}")

    def finish(self) -> dict[str, float]:
        """Run the evaluations that are due once, after the last step; returns their metrics."""
        metrics: dict[str, float] = {}
        for evaluation in self.job.final:
            metrics |= self._score(evaluation)
        self.recorder.metrics(metrics, self.step)
        return metrics

    def _evaluate(self) -> None:
        self.recorder.validation(self._score(self.job.validation), self.step)

    def _score(self, evaluation: Evaluation) -> dict[str, float]:
        """Metrics of an evaluation by ``<evaluation>/<metric>``; every rank gets them."""
        loader = evaluation.loader(self.job.config, self.world)
        at = f"scoring {evaluation.name} after {self.step} steps"
        found = evaluate(self.engine, loader, self.world, self.stop, lambda: self.watchdog.mark(at))
        weights = self.job.task.loss_weights_at(self.step)
        found["loss"] = weighted(found, weights)
        return {f"{evaluation.name}/{name}": value for name, value in found.items()}

    def _due(self, every: int) -> bool:
        if self.step == self.job.total_steps:
            return True
        return self.step % every == 0 if every else self.job.position(self.step).step == 0

    def _step(self, batch: StepBatch) -> None:
        """One optimiser step."""
        job, world = self.job, self.world
        names = job.task.loss_names
        # Dropout is a function of the step and the rank, so a resumed run repeats it.
        key = keyed.bits(job.config.seed, 0, self.step, Purpose.DROPOUT, world.rank)
        torch.manual_seed(int(key) >> 1)
        self.engine.train()
        weights = job.task.loss_weights_at(self.step)
        seen = Meter()
        divisors = self._divisors(batch)
        for number, (micro_batch, by) in enumerate(
            zip(batch.micro_batches, divisors, strict=True), start=1
        ):
            report = self.engine(micro_batch)
            seen.add(report, micro_batch.counts)
            terms = [weights[n] * report.losses[n] / by[n] for n in names]
            self.engine.backward(torch.stack(terms).sum())
            if number < len(batch.micro_batches):
                self.engine.end_micro_batch()
        sums = identity_parts(batch.identity) | self.stop.flags()
        seen, sums = seen.over_ranks(world, sums)
        self.flags = sums
        check_finite(seen.sums, names, self.step)
        rate = learning_rate(job.config.optimizer, self.step, job.total_steps)
        self.recorder.before_update()
        norm = self.engine.step(rate)
        applied = self.engine.applied
        self.meter.merge(seen)
        self.latest = {"learning_rate": rate, "gradient_norm": norm} | self._scale()
        means = seen.means()
        losses = {n: means[n] for n in names if n in means}
        identity = self.reading.identity = identity_of(sums)
        self.recorder.ledger(self.step, batch.epoch, identity, losses, applied=applied)

    def _scale(self) -> dict[str, float]:
        """The loss scale, where there is one, and how many updates were skipped for it."""
        scaler = self.engine.loss_scaler
        if not scaler:
            return {}
        return {"loss_scale": scaler["cur_scale"], "skipped_steps": float(self.recorder.skipped)}

    def _divisors(self, batch: StepBatch) -> list[Mapping[str, float]]:
        """What divides the sum of each loss's terms, for each of this rank's micro-batches.

        ``global``: the count over all ranks and micro-batches, so that neither changes what is
        trained. ``per_replica``: the micro-batch's own count, and the number of micro-batches of
        all ranks, over which the means are averaged (spec, section 2). A count is at least 1: a
        task without a label has the loss 0, where the released code has NaN.
        """
        config, names = self.job.config, self.job.task.loss_names
        parts = batch.micro_batches
        if isinstance(config, PretrainConfig) and config.objectives.loss_norm == "per_replica":
            means = len(parts) * self.world.size
            return [{n: max(part.counts[n], 1.0) * means for n in names} for part in parts]
        counts = total({n: sum(part.counts[n] for part in parts) for n in names}, self.world)
        return [{n: max(counts[n], 1.0) for n in names}] * len(parts)

    def _log(self, progress: Progress, loader: Loader) -> None:
        """Log the means since the last time, and their total by the weights of the last step."""
        job = self.job
        metrics = self.meter.means()
        weights = job.task.loss_weights_at(self.step - 1)
        metrics["loss"] = weighted(metrics, weights)
        metrics |= self.latest | self.clock.rates(job.config.train.global_batch_size)
        data = self.reading.metrics(loader.stats(), self.clock, self.world)
        self.meter, self.clock, self.reading = Meter(), Clock(), Reading()
        progress.show(metrics, job.task.loss_names, data)
        named = {f"train/{k}": v for k, v in metrics.items()}
        self.recorder.metrics(named | {f"data/{k}": v for k, v in data.items()}, self.step)


@torch.no_grad()
def evaluate(
    engine: Engine, loader: Loader, world: World, stop: Stop, mark: Callable[[], None]
) -> dict[str, float]:
    """Mean losses and metrics over all pairs of a loader and all ranks.

    ``mark`` is called for each batch.

    Raises:
        StoppedError: a signal ended it before its end.
    """
    engine.eval()
    meter = Meter()
    with loader:
        for batch in loader:
            mark()
            for micro_batch in batch.micro_batches:
                report = engine(micro_batch)
                meter.add(report, micro_batch.counts, float(batch.counted))
            stop.check_together(world)
    return meter.over_ranks(world)[0].means()


def weighted(means: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The total of the losses' means by their weights; one that counted nothing adds nothing."""
    return sum(weight * means.get(name, 0.0) for name, weight in weights.items())


def take(batches: Iterable[StepBatch], number: int) -> Iterable[StepBatch]:
    """The first ``number`` batches, without asking for one more."""
    if number > 0:
        for done, batch in enumerate(batches, start=1):
            yield batch
            if done == number:
                return


def check_finite(
    losses: Mapping[str, float | torch.Tensor], names: Iterable[str], step: int
) -> None:
    """Stop before the optimiser moves.

    Raises:
        NonFiniteLossError: names the step and the losses.
    """
    bad = [name for name in names if not math.isfinite(float(losses[name]))]
    if bad:
        raise NonFiniteLossError(
            f"step {step}: {', '.join(bad)} is not finite; the weights were not changed. Lower "
            "optimizer.learning_rate, use train.precision=fp32, or look for bad features"
        )
