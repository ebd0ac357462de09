"""Photographs -> staged records: which images a task has, and how a worker does it.

Tasks are of a few dozen images in an order drawn from a seed. A task is done by any process of any
machine, and its result is staged at once; so a run that was killed loses the tasks in hand alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from tqdm.auto import tqdm

from lxmert_dist import keyed
from lxmert_dist.errors import DataError
from lxmert_dist.ingest.image_list import ImageFile, Refusal
from lxmert_dist.ingest.pool import Mapper
from lxmert_dist.ingest.stage import Stage, TaskSummary
from lxmert_dist.opening import open_image, pixels_in
from lxmert_dist.schema import Detector, RoiRecord
from lxmert_dist.store import uri as uris
from lxmert_dist.store.shard import ImageSizes, check_record

TASK_IMAGES = 32
"""Of one task; what a kill costs a worker at most."""

HELD_BYTES = 256 << 20
"""Of image files that a worker reads before it detects."""


@runtime_checkable
class DetectorSource(Protocol):
    """Where a worker gets its detector; hashable, and at home in any process."""

    def load(self) -> Detector:
        """The detector, ready to be used in this process."""
        ...

    def __hash__(self) -> int:
        """Equal sources load equal detectors."""
        ...


@dataclass(frozen=True)
class ExtractionTask:
    """Some images, and what a worker must know to do them.

    ``batch_size``: images that are opened and detected at once, fewer where they have more than
    ``max_pixels`` together, which none may have alone.
    """

    number: int
    images: tuple[ImageFile, ...]
    detector: DetectorSource
    sizes: ImageSizes
    stage: str
    batch_size: int
    max_pixels: int


def plan_tasks(images: Sequence[ImageFile], seed: int) -> list[tuple[ImageFile, ...]]:
    """Images in an order drawn from a seed, in tasks of ``TASK_IMAGES``.

    The order depends on their names alone, not on the order of the list.
    """
    named = sorted(images, key=lambda image: image.image_id)
    order = keyed.permutation(len(named), seed, 0, keyed.Purpose.STORE_ORDER)
    shuffled = [named[place] for place in order]
    starts = range(0, len(shuffled), TASK_IMAGES)
    return [tuple(shuffled[start : start + TASK_IMAGES]) for start in starts]


def run_tasks(
    tasks: Sequence[ExtractionTask], done: Mapping[int, TaskSummary], run: Mapper, progress: bool
) -> list[TaskSummary]:
    """Do what is not done yet, with a bar in images; returns all results in order.

    Args:
        tasks: all of the job, by number.
        done: the results that are staged already.
        run: does the tasks, in any order.
        progress: show a bar with rate, time left and the number of refused images.

    Raises:
        StoreError: images or stage are out of reach.
        WorkerError: a process was killed.
    """
    results = dict(done)
    total = sum(len(task.images) for task in tasks)
    refused = sum(len(summary.refused) for summary in done.values())
    kept = sum(len(tasks[number].images) for number in done)
    left = (task for task in tasks if task.number not in done)
    with tqdm(total=total, initial=kept, desc="detecting", unit="img", disable=not progress) as bar:
        for summary in run(do_task, left):
            results[summary.number] = summary
            refused += len(summary.refused)
            bar.set_postfix(refused=refused, refresh=False)
            bar.update(len(tasks[summary.number].images))
    return [results[number] for number in sorted(results)]


def do_task(task: ExtractionTask) -> TaskSummary:
    """Detect the images of a task and stage the result.

    An image that is missing, cannot be opened, has too few regions, or features that the store
    cannot hold is refused, which changes nothing for the others.

    Raises:
        StoreError: images or stage are out of reach.
    """
    detector = loaded(task.detector)
    found: dict[str, RoiRecord | Refusal] = {}

    def refuse(image: ImageFile, error: Exception) -> None:
        reason = str(error).removeprefix("image ").removeprefix(f"{image.image_id}: ")
        found[image.image_id] = Refusal(image.image_id, image.where, reason)

    for batch in _batches(task, refuse):
        images = {image.image_id: image for image, _ in batch}
        for record in _detect(detector, batch, refuse):
            try:
                check_record(record, task.sizes)
            except DataError as error:
                refuse(images[record.image_id], error)
            else:
                found[record.image_id] = record
    results = [found[image.image_id] for image in task.images]
    records = [result for result in results if isinstance(result, RoiRecord)]
    refused = [result for result in results if isinstance(result, Refusal)]
    Stage(task.stage, task.sizes.feature_dtype).write(task.number, records, refused)
    return TaskSummary(task.number, [record.image_id for record in records], refused)


Refuse = Callable[[ImageFile, Exception], None]
Opened = tuple[ImageFile, UInt8[np.ndarray, "_ _ 3"]]


def _batches(task: ExtractionTask, refuse: Refuse) -> Iterator[list[Opened]]:
    """The images that can be opened, those of similar size together, a bounded amount at once."""
    for held in _held(task.images, refuse):
        batch: list[Opened] = []
        for image, data in sorted(held, key=lambda pair: pixels_in(pair[1])):
            try:
                pixels = open_image(data, image.image_id, max_pixels=task.max_pixels)
            except DataError as error:
                refuse(image, error)
                continue
            area = sum(other[..., 0].size for _, other in batch) + pixels[..., 0].size
            if batch and (len(batch) == task.batch_size or area > task.max_pixels):
                yield batch
                batch = []
            batch.append((image, pixels))
        if batch:
            yield batch


def _held(images: Sequence[ImageFile], refuse: Refuse) -> Iterator[list[tuple[ImageFile, bytes]]]:
    """The files of images, about ``HELD_BYTES`` of them at once."""
    held: list[tuple[ImageFile, bytes]] = []
    for image in images:
        try:
            held.append((image, image.read()))
        except (DataError, uris.MissingError) as error:
            refuse(image, error)
        except uris.DeniedError as error:
            if uris.local_path(image.uri) is None:  # the credentials are wrong, not the image
                raise
            refuse(image, error)
        if sum(len(data) for _, data in held) > HELD_BYTES:
            yield held
            held = []
    if held:
        yield held


def _detect(detector: Detector, batch: Sequence[Opened], refuse: Refuse) -> list[RoiRecord]:
    """The records of a batch but for those that the detector refuses."""
    try:
        return detector.detect([image.image_id for image, _ in batch], [p for _, p in batch])
    except DataError as error:
        if len(batch) == 1:
            refuse(batch[0][0], error)
            return []
        return [record for one in batch for record in _detect(detector, [one], refuse)]


@lru_cache(maxsize=1)
def loaded(source: DetectorSource) -> Detector:
    """The detector of this process, loaded when it is first asked for."""
    return source.load()
