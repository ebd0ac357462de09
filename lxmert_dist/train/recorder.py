"""What a run leaves behind: metrics, the ledger of its steps, checkpoints. Rank 0 writes."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from lxmert_dist.errors import CheckpointError, StoreError
from lxmert_dist.stream.plan import PLAN_VERSION
from lxmert_dist.tracking import Tracker, package_versions
from lxmert_dist.train.checkpoint import Checkpoint, Checkpoints, TrainState
from lxmert_dist.train.engine import PARTS, Engine
from lxmert_dist.train.job import Job
from lxmert_dist.train.world import World, agree


class Recorder:
    """Metrics, ledger and checkpoints of one run, on one rank."""

    def __init__(self, job: Job, world: World, tracker: Tracker, step: int) -> None:
        """Go on from ``step``: what an earlier start wrote about later steps is dropped."""
        self._job = job
        self._world = world
        self._tracker = tracker
        self._checkpoints = Checkpoints(job.config.checkpoint_uri, job.config.checkpoint.keep)
        self._ledger = Path(job.config.directory) / "ledger.jsonl"
        if world.is_main:
            _cut(self._ledger, step)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers, on rank 0."""
        self._tracker.log_metrics(values, step)

    def ledger(self, step: int, epoch: int, identity: int, losses: Mapping[str, float]) -> None:
        """Note what a step trained on (see ``stream.identity``) and its losses, to the last bit."""
        if self._world.is_main:
            line = {"step": step, "epoch": epoch, "identity": f"{identity:016x}", "losses": losses}
            with self._ledger.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def checkpoint(self, engine: Engine, step: int) -> None:
        """Write a checkpoint; all ranks take part, since ZeRO scatters the state.

        Raises:
            CheckpointError: it could not be written; raised on every rank.
        """
        parts = {part: engine.state(part) for part in PARTS}
        problem = ""
        try:
            if self._world.is_main:
                self._checkpoints.save(self._state(step), parts)
        except (StoreError, OSError) as error:
            problem = f"cannot write the checkpoint of step {step}: {error}"
        finally:
            for tensors in parts.values():
                for _ in tensors:  # the other ranks gather with us to the end
                    pass
        problem = agree(problem, self._world)
        if problem:
            raise CheckpointError(problem)

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
            config=job.config.model_dump(mode="json"),
            data_spec=asdict(job.store.spec),
            tokenizer_digest=job.store.manifest.tokenizer.digest,
            answers=list(job.store.answers),
            object_classes=list(job.store.object_classes),
            attribute_classes=list(job.store.attribute_classes),
            tracker_run_id=self._tracker.run_id,
            versions=package_versions(),
        )


def check_resume(checkpoint: Checkpoint, state: TrainState, job: Job) -> None:
    """Refuse to go on with another store, plan or configuration.

    Raises:
        CheckpointError: names what differs and what to do.
    """
    advice = f"use another directory than {job.config.directory}, or remove it to start anew"
    if state.store_digest != job.store.digest:
        raise CheckpointError(
            f"{checkpoint.uri} was trained on store {state.store_digest[:12]}, but "
            f"{job.store.uri} is {job.store.digest[:12]}; {advice}"
        )
    if state.plan_version != PLAN_VERSION:
        raise CheckpointError(
            f"{checkpoint.uri} follows plan version {state.plan_version}, this is {PLAN_VERSION}; "
            f"{advice}"
        )
    if state.fingerprint != job.config.fingerprint():
        now = job.config.model_dump(mode="json")
        changes = ", ".join(_changes(state.config, now)) or "settings of another version"
        raise CheckpointError(
            f"{checkpoint.uri} was trained with other settings ({changes}); {advice}"
        )


def _changes(then: object, now: object, key: str = "") -> list[str]:
    """Settings that differ, as ``a.b: then -> now``."""
    if isinstance(then, dict) and isinstance(now, dict):
        found = []
        for name in {**then, **now}:
            inner = f"{key}.{name}" if key else name
            found += _changes(then.get(name), now.get(name), inner)
        return found
    return [] if then == now else [f"{key}: {then} -> {now}"]


def _cut(ledger: Path, step: int) -> None:
    """Keep the lines of the steps before ``step``; a half-written last line goes too."""
    ledger.parent.mkdir(parents=True, exist_ok=True)
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    kept = ledger.with_suffix(".tmp")
    kept.write_text("".join(line + "\n" for line in lines[:step]))
    kept.replace(ledger)
