"""Writes checkpoints behind the training loop, one at a time."""

import threading
import time
from collections.abc import Callable, Mapping

from torch import Tensor

from lxmert_dist.errors import CheckpointError
from lxmert_dist.train.snapshot import Fragments, Snapshot
from lxmert_dist.train.world import World, agree_on_any

Write = Callable[[Mapping[str, Mapping[str, Tensor]]], object]
"""Makes a checkpoint of whole tensors by part and name; called on rank 0."""


class Writer:
    """One rank's part in the writing: copy, gather, and on rank 0 write, in a thread of its own.

    Training goes on at once; ``before_update`` holds it until the state is copied.
    """

    def __init__(self, snapshot: Snapshot, world: World, *, background: bool) -> None:
        """With ``background`` off, :meth:`start` returns when all is written."""
        self._snapshot = snapshot
        self._world = world
        self._background = background
        self._thread: threading.Thread | None = None
        self._copied = threading.Event()
        self._copied.set()
        self.writing = False
        """Whether rank 0, which has gathered the whole, writes it."""
        self._problem = ""
        self._place = ""
        self._figures: dict[str, float] = {}

    def start(self, place: str, fragments: Fragments, write: Write) -> None:
        """Begin a checkpoint; the one before is finished. A collective.

        Args:
            place: what errors call it.
            fragments: this rank's part of the state.
            write: makes a checkpoint of the whole.
        """
        began = time.perf_counter()
        ready = self._snapshot.prepare(fragments)
        self._place = place
        self._copied.clear()
        self._figures = {"stall_seconds": 0.0, "wait_seconds": 0.0, "write_seconds": 0.0}

        def run() -> None:
            try:
                self._snapshot.copy(fragments, ready)
                self._copied.set()
                whole = self._snapshot.gather()
                if self._world.is_main:
                    self.writing = True
                    write(whole)
            except Exception as error:
                self._problem = str(error) or type(error).__name__
            finally:
                self.writing = False
                self._copied.set()
                self._figures["write_seconds"] = time.perf_counter() - began

        # Not a daemon: the process does not end before it.
        self._thread = threading.Thread(target=run, name="checkpoint")
        self._thread.start()
        if not self._background:
            self._thread.join()
        self._figures["stall_seconds"] += time.perf_counter() - began

    def before_update(self) -> None:
        """Return when weights and moments may change."""
        if not self._copied.is_set():
            began = time.perf_counter()
            self._copied.wait()
            self._figures["stall_seconds"] += time.perf_counter() - began

    def news(self) -> dict[str, float]:
        """What the last checkpoint cost, in seconds, once it is written; told once, else empty.

        ``stall`` of the training in all, of which ``wait`` for the end of the writing, and
        ``write`` from its start to its end.
        """
        if self._thread is not None and self._thread.is_alive():
            return {}
        figures, self._figures = self._figures, {}
        return figures

    def finish(self) -> None:
        """Wait for the checkpoint in flight, if there is one; a collective.

        Raises:
            CheckpointError: it could not be written; on every rank.
        """
        if self._thread is None:
            return
        began = time.perf_counter()
        problem = agree_on_any(self.abandon(), self._world)
        if problem:
            raise CheckpointError(
                f"cannot write the checkpoint {self._place}: {problem} (checkpoint.uri)"
            )
        if self._figures:
            waited = time.perf_counter() - began
            self._figures["wait_seconds"] += waited
            self._figures["stall_seconds"] += waited

    def abandon(self) -> str:
        """Wait like :meth:`finish`, alone and without an error; returns what went wrong, or ""."""
        if self._thread is None:
            return ""
        self._thread.join()
        self._thread = None
        problem, self._problem = self._problem, ""
        return problem
