"""Counter-based random numbers: every draw is a pure function of (seed, epoch, id, purpose, k).

There is no generator state, so a draw is the same on any rank, in any order, before and after a
restart. NumPy's own generators are not used because their streams may change between releases.

The hash chains the SplitMix64 finaliser (Steele, Lea & Flood, OOPSLA 2014) over its arguments.
"""

import math
from enum import IntEnum

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.integer]


class Purpose(IntEnum):
    """What a draw is for; a number is never reused, since checkpoints depend on the streams."""

    STORE_ORDER = 1
    SHARD_ORDER = 2
    PAIR_JITTER = 3
    MATCH = 4
    NEGATIVE = 5
    TOKEN_MASK = 6
    TOKEN_REPLACEMENT = 7
    TOKEN_RANDOM = 8
    OBJECT_MASK = 9
    OBJECT_REPLACEMENT = 10
    DONOR_IMAGE = 11
    DONOR_OBJECT = 12
    ANSWER = 13
    DROPOUT = 14
    SPLIT = 15
    IDENTITY = 16
    SYNTHETIC = 17
    SOURCE_ORDER = 18
    BOOTSTRAP = 19
    REGION_SAMPLE = 20
    FLIP = 21
    IMAGE_ORDER = 22
    STATEMENT = 23


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_BLOCK = 1 << 15
"""Numbers that are permuted at once: few enough for the cache."""


def _mix(x: U64) -> U64:
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def bits(seed: int, epoch: int, ids: Ints | int, purpose: Purpose, k: Ints | int = 0) -> U64:
    """64 hashed bits for each id.

    Args:
        seed: of the run, >= 0.
        epoch: >= 0.
        ids: pair, image or shard numbers, >= 0; any shape.
        purpose: keeps the streams of different uses apart.
        k: number of the draw for the same id and purpose; broadcasts against ``ids``.

    Returns:
        uint64 of the broadcast shape of ``ids`` and ``k``.
    """
    with np.errstate(over="ignore"):
        state = _mix(np.asarray([seed], np.uint64) + _GOLDEN)
        for word in (int(purpose), epoch):
            state = _mix((state ^ np.uint64(word)) + _GOLDEN)
        state = _mix((state ^ np.asarray(ids).astype(np.uint64)) + _GOLDEN)
        state = _mix((state ^ np.asarray(k).astype(np.uint64)) + _GOLDEN)
    shape = np.broadcast_shapes(np.shape(ids), np.shape(k))
    return state.reshape(shape)


def uniform(
    seed: int, epoch: int, ids: Ints | int, purpose: Purpose, k: Ints | int = 0
) -> npt.NDArray[np.float64]:
    """Like :func:`bits`, as float64 in [0, 1) (the upper 53 bits)."""
    hashed = bits(seed, epoch, ids, purpose, k)
    return (hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(
    seed: int,
    epoch: int,
    ids: Ints | int,
    purpose: Purpose,
    k: Ints | int = 0,
    *,
    below: Ints | int,
) -> npt.NDArray[np.int64]:
    """Like :func:`bits`, as int64 in [0, below); ``below`` broadcasts against the draws."""
    draws = uniform(seed, epoch, ids, purpose, k) * np.asarray(below, np.float64)
    return np.floor(draws).astype(np.int64)


def permutation(n: int, seed: int, epoch: int, purpose: Purpose) -> npt.NDArray[np.int64]:
    """A permutation of 0..n-1: the order of the hashes."""
    return np.argsort(bits(seed, epoch, np.arange(n), purpose), kind="stable")


def permuted(
    places: npt.NDArray[np.int64], n: int, seed: int, epoch: int, purpose: Purpose
) -> npt.NDArray[np.int64]:
    """What another permutation of 0..n-1 has at some places, without making the rest of it.

    Four rounds of a Feistel network (Luby & Rackoff, 1988) over two digits below about sqrt(n),
    each round a table of draws; what it sends beyond n is sent on until it is below.

    Args:
        places: (B,), in [0, n).
        n: >= 1.
        seed: of the run, >= 0.
        epoch: >= 0.
        purpose: keeps the permutations of different uses apart.
    """
    low = math.isqrt(n - 1) + 1
    high = -(-n // low)  # high * low >= n
    shapes = [(high, low), (low, high)] * 2
    tables = [
        integers(seed, epoch, np.arange(other), purpose, k, below=own)
        for k, (own, other) in enumerate(shapes)
    ]
    found = np.array(places, np.int64)
    for begin in range(0, len(found), _BLOCK):
        astray = np.arange(begin, min(begin + _BLOCK, len(found)))
        while astray.size:
            own, other = np.divmod(found[astray], low)
            for (below, _), table in zip(shapes, tables, strict=True):
                own += table[other]
                own -= np.where(own >= below, below, 0)
                own, other = other, own
            found[astray] = own * low + other
            astray = astray[found[astray] >= n]
    return found
