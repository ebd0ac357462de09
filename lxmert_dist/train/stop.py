"""SIGTERM and Ctrl-C: the run ends at a step boundary, on all ranks, with a checkpoint."""

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, Self

from lxmert_dist.errors import PreemptedError, StoppedError
from lxmert_dist.train.world import World, total

_IMPATIENT_SECONDS = 1.0
"""A launcher may pass on the Ctrl-C that its ranks got themselves; a later one is the user's."""

_ERRORS = {signal.SIGINT: StoppedError, signal.SIGTERM: PreemptedError}


class Stop:
    """Whether somebody asked this rank to end; as a context, the signals do.

    Only the main thread can listen to signals; elsewhere (a Ray worker) :meth:`request` is the
    way. A second Ctrl-C ends the process as if nobody listened.
    """

    def __init__(self, grace_seconds: float) -> None:
        """``grace_seconds``: from the first request to the end of the process, come what may."""
        self._grace_seconds = grace_seconds
        self._asked: dict[int, float] = {}
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _ERRORS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._timer:
            self._timer.cancel()

    def request(self, number: int = signal.SIGTERM) -> None:
        """Ask for the end, as the signal of this number would; any thread may."""
        self._asked.setdefault(number, time.monotonic())
        if self._timer is None:
            self._timer = threading.Timer(self._grace_seconds, self._give_up, [number])
            self._timer.daemon = True
            self._timer.start()

    def flags(self) -> dict[str, float]:
        """What this rank was asked, to be summed over ranks for :meth:`check`."""
        return {_key(number): float(number in self._asked) for number in _ERRORS}

    def check(self, flags: dict[str, float]) -> None:
        """Raise if any rank was asked to end.

        Args:
            flags: the sums of :meth:`flags` over all ranks.

        Raises:
            StoppedError: Ctrl-C, or a PreemptedError: SIGTERM; on all ranks.
        """
        for number, error in _ERRORS.items():
            if flags[_key(number)]:
                self.request(number)  # the grace time counts on every rank
                raise error(f"{number.name} ended the run")

    def check_together(self, world: World) -> None:
        """The same where there is nothing else to sum; a collective."""
        self.check(total(self.flags(), world))

    def _note(self, number: int, frame: FrameType | None) -> None:
        first = self._asked.get(number)
        if (
            number == signal.SIGINT
            and first is not None
            and time.monotonic() - first > _IMPATIENT_SECONDS
        ):
            raise KeyboardInterrupt
        self.request(number)

    def _give_up(self, number: int) -> None:
        """End the process; what it is writing stays incomplete, so the checkpoint before counts."""
        print(  # noqa: T201
            f"error: no checkpoint within checkpoint.grace_seconds={self._grace_seconds:g} of the "
            "signal; the run goes on from the one before",
            file=sys.stderr,
            flush=True,
        )
        os._exit(_ERRORS[signal.Signals(number)].exit_code)


def _key(number: int) -> str:
    return f"stop {number}"
