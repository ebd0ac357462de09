"""Draws a simulated epoch; matplotlib is needed here alone, and imported when it is."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lxmert_dist.errors import DataError

if TYPE_CHECKING:
    from lxmert_dist.stream.simulate import EpochLoad

MAX_POINTS = 1000
"""Drawn a curve; longer ones show the mean and the largest of as many stretches."""


def draw(load: "EpochLoad", file: Path) -> None:
    """Write a figure: bytes by rank, window, reads and repeats by step.

    Args:
        load: the epoch.
        file: its suffix chooses the format; an existing file is replaced.

    Raises:
        DataError: matplotlib is absent.
        OSError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError("drawing needs matplotlib: pip install 'lxmert_dist[plot]'") from error

    figure = Figure(figsize=(11, 7), layout="constrained")
    (by_rank, window), (reads, repeats) = figure.subplots(2, 2)
    megabytes = np.array([own.bytes_read for own in load.ranks]) / 1e6
    by_rank.bar(np.arange(len(megabytes)), megabytes)
    by_rank.axhline(megabytes.mean(), color="black", linewidth=0.8)
    by_rank.set(
        title=f"features read by rank; {load.read_ratio:.3f} x the store in all",
        xlabel="rank",
        ylabel="MB",
    )
    windows = np.array([own.window_bytes for own in load.ranks]) / 1e6
    window.plot(*_curve(windows.max(axis=0), np.max), label="largest rank")
    window.plot(*_curve(windows.mean(axis=0), np.mean), label="mean of ranks")
    window.set(title="window", xlabel="step", ylabel="MB a rank", ylim=(0, None))
    window.legend()
    by_rank.xaxis.get_major_locator().set_params(integer=True)
    asked = np.sum([own.reads for own in load.ranks], axis=0)
    asked[0] = 0
    reads.plot(*_curve(asked, np.max), label="most")
    reads.plot(*_curve(asked, np.mean), label="mean")
    reads.set(title="objects asked for, after the first fill", xlabel="step", ylabel="all ranks")
    reads.legend()
    repeats.plot(*_curve(load.repeats, np.max), label="most")
    repeats.plot(*_curve(load.repeats, np.mean), label="mean")
    repeats.set(title="repeats of an image", xlabel="step", ylabel="in the global batch")
    repeats.legend()
    figure.savefig(file, dpi=120)


def _curve(values: np.ndarray, of_stretch: Callable[..., Any]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values, of at most ``MAX_POINTS`` stretches of equal length."""
    length = -(-len(values) // MAX_POINTS) or 1
    begins = range(0, len(values), length)
    return np.array(begins), np.array([of_stretch(values[k : k + length]) for k in begins])
