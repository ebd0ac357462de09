"""Which images of a store are in a task's evaluation split, by their names and by their looks."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from lxmert_dist.errors import DataError
from lxmert_dist.ingest.image_ids import ImageKey, image_key
from lxmert_dist.ingest.perceptual import pairs_within, perceptual_hash
from lxmert_dist.ingest.task_images import read_task_images
from lxmert_dist.store import Split

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_BATCH = 1024
"""Images that are handed to the threads at once."""


@dataclass(frozen=True)
class Task:
    """An evaluation split: the names of its images, and their files where they are at hand."""

    name: str
    images: Mapping[ImageKey, str]
    files: Mapping[ImageKey, Path]


@dataclass(frozen=True)
class Hit:
    """An image of the store that a task has. ``distance``: bits of their hashes; None by name."""

    row: int
    image_id: str
    task_image: str
    distance: int | None


@dataclass(frozen=True)
class Finding:
    """What a split of the store shares with a task; one hit an image, in order of rows."""

    task: str
    split: str
    num_images: int
    hits: Sequence[Hit]
    pairs: Mapping[str, int]
    """Of the images that were hit, by source."""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "task": self.task,
            "split": self.split,
            "task_images": self.num_images,
            "pairs": dict(self.pairs),
            "images": [
                {
                    "image_id": hit.image_id,
                    "task_image": hit.task_image,
                    "by": "name" if hit.distance is None else "look",
                    "distance": hit.distance,
                }
                for hit in self.hits
            ],
        }


def read_tasks(
    files: Sequence[Path], folders: Sequence[Path], coco_ids: Mapping[int, int], progress: bool
) -> list[Task]:
    """The tasks of files that name images, and of folders that hold them.

    Raises:
        DataError: one of them is missing, damaged, or has no images; names it.
    """
    total = sum(path.stat().st_size for path in files if path.exists())
    with tqdm(total=total, desc="tasks", unit="B", unit_scale=True, disable=not progress) as bar:
        tasks = [
            Task(str(path), read_task_images(path, coco_ids, bar.update), {}) for path in files
        ]
    for folder in folders:
        found = list_images(folder, coco_ids)
        tasks.append(Task(str(folder), {key: path.name for key, path in found.items()}, found))
    return tasks


def list_images(folder: Path, coco_ids: Mapping[int, int]) -> dict[ImageKey, Path]:
    """The image files of a folder and of those in it; a plain number is Visual Genome's.

    Raises:
        DataError: there are none.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"{folder}: holds no images ({', '.join(SUFFIXES)}); check --images")
    return {image_key(path.name, coco_ids): path for path in paths}


class Auditor:
    """Compares splits of a store with tasks; hashes every image once."""

    def __init__(
        self,
        coco_ids: Mapping[int, int],
        *,
        images: Mapping[ImageKey, Path] | None = None,
        distance: int = 4,
        threads: int = 4,
        progress: bool = True,
    ) -> None:
        """Prepare.

        Args:
            coco_ids: Visual Genome's number -> COCO's.
            images: files of the store's images, where they are at hand.
            distance: bits by which the hashes of one picture may differ, 0..64.
            threads: that decode images.
            progress: show bars.
        """
        self._coco_ids = coco_ids
        self._images = images or {}
        self._distance = distance
        self._threads = threads
        self._progress = progress
        self._hashes: dict[Path, int | None] = {}

    def compare(self, name: str, split: Split, tasks: Iterable[Task]) -> Iterator[Finding]:
        """What a split shares with each task.

        Raises:
            DataError: an image cannot be read; names it.
        """
        keys = [image_key(image_id, self._coco_ids) for image_id in split.image_ids]
        sources = split.sentences.sources
        for task in tasks:
            hits = {
                row: Hit(row, split.image_ids[row], task.images[key], None)
                for row, key in enumerate(keys)
                if key in task.images
            }
            for row, key, bits in self._alike(keys, task):
                known = hits.get(row)
                if known is None or (known.distance is not None and bits < known.distance):
                    hits[row] = Hit(row, split.image_ids[row], task.images[key], bits)
            found = [hits[row] for row in sorted(hits)]
            offsets = split.image_offsets
            counts = np.zeros(len(sources), np.int64)
            for hit in found:
                pairs = slice(int(offsets[hit.row]), int(offsets[hit.row + 1]))
                counts += np.bincount(split.sentences.source_ids[pairs], minlength=len(sources))
            by_source = dict(zip(sources, counts.tolist(), strict=True))
            yield Finding(task.name, name, len(task.images), found, by_source)

    def _alike(self, keys: Sequence[ImageKey], task: Task) -> Iterator[tuple[int, ImageKey, int]]:
        at_hand = {row: self._images[key] for row, key in enumerate(keys) if key in self._images}
        if not at_hand or not task.files:
            return
        self._hash(at_hand.values(), "images of the store")
        self._hash(task.files.values(), f"images of {Path(task.name).name}")
        ours = {row: value for row in at_hand if (value := self._hashes[at_hand[row]]) is not None}
        theirs = {
            key: value
            for key, path in task.files.items()
            if (value := self._hashes[path]) is not None
        }
        rows, images = list(ours), list(theirs)
        left, right = (np.array([*h.values()], np.uint64) for h in (theirs, ours))
        for image, row, bits in pairs_within(left, right, self._distance):
            yield rows[row], images[image], bits

    def _hash(self, paths: Iterable[Path], what: str) -> None:
        todo = [path for path in paths if path not in self._hashes]
        source = iter(todo)
        with (
            tqdm(total=len(todo), desc=what, unit="img", disable=not self._progress) as bar,
            ThreadPoolExecutor(self._threads) as pool,
        ):
            while batch := list(islice(source, _BATCH)):
                for path, value in zip(batch, pool.map(perceptual_hash, batch), strict=True):
                    self._hashes[path] = value
                    bar.update()


def show_findings(findings: Sequence[Finding]) -> Iterator[str]:
    """The lines of a table: images by how they were found, and pairs by source."""
    sources = sorted({source for finding in findings for source in finding.pairs})
    head = ("task", "split", "its images", "in split", "by name", "by look", *sources)
    rows = [head]
    for finding in findings:
        by_look = sum(hit.distance is not None for hit in finding.hits)
        counts = (finding.num_images, len(finding.hits), len(finding.hits) - by_look, by_look)
        pairs = (finding.pairs.get(source, 0) for source in sources)
        cells = (f"{n:,}" if n else "-" for n in (*counts, *pairs))
        rows.append((Path(finding.task).name, finding.split, *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        pad: Sequence[Callable[..., str]] = [str.ljust, str.ljust, *[str.rjust] * (len(row) - 2)]
        cells = (fill(cell, width) for fill, cell, width in zip(pad, row, widths, strict=True))
        yield "  ".join(cells).rstrip()
