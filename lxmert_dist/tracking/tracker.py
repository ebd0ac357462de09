"""The one protocol of trackers, and the two that need no files: nobody, and several at once."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

Scalar = str | int | float | bool
Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker(Protocol):
    """Takes what a run says of itself. Never raises into training, never makes it wait."""

    @property
    def run_id(self) -> str | None:
        """What continues the same run after a restart, if that needs an id."""
        ...

    def log_params(self, params: Mapping[str, Scalar]) -> None:
        """Settings, once."""
        ...

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers after ``step`` optimiser steps."""
        ...

    def log_text(self, text: str, name: str) -> None:
        """A small text file; ``name`` may have folders before it."""
        ...

    def close(self, status: Status) -> None:
        """Deliver what is left, within some seconds, and end the run."""
        ...


class NullTracker:
    """For the ranks that do not speak."""

    run_id: str | None = None

    def log_params(self, params: Mapping[str, Scalar]) -> None:
        """Drop."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Drop."""

    def log_text(self, text: str, name: str) -> None:
        """Drop."""

    def close(self, status: Status) -> None:
        """Do nothing."""


class Tee:
    """Several trackers in one; the run id is the first that there is."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        """Pass everything on to each of ``trackers``."""
        self._trackers = trackers

    @property
    def run_id(self) -> str | None:
        """Of the first tracker that has one."""
        return next((t.run_id for t in self._trackers if t.run_id), None)

    def log_params(self, params: Mapping[str, Scalar]) -> None:
        """To all."""
        for tracker in self._trackers:
            tracker.log_params(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """To all."""
        for tracker in self._trackers:
            tracker.log_metrics(metrics, step)

    def log_text(self, text: str, name: str) -> None:
        """To all."""
        for tracker in self._trackers:
            tracker.log_text(text, name)

    def close(self, status: Status) -> None:
        """All, in order."""
        for tracker in self._trackers:
            tracker.close(status)
