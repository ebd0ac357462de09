"""How far a figure would move with other images: intervals by resampling clusters of scores.

Questions about one image are not independent of each other, so whole clusters are drawn, as many as
there are and with replacement, and every figure is computed again from the same draws; the interval
is between percentiles (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from lxmert_dist.errors import DataError
from lxmert_dist.keyed import Purpose, integers
from lxmert_dist.scoring.result import Cluster, Figure, Intervals

COVERAGE = 0.95
_BLOCK = 1 << 22
"""Draws that are held at once."""


def intervals(
    parts: Mapping[str, Mapping[str, Figure]], resamples: int, seed: int = 0
) -> Intervals:
    """The 95 % interval of every figure, in per cent.

    A figure that no drawn cluster has a score of is left out of that resample.

    Args:
        parts: as of a ``Result``.
        resamples: how often clusters are drawn, >= 1; 1,000 and more give steady bounds.
        seed: of the draws, >= 0; the same draws for the same clusters.

    Raises:
        DataError: there is but one cluster, which tells nothing about others.
    """
    named = {(part, name): f for part, figures in parts.items() for name, f in figures.items()}
    met = dict.fromkeys(cluster for figure in named.values() for cluster in figure.clusters)
    clusters = {cluster: number for number, cluster in enumerate(met)}
    if len(clusters) < 2:
        raise DataError(
            "all questions are about one image: that tells no interval; leave bootstrap "
            "(--bootstrap) out"
        )
    sums, sizes = _by_cluster(list(named.values()), clusters)
    shares = np.concatenate(
        [_shares(drawn, sums, sizes) for drawn in _draws(len(clusters), resamples, seed)]
    )
    tail = (1 - COVERAGE) / 2
    low, high = 100 * np.nanquantile(shares, [tail, 1 - tail], axis=0)
    return {key: (float(low[n]), float(high[n])) for n, key in enumerate(named)}


def _by_cluster(
    figures: Sequence[Figure], clusters: Mapping[Cluster, int]
) -> tuple[Float64[np.ndarray, "C F"], Float64[np.ndarray, "C F"]]:
    """The sum and the number of each figure's scores in each cluster."""
    sums, sizes = np.zeros((2, len(clusters), len(figures)))
    for column, figure in enumerate(figures):
        rows = np.array([clusters[cluster] for cluster in figure.clusters])
        sums[:, column] = np.bincount(rows, figure.scores, minlength=len(clusters))
        sizes[:, column] = np.bincount(rows, minlength=len(clusters))
    return sums, sizes


def _draws(clusters: int, resamples: int, seed: int) -> Iterator[Float64[np.ndarray, "R C"]]:
    """How often each cluster is in each resample, some resamples at a time."""
    step = max(1, _BLOCK // clusters)
    for begin in range(0, resamples, step):
        numbers = np.arange(begin, min(begin + step, resamples))[:, None]
        places = np.arange(clusters)[None]
        drawn = integers(seed, 0, numbers, Purpose.BOOTSTRAP, places, below=clusters)  # (R, C)
        cells = (numbers - begin) * clusters + drawn
        counts = np.bincount(cells.ravel(), minlength=cells.size)
        yield counts.reshape(cells.shape).astype(np.float64)


def _shares(
    drawn: Float64[np.ndarray, "R C"],
    sums: Float64[np.ndarray, "C F"],
    sizes: Float64[np.ndarray, "C F"],
) -> Float64[np.ndarray, "R F"]:
    """The figures of each resample, in [0, 1]; NaN where no score was drawn."""
    scores, found = drawn @ sums, drawn @ sizes
    shares = np.full(found.shape, np.nan)
    np.divide(scores, found, out=shares, where=found > 0)
    return shares
