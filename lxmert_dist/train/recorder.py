"""What a run leaves behind: metrics, the ledger of its steps, checkpoints. Rank 0 writes."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from lxmert_dist.errors import ConfigError, StoppedError
from lxmert_dist.redact import redact_tree
from lxmert_dist.store import uri as uris
from lxmert_dist.stream.plan import PLAN_VERSION
from lxmert_dist.tracking import Tracker, package_versions
from lxmert_dist.train.checkpoint import Checkpoints
from lxmert_dist.train.engine import PARTS, Engine
from lxmert_dist.train.job import Job
from lxmert_dist.train.retention import Retention
from lxmert_dist.train.snapshot import Snapshot
from lxmert_dist.train.state import TrainState
from lxmert_dist.train.world import World
from lxmert_dist.train.writer import Writer


class Recorder:
    """Metrics, ledger and checkpoints of one run, on one rank."""

    def __init__(
        self, job: Job, world: World, tracker: Tracker, engine: Engine, state: TrainState | None
    ) -> None:
        """Go on from ``state``: what an earlier start wrote about later steps is dropped."""
        self._job = job
        self._world = world
        self._tracker = tracker
        self._engine = engine
        settings, step = job.config.checkpoint, state.step if state else 0
        self._checkpoints = Checkpoints(job.config.checkpoint_uri, Retention.of(settings))
        snapshot = Snapshot(
            engine.shapes("weights"), world, timeout_seconds=job.config.cluster.timeout_seconds
        )
        self._writer = Writer(snapshot, world, background=settings.background)
        self._saved_step = step
        self.skipped = state.skipped if state else 0
        self._validation: dict[str, float] = {}
        self._validated_step = -1
        self._ledger = Path(job.config.directory) / "ledger.jsonl"
        if world.is_main:
            _cut(self._ledger, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the last checkpoint; without an error of its own after another one."""
        problem = self._writer.abandon()
        if problem and self._world.is_main:
            print(f"error: the last checkpoint failed: {problem}", file=sys.stderr)  # noqa: T201

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers, on rank 0; with them what a checkpoint cost that was finished since."""
        news = {f"checkpoint/{name}": value for name, value in self._writer.news().items()}
        self._tracker.log_metrics({**values, **news}, step)

    def validation(self, values: Mapping[str, float], step: int) -> None:
        """Log the metrics of a validation, which the checkpoint of this step keeps.

        Raises:
            ConfigError: ``checkpoint.best`` is none of them.
        """
        best = self._job.config.checkpoint.best
        if best and best not in values:
            raise ConfigError(
                f"checkpoint.best={best} is no metric of the validation; choose one of "
                f"{', '.join(sorted(values))}"
            )
        self._validation, self._validated_step = dict(values), step
        self.metrics(values, step)

    def ledger(
        self, step: int, epoch: int, identity: int, losses: Mapping[str, float], *, applied: bool
    ) -> None:
        """Note what a step trained on (see ``stream.identity``) and its losses, to the last bit.

        A step that is not ``applied`` changed no weights: its gradients overflowed.
        """
        self.skipped += not applied
        if self._world.is_main:
            line: dict[str, Any] = {
                "step": step,
                "epoch": epoch,
                "identity": f"{identity:016x}",
                "losses": losses,
            }
            if not applied:
                line["skipped"] = True
            with self._ledger.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def before_update(self) -> None:
        """Return when weights and moments may change: see ``Writer.before_update``."""
        self._writer.before_update()

    def checkpoint(self, step: int) -> None:
        """Begin a checkpoint of ``step``, unless it is there; all ranks take part.

        Raises:
            CheckpointError: the one before could not be written; on every rank.
        """
        if step == self._saved_step:
            return
        self._writer.finish()
        state = self._state(step)
        self._writer.start(
            self._checkpoints.place(step),
            {part: list(self._engine.fragments(part)) for part in PARTS},
            lambda parts: self._save(state, parts),
        )
        self._saved_step = step

    def writing(self) -> bool:
        """Whether a checkpoint is being written here that needs no other rank any more."""
        return self._writer.writing

    def finish(self) -> None:
        """Wait for the last checkpoint, if one is being written; a collective.

        Raises:
            CheckpointError: it could not be written; on every rank.
        """
        self._writer.finish()
        self.metrics({}, self._saved_step)

    def last_words(self, error: StoppedError, step: int) -> StoppedError:
        """Leave a checkpoint of ``step`` before the run ends early; returns what to raise."""
        self.checkpoint(step)
        self.finish()
        rest = f"the checkpoint is {uris.shown(self._checkpoints.place(step))}" if step else ""
        return type(error)(
            f"{error} after step {step}; {rest or 'nothing was trained yet'}; the same command "
            "goes on from there"
        )

    def _save(self, state: TrainState, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """A store that is away for a while ends a run no sooner than where it reads its data."""
        with uris.patience(self._job.config.data.patience_s):
            self._checkpoints.save(state, parts)

    def _state(self, step: int) -> TrainState:
        job = self._job
        position = job.position(step)
        return TrainState(
            step=step,
            epoch=position.epoch,
            epoch_step=position.step,
            plan_version=PLAN_VERSION,
            store_digest=job.store.digest,
            fingerprint=job.config.fingerprint(),
            config=redact_tree(job.config.model_dump(mode="json")),
            data_spec=asdict(job.store.spec),
            tokenizer_digest=job.store.tokenizer.digest,
            answers=list(job.store.answers),
            object_classes=list(job.store.object_classes),
            attribute_classes=list(job.store.attribute_classes),
            tracker_run_id=self._tracker.run_id,
            skipped=self.skipped,
            loss_scaler=self._engine.loss_scaler,
            metrics=self._validation if self._validated_step == step else {},
            versions=package_versions(),
            detector=job.store.manifest.extractor,
        )


def _cut(ledger: Path, step: int) -> None:
    """Keep the lines of the steps before ``step``; a half-written last line goes too."""
    ledger.parent.mkdir(parents=True, exist_ok=True)
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    kept = ledger.with_suffix(".tmp")
    kept.write_text("".join(line + "\n" for line in lines[:step]))
    kept.replace(ledger)
