"""A whole run on one rank: resume, train, evaluate, and say what came of it."""

import resource
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from lxmert_dist.config import PretrainConfig, RunConfig, dump_toml, flat_settings
from lxmert_dist.errors import StoppedError
from lxmert_dist.tracking import (
    NullTracker,
    Status,
    Tracker,
    build_tracker,
    environment_report,
    log_curves,
    read_metrics,
)
from lxmert_dist.train.claim import claim
from lxmert_dist.train.engine import PARTS, Engine, load_weights
from lxmert_dist.train.job import Job, build
from lxmert_dist.train.loop import Trainer
from lxmert_dist.train.orphan import Orphan
from lxmert_dist.train.recorder import Recorder
from lxmert_dist.train.resume import Resumed, last_good_checkpoint
from lxmert_dist.train.state import TrainState
from lxmert_dist.train.stop import Stop
from lxmert_dist.train.watchdog import Watchdog
from lxmert_dist.train.world import World, bound_collectives


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


def run(config: RunConfig, world: World, launcher: str, stop: Stop | None = None) -> Outcome:
    """Train ``config`` from its last complete checkpoint, or from the start.

    Args:
        config: what to train.
        world: this rank; the process group exists.
        launcher: what started the ranks; a tag of the run in the tracker.
        stop: who else may ask for the end than signals to the main thread.

    Raises:
        LxmertError: something does not fit, or cannot go on.
    """
    started = time.monotonic()
    bound_collectives(config.cluster.timeout_seconds)
    tracker: Tracker = NullTracker()
    status: Status = "FAILED"
    grace = config.checkpoint.grace_seconds
    with (
        claim(Path(config.directory), grace) if world.is_main else nullcontext(),
        stop or Stop(grace) as stop,
        Orphan(stop),
        Watchdog(world, config.cluster.timeout_seconds, grace) as watchdog,
    ):
        try:
            watchdog.mark("opening the store")
            job = build(config)
            parameters = sum(p.numel() for p in job.task.parameters())  # ZeRO-3 will scatter them
            watchdog.mark("reading the checkpoint")
            with last_good_checkpoint(job, world) as resumed:
                state = resumed.state if resumed else None
                job.check_memory(world, state.step if state else 0)
                tracker = _tracker(job, world, launcher, state)
                watchdog.mark("building the engine")
                engine = _engine(job, world, resumed)
            trainer, final = _train(job, world, tracker, engine, state, stop, watchdog)
            status = "FINISHED"
        except (KeyboardInterrupt, StoppedError):
            status = "KILLED"
            raise
        finally:
            tracker.close(status)
    return Outcome(
        steps=trainer.step,
        resumed_from=state.step if state else 0,
        seconds=time.monotonic() - started,
        parameters=parameters,
        final=final,
        checkpoint=config.checkpoint_uri,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _engine(job: Job, world: World, resumed: Resumed | None) -> Engine:
    """The engine around the job's task, in the state of a checkpoint if there is one."""
    if resumed:
        shapes = {name: tensor.shape for name, tensor in job.task.state_dict().items()}
        load_weights(job.task, resumed.tensors("weights", shapes))
    engine = Engine(job.task, job.config, world)
    if resumed:
        for part in PARTS:
            engine.load(part, resumed.tensors(part, engine.shapes(part)))
        engine.set_steps_done(resumed.state.step - resumed.state.skipped)
        engine.set_loss_scaler(resumed.state.loss_scaler)
    return engine


def _train(
    job: Job,
    world: World,
    tracker: Tracker,
    engine: Engine,
    state: TrainState | None,
    stop: Stop,
    watchdog: Watchdog,
) -> tuple[Trainer, dict[str, float]]:
    """The loop, and the evaluations after it; a signal ends both with a checkpoint."""
    with Recorder(job, world, tracker, engine, state) as recorder:
        watchdog.spare(recorder.writing)
        trainer = Trainer(job, world, engine, recorder, stop, watchdog)
        if state:
            trainer.step, trainer.validated = state.step, bool(state.metrics)
        try:
            trainer.run()
            final = trainer.finish()
            watchdog.mark("finishing the last checkpoint")
            recorder.finish()
            if world.is_main and job.config.tracking.curves:
                watchdog.mark("drawing the curves")
                log = read_metrics(Path(job.config.directory) / "metrics.jsonl")
                log_curves(tracker, log, job.task.loss_names, job.validation.name)
        except StoppedError as error:
            raise recorder.last_words(error, trainer.step) from None
    return trainer, final


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
            "task": "pretraining" if isinstance(config, PretrainConfig) else "answering",
            "fingerprint": config.fingerprint(),
            "store_digest": job.store.digest,
            "launcher": launcher,
            "ranks": str(world.size),
        },
        parent=job.start.run_id if job.start else "",
    )
    tracker.log_params(flat_settings(config))
    tracker.log_text(dump_toml(config), "config.toml")
    tracker.log_text(environment_report(), "environment.json")
    if job.start and state is None:
        report = "\n".join([f"weights of {getattr(config, 'init', '')}", *job.start.lines()])
        tracker.log_text(report, "init.txt")
        print(report, file=sys.stderr)  # noqa: T201  before the hours, not after them
    return tracker
