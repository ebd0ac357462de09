"""A run in a few numbers, out of its log."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median_high
from typing import NamedTuple

Log = Sequence[tuple[int, Mapping[str, float]]]
"""Steps and their metrics, as ``read_metrics`` gives them."""


class Speed(NamedTuple):
    """Of training, over all ranks."""

    pairs_per_second: float
    """The median of the log's lines."""
    data_wait_share: float
    """Mean share of the time that is spent waiting for data, in [0, 1]."""


def first_and_last(log: Log, name: str) -> tuple[float | None, float | None]:
    """The first and the last value of a metric; None where there is none."""
    values = [metrics[name] for _, metrics in log if name in metrics]
    return (values[0], values[-1]) if values else (None, None)


def speed(log: Log) -> Speed | None:
    """How fast a run was; None before its first line."""
    rates = [m["train/pairs_per_second"] for _, m in log if "train/pairs_per_second" in m]
    waits = [m["train/data_wait_share"] for _, m in log if "train/data_wait_share" in m]
    return Speed(median_high(rates), fmean(waits)) if rates and waits else None
