"""The samples of ``bench_stream.py``, the batches that each side delivers, and how one is judged.

It runs in the peers' environments too, so it imports NumPy and, where there are worker processes,
torch. Shapes: N images, P pairs, O objects, F feature width, B pairs and I images of a batch.
"""

import json
import resource
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAX_TOKENS = 20
_NAMES = ("features", "records", "image_rows", "tokens")

Sample = dict[str, Any]


class Samples(NamedTuple):
    """Everything, image by image and pair by pair; the pairs of an image stand together."""

    features: np.ndarray
    """(N, O, F)"""
    records: np.ndarray
    """(N, R) uint8: boxes, ids and scores of an image's objects."""
    image_rows: np.ndarray
    """(P,) int64, ascending"""
    tokens: np.ndarray
    """(P, MAX_TOKENS) uint16, padded with zeros"""

    def save(self, directory: Path) -> None:
        """Keep for another process."""
        for name, array in zip(_NAMES, self, strict=True):
            np.save(directory / f"{name}.npy", array)

    @classmethod
    def load(cls, directory: Path) -> "Samples":
        """Map what was saved."""
        return cls(*(np.load(directory / f"{name}.npy", mmap_mode="r") for name in _NAMES))

    def by_pair(self) -> Iterator[Sample]:
        """One sample a pair, with the features repeated; the pairs are shuffled as they are kept.

        Formats of one sample a pair are shuffled once when they are written, as they advise.
        """
        for pair in np.random.default_rng(0).permutation(len(self.image_rows)).tolist():
            row = self.image_rows[pair]
            yield {
                "pair": pair,
                "features": self.features[row],
                "record": self.records[row],
                "tokens": self.tokens[pair],
            }

    def by_image(self) -> Iterator[Sample]:
        """One sample an image, with its sentences inside; ``pair`` is the first one's number."""
        ends = np.searchsorted(self.image_rows, np.arange(len(self.features) + 1)).tolist()
        for row in range(len(self.features)):
            yield {
                "pair": ends[row],
                "features": self.features[row],
                "record": self.records[row],
                "tokens": self.tokens[ends[row] : ends[row + 1]],
            }


class Batch(NamedTuple):
    """Pair i shows image ``image_index[i]`` of the batch; None where each has a copy of its own."""

    pair_ids: np.ndarray
    image_index: np.ndarray | None
    features: Any
    """(I, O, F), an array or a tensor"""
    records: Any
    tokens: Any


def expand(image: Sample) -> Iterator[Sample]:
    """The pairs of one image; they share its arrays."""
    for number, tokens in enumerate(image["tokens"]):
        yield {**image, "pair": image["pair"] + number, "tokens": tokens}


def shuffled(samples: Iterable[Sample], size: int, seed: int) -> Iterator[Sample]:
    """Through a buffer of ``size`` samples, of which a random one leaves for each that comes."""
    generator = np.random.default_rng(seed)
    buffer: list[Sample] = []
    draws: list[float] = []
    for sample in samples:
        if len(buffer) < size:
            buffer.append(sample)
            continue
        draws = draws or generator.random(4096).tolist()
        place = int(draws.pop() * size)
        yield buffer[place]
        buffer[place] = sample
    yield from (buffer[place] for place in generator.permutation(len(buffer)).tolist())


def collate(samples: list[Sample]) -> Batch:
    """Stack samples of one pair each: into an array, or in shared memory where a worker does it."""
    return Batch(
        np.array([sample["pair"] for sample in samples]),
        None,
        *(
            _stack([sample[name] for sample in samples])
            for name in ("features", "record", "tokens")
        ),
    )


def _stack(arrays: list[np.ndarray]) -> Any:
    from torch.utils.data import default_collate, get_worker_info

    return np.stack(arrays) if get_worker_info() is None else default_collate(arrays)


def serve(epoch: Callable[[dict], Iterator[Batch]]) -> None:
    """Deliver an epoch for each line of the standard input, and say what it took.

    A line is an object with the settings of the epoch and, under ``check``, the file for what was
    delivered, which is then digested instead of timed.
    """
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print
    for line in sys.stdin:
        settings = json.loads(line)
        target = settings.get("check")
        answer = _checked(epoch(settings), target) if target else _timed(epoch, settings)
        print(json.dumps(answer), file=answers, flush=True)


def _timed(epoch: Callable[[dict], Iterator[Batch]], settings: dict) -> dict[str, float]:
    pairs = size = 0
    cpu, started = _cpu_seconds(), time.perf_counter()
    for batch in epoch(settings):
        pairs += len(batch.pair_ids)
        size += batch.features.nbytes
    return {
        "pairs": pairs,
        "feature_bytes": size,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": _cpu_seconds() - cpu,
    }


def _cpu_seconds() -> float:
    """Of this process and of the workers that have ended; loaders end theirs with the epoch."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _checked(batches: Iterator[Batch], target: str) -> dict[str, float]:
    """Pair, checksum of its image and checksum of its text, (P, 3), in the order delivered."""
    rows = []
    for batch in batches:
        images = [
            _checksum(features, record)
            for features, record in zip(batch.features, batch.records, strict=True)
        ]
        index = range(len(images)) if batch.image_index is None else batch.image_index
        for pair, image, tokens in zip(batch.pair_ids, index, batch.tokens, strict=True):
            rows.append((int(pair), images[image], _checksum(tokens)))
    np.save(target, np.array(rows, np.int64).reshape(-1, 3))
    return {"pairs": len(rows)}


def _checksum(*arrays: Any) -> int:
    value = 0
    for array in arrays:
        value = zlib.crc32(np.asarray(array).tobytes(), value)
    return value


def expected(samples: Samples) -> np.ndarray:
    """What :func:`serve` should find, (P, 3), by pair."""
    images = np.array(
        [
            _checksum(features, record)
            for features, record in zip(samples.features, samples.records, strict=True)
        ]
    )
    texts = np.array([_checksum(tokens) for tokens in samples.tokens])
    return np.stack([np.arange(len(texts)), images[samples.image_rows], texts], axis=1)
