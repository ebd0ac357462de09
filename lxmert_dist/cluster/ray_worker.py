"""A rank as a Ray Train worker, and what it and the driver tell each other."""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.train import get_context
from ray.train.backend import Backend
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig

from lxmert_dist.cluster.launcher import use_threads
from lxmert_dist.config import RunConfig, deepspeed_config
from lxmert_dist.errors import ClusterError, ConfigError, LxmertError
from lxmert_dist.redact import redacted_output
from lxmert_dist.train.run import Outcome, run
from lxmert_dist.train.stop import Stop
from lxmert_dist.train.world import World, best_device, introduction, join

BEAT_SECONDS = 0.5
"""How often rank 0 tells the driver that it is there, and hears whether it is to stop."""


@dataclass(frozen=True)
class Word:
    """What the driver finds in the mailbox."""

    answer: Outcome | LxmertError | None
    """How the run ended, if it did."""
    heard: bool
    """Whether a rank 0 was ever there."""
    silent_seconds: float
    """Since it was last heard, or since the start."""


class Mailbox:
    """Between the workers, which come and go, and the driver; an actor on the driver's node."""

    def __init__(self) -> None:
        self._answer: Outcome | LxmertError | None = None
        self._signal = 0
        self._heard = False
        self._last = time.monotonic()

    def beat(self) -> int:
        """Rank 0 is there; returns the signal that the run is to end by, or 0."""
        self._heard, self._last = True, time.monotonic()
        return self._signal

    def stop(self, number: int) -> None:
        """The driver got this signal."""
        self._signal = number

    def answer(self, content: Outcome | LxmertError) -> None:
        """The run ended; of several errors the first stands."""
        if self._answer is None:
            self._answer = content

    def read(self) -> Word:
        """What the driver wants to know."""
        return Word(self._answer, self._heard, time.monotonic() - self._last)


class _NoGroup(Backend):  # type: ignore[misc]
    share_cuda_visible_devices = True


class OwnGroup(TorchConfig):  # type: ignore[misc]
    """Ranks form their process group themselves.

    Ray gives up a run whose group does not form, be it for a lost packet, and would have spare
    workers in it.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        """What prepares the workers: GPUs of a node are visible to all of them."""
        return _NoGroup


def ranks_among(config: RunConfig, workers: int) -> int:
    """How many of the workers become ranks: as many as divide the lanes and the batch."""
    for ranks in range(workers, 1, -1):
        with contextlib.suppress(ConfigError):
            deepspeed_config(config, world_size=ranks)
            return ranks
    return 1


@redacted_output()
def work(arguments: dict[str, Any]) -> None:
    """One worker's part of the run.

    Args:
        arguments: ``type`` and ``config`` (JSON) of the run, and its ``mailbox``.
    """
    config: RunConfig = arguments["type"].model_validate_json(arguments["config"])
    mailbox = arguments["mailbox"]
    context = get_context()
    number, workers = context.get_world_rank(), context.get_world_size()
    # A barrier: behind it all workers of this attempt are there.
    place = broadcast_from_rank_zero(_place() if number == 0 else None)
    os.environ.update(MASTER_ADDR=place[0], MASTER_PORT=place[1])
    ranks = ranks_among(config, workers)
    node = ray.util.get_node_ip_address()
    if number >= ranks:
        _say(f"worker {number} on {node} is spare: {ranks} ranks divide the lanes")
        return
    local = context.get_local_rank()
    world = World(number, ranks, local, context.get_local_world_size(), best_device(local))
    _say(introduction(world, node))
    use_threads(config.train.threads, world.local_size, os.environ)
    stop = Stop(config.checkpoint.grace_seconds)
    with _listening(mailbox, world, stop):
        try:
            join(world, timeout_seconds=config.cluster.timeout_seconds)
            answer: Outcome | LxmertError = run(config, world, "ray", stop)
        except ClusterError:
            raise  # the others may be lost, not the run: Ray starts it again
        except LxmertError as error:
            answer = error
    if world.is_main or isinstance(answer, LxmertError):
        ray.get(mailbox.answer.remote(answer))


def _place() -> tuple[str, str]:
    """Address and a free port, on the node of rank 0, for the ranks to meet at."""
    address = ray.util.get_node_ip_address()
    with socket.socket() as probe:
        probe.bind((address, 0))
        return address, str(probe.getsockname()[1])


@contextlib.contextmanager
def _listening(mailbox: Any, world: World, stop: Stop) -> Iterator[None]:
    """While it lasts, rank 0 is heard by the driver, and hears from it."""
    ended = threading.Event()

    def listen() -> None:
        while not ended.wait(BEAT_SECONDS):
            with contextlib.suppress(ray.exceptions.RayError):  # the way may be cut for a while
                number = ray.get(mailbox.beat.remote())
                if number:
                    stop.request(number)

    if world.is_main:
        threading.Thread(target=listen, name="mailbox", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _say(line: str) -> None:
    """A line of the job's log; Ray Train doubles what is printed."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
