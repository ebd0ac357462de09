"""No rank waits for ever for one that is missing: each says which one it is, and ends."""

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from lxmert_dist.errors import ClusterError, LxmertError, RankError, StoppedError
from lxmert_dist.train.heartbeat import Hub, Limits, Line, Peer, Verdict, Wire
from lxmert_dist.train.world import World, agree, meeting_host

SILENCE_SECONDS = 60
"""A rank that is silent for longer is missing, where ``timeout_seconds`` is not less: a network
that was cut for half a minute costs nothing."""
ANSWER_SECONDS = 5.0
"""How long an error waits for the verdict that explains it, and a verdict for the error that it
explains."""
TEARDOWN_SECONDS = 30.0
"""How long the process may take to end by an error: what a dead rank left open may hang it."""
_LISTEN = "check this machine's limits of open files and ports"
_LOOK_SECONDS = 0.1


class Watchdog:
    """A context for all that ranks do together; of a single rank, it does nothing.

    Heartbeats go from thread to thread, so that a rank which takes long over a step, or compiles,
    is not missing. A rank is, when its process ended, when it says nothing for
    ``SILENCE_SECONDS``, and when no rank at all got further for ``timeout_seconds``. Then every
    other rank ends with a :class:`ClusterError` that names it; where the main thread hangs in a
    collective, the process ends all the same. An error of one rank ends the others by its words.
    """

    def __init__(self, world: World, timeout_seconds: float, grace_seconds: float) -> None:
        """Watch nothing yet.

        Args:
            world: this rank among the others.
            timeout_seconds: how long the run may stand still.
            grace_seconds: how long a checkpoint that is being written keeps the process alive.
        """
        self._world = world
        self._grace_seconds = grace_seconds
        self._writing: Callable[[], bool] = lambda: False
        self._limits = Limits(min(timeout_seconds, SILENCE_SECONDS), timeout_seconds)
        self._own = Peer(world.rank, host=socket.gethostname())
        self._part: Hub | Line | None = None
        self._verdict: Verdict | None = None
        self._told = threading.Event()
        self._left = threading.Event()

    def mark(self, doing: str) -> None:
        """Note that this rank got further, and what it does now, e.g. "training step 7"."""
        self._own.doing = doing
        self._own.marks += 1

    def spare(self, writing: Callable[[], bool]) -> None:
        """While this says so, a checkpoint is written that needs no other rank any more."""
        self._writing = writing

    def __enter__(self) -> Self:
        """Find the others; a collective.

        Raises:
            ClusterError: rank 0 cannot listen, or cannot be reached.
        """
        if self._world.size > 1:
            self._part = self._hub() if self._world.is_main else self._line()
            threading.Thread(target=self._part.run, name="watchdog", daemon=True).start()
            if isinstance(self._part, Hub):
                self._part.complete.wait(self._limits.silence)  # then the hub names who is missing
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave, and tell the others why, if it is by an error.

        Raises:
            ClusterError: another rank is missing, of which the error is a consequence.
            RankError: another rank ended by an error of its own.
        """
        if self._part is None:
            return
        if error is None or isinstance(error, StoppedError):
            self._leave(None)
            return
        if not isinstance(error, LxmertError | OSError | KeyboardInterrupt):
            self._await_verdict()  # a collective broke, or something of our own did
            if self._verdict:
                explained = _explanation(self._verdict)
                self._leave(None, explained)
                raise explained from error
        text = str(error) if isinstance(error, LxmertError) else f"{type(error).__name__}: {error}"
        final = isinstance(error, LxmertError) and not isinstance(error, ClusterError)
        self._leave(Verdict(f"{self._own.name} ended: {text}", final), error)

    def _await_verdict(self) -> None:
        """Wait a while for what explains an error; and as long as the hub suspects somebody."""
        assert self._part
        until = time.monotonic() + ANSWER_SECONDS
        while not self._told.wait(_LOOK_SECONDS):
            if time.monotonic() > until and not self._part.suspects:
                return

    def _leave(self, verdict: Verdict | None, error: BaseException | None = None) -> None:
        assert self._part
        self._left.set()
        self._part.end(verdict)
        if error is not None:
            self._end_after(TEARDOWN_SECONDS, error)

    def _condemn(self, verdict: Verdict) -> None:
        """From the watching thread: give the main thread time to end, or end without it."""
        self._verdict = verdict
        self._told.set()
        self._end_after(ANSWER_SECONDS, _explanation(verdict), unless=self._left)

    def _end_after(
        self, seconds: float, error: BaseException, unless: threading.Event | None = None
    ) -> None:
        """End the process, with the words of ``error``, unless it ends or something happens."""
        rank = self._world.rank
        given_up = threading.Event() if unless is None else unless

        def end() -> None:
            if given_up.wait(seconds):
                return
            until = time.monotonic() + self._grace_seconds
            while self._writing() and time.monotonic() < until:
                if given_up.wait(_LOOK_SECONDS):
                    return
            prefix = f"[rank {rank}] " if rank else ""
            print(f"{prefix}error: {error}", file=sys.stderr, flush=True)  # noqa: T201
            os._exit(ClusterError.exit_code)

        threading.Thread(target=end, name="last chance", daemon=True).start()

    def _hub(self) -> Hub:
        world = self._world
        alone = world.local_size == world.size  # then nobody else needs to reach it
        try:
            listener = socket.create_server(("127.0.0.1" if alone else "", 0))
        except OSError as error:
            agree(json.dumps({"problem": str(error)}), world)
            raise ClusterError(
                f"rank 0 cannot listen for the other ranks: {error}; {_LISTEN}"
            ) from error
        token = secrets.token_hex(16)
        place = {
            "port": listener.getsockname()[1],
            "host": "127.0.0.1" if alone else "",
            "token": token,
            "name": self._own.host,
        }
        agree(json.dumps(place), world)
        others = {rank: Peer(rank) for rank in range(1, world.size)}
        return Hub(listener, token, self._own, others, self._limits, self._condemn)

    def _line(self) -> Line:
        place = json.loads(agree("", self._world))
        if "problem" in place:
            raise ClusterError(
                f"rank 0 cannot listen for the other ranks: {place['problem']}; {_LISTEN}"
            )
        host = place["host"] or meeting_host()
        try:
            connection = socket.create_connection((host, place["port"]), self._limits.silence)
        except OSError as error:
            raise ClusterError(
                f"rank {self._world.rank} on {self._own.host} cannot reach rank 0 at "
                f"{host}:{place['port']}: {error}; check MASTER_ADDR and the firewalls between the "
                "hosts"
            ) from error
        hub = Peer(0, host=place["name"])
        wire = Wire(connection)
        return Line(wire, place["token"], self._own, hub, self._limits, self._condemn)


def _explanation(verdict: Verdict) -> LxmertError:
    if verdict.final:
        return RankError(verdict.text)
    return ClusterError(f"{verdict.text}; the same command goes on from the last checkpoint")
