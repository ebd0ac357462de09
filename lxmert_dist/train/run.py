"""A whole run on one rank: resume, train, evaluate, and say what came of it."""

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lxmert_dist.config import RunConfig, dump_toml
from lxmert_dist.tracking import NullTracker, Status, Tracker, build_tracker, environment_report
from lxmert_dist.train.checkpoint import Checkpoint, Checkpoints, TrainState
from lxmert_dist.train.engine import MOMENTS, Engine, load_weights
from lxmert_dist.train.job import Job, build
from lxmert_dist.train.loop import Trainer
from lxmert_dist.train.recorder import Recorder, check_resume
from lxmert_dist.train.world import World, agree


@dataclass(frozen=True)
class Outcome:
    """What a finished run can say of itself."""

    steps: int
    resumed_from: int
    """The step that this start began at."""
    seconds: float
    parameters: int
    final: Mapping[str, float]
    """Metrics of the final evaluations, ``<evaluation>/<metric>``."""
    checkpoint: str
    peak_memory_bytes: int
    """Largest resident set of this process."""


def run(config: RunConfig, world: World, launcher: str) -> Outcome:
    """Train ``config`` from its last complete checkpoint, or from the start.

    Args:
        config: what to train.
        world: this rank; the process group exists.
        launcher: what started the ranks; a tag of the run in the tracker.

    Raises:
        LxmertError: something does not fit, or cannot go on.
    """
    started = time.monotonic()
    job = build(config)
    parameters = sum(p.numel() for p in job.task.parameters())  # ZeRO-3 will scatter them
    found, state = _last_checkpoint(job, world)
    step = state.step if state else 0
    job.check_memory(world, step)
    tracker = _tracker(job, world, launcher, state)
    status: Status = "FAILED"
    try:
        weights = found.tensors("weights") if found else None
        if weights:
            load_weights(job.task, weights)
        engine = Engine(job.task, config, world)
        if found and weights:
            engine.load("weights", weights)
            for part in MOMENTS:
                engine.load(part, found.tensors(part))
            engine.set_steps_done(step)
        recorder = Recorder(job, world, tracker, step)
        trainer = Trainer(job, world, engine, recorder, step)
        trainer.run()
        final = trainer.finish()
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)
    return Outcome(
        steps=trainer.step,
        resumed_from=step,
        seconds=time.monotonic() - started,
        parameters=parameters,
        final=final,
        checkpoint=config.checkpoint_uri,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _last_checkpoint(job: Job, world: World) -> tuple[Checkpoint | None, TrainState | None]:
    """The checkpoint that rank 0 finds, on every rank."""
    checkpoints = Checkpoints(job.config.checkpoint_uri, job.config.checkpoint.keep)
    found = checkpoints.latest() if world.is_main else None
    uri = agree(found.uri if found else "", world)
    if not uri:
        return None, None
    found = found or checkpoints.open(uri)
    state = found.state()
    check_resume(found, state, job)
    return found, state


def _tracker(job: Job, world: World, launcher: str, state: TrainState | None) -> Tracker:
    if not world.is_main:
        return NullTracker()
    config = job.config
    tracker = build_tracker(
        config.tracking,
        directory=Path(config.directory),
        run_name=config.name,
        run_id=state.tracker_run_id if state else None,
        resume_step=state.step if state else None,
        tags={
            "fingerprint": config.fingerprint(),
            "store_digest": job.store.digest,
            "launcher": launcher,
            "ranks": str(world.size),
        },
    )
    tracker.log_params(_flat(config.model_dump(mode="json")))
    tracker.log_text(dump_toml(config), "config.toml")
    tracker.log_text(environment_report(), "environment.json")
    if job.start and state is None:
        report = "\n".join([f"weights of {getattr(config, 'init', '')}", *job.start.lines()])
        tracker.log_text(report, "init.txt")
        print(report, file=sys.stderr)  # noqa: T201  before the hours, not after them
    return tracker


def _flat(tree: Mapping[str, object], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested settings as ``a.b`` names."""
    flat: dict[str, str | int | float | bool] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str | int | float) else str(value)
    return flat
