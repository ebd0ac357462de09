# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["mosaicml-streaming==0.13.0", "torch==2.15.0", "numpy==2.1.3"]
# ///
"""MosaicML streaming, as ``bench_stream.py`` runs it: it needs an older transformers than we do.

``uv run --script stream_mosaic.py write DIRECTORY`` makes the files of the samples in a directory,
``… serve DIRECTORY`` delivers them.
"""

import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from stream_samples import MAX_TOKENS, Batch, Sample, Samples, collate, expand, serve, shuffled
from streaming import MDSWriter, StreamingDataset
from torch.utils.data import DataLoader, IterableDataset

# NumPy arrays over bytes are not writable, and nobody writes to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


class Images(IterableDataset):
    """One sample an image, whose pairs go through a buffer."""

    def __init__(self, images: StreamingDataset, window: int, seed: int) -> None:
        self.images, self.window, self.seed = images, window, seed

    def __iter__(self) -> Iterator[Sample]:
        pairs = (pair for image in self.images for pair in expand(image))
        return shuffled(pairs, self.window, self.seed)


def write(directory: Path, forms: list[str]) -> None:
    """Without compression and hashes, as is quickest to read."""
    samples = Samples.load(directory)
    inner = ",".join(map(str, samples.features.shape[1:]))
    columns = {
        "pair": "int",
        "features": f"ndarray:{samples.features.dtype.name}:{inner}",
        "record": f"ndarray:uint8:{samples.records.shape[1]}",
    }
    for form, texts, every in (
        ("pair", f"ndarray:uint16:{MAX_TOKENS}", samples.by_pair),
        ("image", "ndarray:uint16", samples.by_image),
    ):
        if form in forms:
            with MDSWriter(
                columns={**columns, "tokens": texts}, out=str(directory / f"mds_{form}")
            ) as out:
                for sample in every():
                    out.write(sample)


def epoch(directory: Path, settings: dict) -> Iterator[Batch]:
    """Shuffled by its own plan (py1e), and through a buffer where a sample is an image."""
    kept = directory / f"mds_{settings['form']}"
    remote, cache = settings.get("remote"), None
    if remote:
        kept = cache = Path(tempfile.mkdtemp(dir=directory))
    data = StreamingDataset(
        remote=remote,
        local=str(kept),
        batch_size=settings["batch"],
        shuffle=True,
        shuffle_seed=settings["round"],
        num_canonical_nodes=1,
    )
    by_image = settings["form"] == "image" and not settings.get("once")
    loader = DataLoader(
        Images(data, settings["window"], settings["round"]) if by_image else data,
        batch_size=settings["batch"],
        num_workers=settings["workers"],
        collate_fn=_first_pairs if settings.get("once") else collate,
        prefetch_factor=4 if settings["workers"] else None,
    )
    yield from loader
    if cache:
        shutil.rmtree(cache)


def _first_pairs(images: list[Sample]) -> Batch:
    return collate([next(expand(image)) for image in images])


if __name__ == "__main__":
    command, place = sys.argv[1], Path(sys.argv[2])
    if command == "write":
        write(place, sys.argv[3:])
    else:
        serve(lambda settings: epoch(place, settings))
