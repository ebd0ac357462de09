"""Back to where a run was: rank 0 reads its last good checkpoint, the others get it from there."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from torch import Tensor

from lxmert_dist.errors import CheckpointError, LxmertError
from lxmert_dist.redact import redact_tree
from lxmert_dist.stream.plan import PLAN_VERSION
from lxmert_dist.train.checkpoint import Checkpoint, Checkpoints
from lxmert_dist.train.job import Job
from lxmert_dist.train.state import TrainState
from lxmert_dist.train.world import World, agree


class Resumed:
    """A checkpoint that a run goes on from, on every rank."""

    def __init__(
        self, uri: str, state: TrainState, world: World, checkpoint: Checkpoint | None
    ) -> None:
        """``checkpoint``: on rank 0, with verified files."""
        self.uri = uri
        self.state = state
        self._world = world
        self._checkpoint = checkpoint

    def tensors(self, part: str, shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, Tensor]]:
        """Name and whole fp32 tensor of each parameter, on the device; a collective.

        Args:
            part: of the state (``engine.PARTS``).
            shapes: what this run's model expects.

        Raises:
            CheckpointError: the checkpoint is of another model; on every rank, before the first.
        """
        found: Mapping[str, Tensor] = {}
        problem = ""
        if self._checkpoint is not None:
            try:
                found = self._checkpoint.tensors(part)
                _compare(self.uri, part, found, shapes)
            except LxmertError as error:
                problem = str(error)
        problem = agree(problem, self._world)
        if problem:
            raise CheckpointError(problem)
        for name, shape in shapes.items():
            yield name, self._shared(found.get(name), shape)

    def _shared(self, tensor: Tensor | None, shape: torch.Size) -> Tensor:
        here = torch.empty(shape) if tensor is None else tensor
        here = here.to(self._world.device)
        if self._world.size > 1:
            dist.broadcast(here, 0)
        return here


@contextmanager
def last_good_checkpoint(job: Job, world: World) -> Iterator[Resumed | None]:
    """What rank 0 finds and verifies, on every rank; None where the run has not begun.

    Only rank 0 reads, whatever the number of ranks. Copies of files that are elsewhere last as long
    as the context.

    Raises:
        CheckpointError: there are checkpoints, but no good one; or they belong to another run.
    """
    with TemporaryDirectory() as folder:
        checkpoint, answer = None, {}
        if world.is_main:
            try:
                checkpoint = Checkpoints(job.config.checkpoint_uri).first_good(
                    lambda found: _verified(found, Path(folder))
                )
                if checkpoint is not None:
                    answer = {"uri": checkpoint.uri, "state": asdict(checkpoint.state())}
            except (LxmertError, OSError) as error:
                answer = {"problem": str(error)}
        answer = json.loads(agree(json.dumps(answer), world))
        if "problem" in answer:
            raise CheckpointError(answer["problem"])
        if not answer:
            yield None
            return
        state = TrainState(**answer["state"])
        check_resume(answer["uri"], state, job)
        yield Resumed(answer["uri"], state, world, checkpoint)


def check_resume(uri: str, state: TrainState, job: Job) -> None:
    """Refuse to go on with another store, plan or configuration.

    Raises:
        CheckpointError: names what differs and what to do.
    """
    advice = f"use another directory than {job.config.directory}, or remove it to start anew"
    if state.store_digest != job.store.digest:
        raise CheckpointError(
            f"{uri} was trained on store {state.store_digest[:12]}, but "
            f"{job.store.uri} is {job.store.digest[:12]}; {advice}"
        )
    if state.plan_version != PLAN_VERSION:
        raise CheckpointError(
            f"{uri} follows plan version {state.plan_version}, this is {PLAN_VERSION}; {advice}"
        )
    if state.fingerprint != job.config.fingerprint():
        now = redact_tree(job.config.model_dump(mode="json"))
        changes = ", ".join(_changes(state.config, now)) or "settings of another version"
        raise CheckpointError(f"{uri} was trained with other settings ({changes}); {advice}")


def _verified(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    checkpoint.verify(folder)
    return checkpoint


def _compare(
    uri: str, part: str, found: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> None:
    for name in {**shapes, **found}:
        there = tuple(found[name].shape) if name in found else None
        here = tuple(shapes[name]) if name in shapes else None
        if there != here:
            raise CheckpointError(
                f"{part} of {name} is {there} in {uri}, but {here} in this model; set model.* as "
                "that run has it, or use another directory"
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
