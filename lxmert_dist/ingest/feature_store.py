"""Photographs -> a store of features: detected in tasks, staged, and packed into shards."""

import json
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from lxmert_dist.errors import DataError, StoreError
from lxmert_dist.ingest.extraction import DetectorSource, ExtractionTask, plan_tasks, run_tasks
from lxmert_dist.ingest.image_list import ImageList, Refusal
from lxmert_dist.ingest.pool import Mapper
from lxmert_dist.ingest.shard_tasks import announce, write_images
from lxmert_dist.ingest.stage import Stage, TaskSummary
from lxmert_dist.opening import MAX_PIXELS
from lxmert_dist.schema import Detector, RoiRecord
from lxmert_dist.store import StoreWriter, has_store, open_store
from lxmert_dist.store import uri as uris
from lxmert_dist.store.manifest import is_store_root
from lxmert_dist.store.shard import ImageSizes

SPLIT = "images"
"""The one split of a store of features."""

JOB_VERSION = 1
"""Of tasks and their order: what another version staged is not gone on with."""


@dataclass(frozen=True)
class ExtractionOptions:
    """How an extraction is done.

    ``batch_size`` and workers change nothing in the store. ``dtype`` is ``float16`` or ``float32``.
    """

    seed: int = 9595
    batch_size: int = 8
    max_pixels: int = MAX_PIXELS
    dtype: str = "float16"
    images_per_shard: int = 64
    overwrite: bool = False
    progress: bool = True


@dataclass(frozen=True)
class ExtractionReport:
    """What was extracted; ``kept_images`` of it by an earlier start."""

    uri: str
    digest: str
    num_images: int
    num_refused: int
    kept_images: int
    refused_uri: str
    seconds: float

    def lines(self) -> Iterator[str]:
        """The report as text."""
        done = self.num_images + self.num_refused - self.kept_images
        speed = f"{done / max(self.seconds, 1e-9):.2f} images/s"
        yield f"{self.uri}: {self.num_images:,} images; {done:,} in {self.seconds:,.0f} s ({speed})"
        if self.kept_images:
            yield f"{self.kept_images:,} were kept from an earlier start"
        yield (
            f"{self.num_refused:,} images were refused, see {self.refused_uri}"
            if self.num_refused
            else "no image was refused"
        )


@dataclass(frozen=True)
class StagedRecords:
    """Images of one shard: of each task, which of its rows."""

    stage: str
    feature_dtype: str
    rows: tuple[tuple[int, slice], ...]

    def records(self) -> Iterator[RoiRecord]:
        """All of them, in their order."""
        stage = Stage(self.stage, self.feature_dtype)
        for number, rows in self.rows:
            yield from list(stage.read(number))[rows]

    def where(self, index: int) -> str:
        """The store's error names the image."""
        return ""


def extract_features(
    uri: str,
    images: ImageList,
    *,
    source: DetectorSource,
    detector: Detector,
    settings: Mapping[str, Any],
    options: ExtractionOptions,
    run: Mapper,
    pack: Mapper,
) -> ExtractionReport:
    """Build a store of features, or go on with one that was begun.

    Each image is in the store once, or in the report. The store is the same for any number of
    workers, and however often the work was interrupted.

    Args:
        uri: where the store will be, beside ``<uri>.stage`` and the report ``<uri>.refused.jsonl``.
        images: what to detect.
        source: where workers get the detector.
        detector: the same, in this process.
        settings: of the detector, as JSON values: whatever changes a record.
        options: how.
        run: does the tasks, wherever stage and images are in reach by the same names.
        pack: writes the shards.

    Raises:
        DataError: every image was refused.
        StoreError: there is a finished store, something else or another job, or a place is out of
            reach.
        WorkerError: a process was killed.
    """
    began = time.monotonic()
    sizes = _sizes(detector, options)
    job = _job(images, detector, settings, options)
    stage = Stage(f"{uri.rstrip('/')}.stage", options.dtype)
    _require_room(uri, stage, job, overwrite=options.overwrite)
    stage.begin(job, anew=options.overwrite)
    done, damaged = stage.finished()
    announce(_notice(done, damaged), options.progress)
    tasks = _tasks(images, source, sizes, stage, options)
    summaries = run_tasks(tasks, done, run, options.progress)
    refused = [*images.refused, *(r for summary in summaries for r in summary.refused)]
    refused_uri = f"{uri.rstrip('/')}.refused.jsonl"
    num_images = sum(len(summary.image_ids) for summary in summaries)
    _report_refused(refused_uri, refused, num_images)
    digest = _pack(uri, stage, summaries, detector, job, options, pack)
    stage.delete()
    return ExtractionReport(
        uris.shown(uri),
        digest,
        num_images,
        len(refused),
        kept_images=sum(len(tasks[number].images) for number in done),
        refused_uri=uris.shown(refused_uri),
        seconds=time.monotonic() - began,
    )


def _tasks(
    images: ImageList,
    source: DetectorSource,
    sizes: ImageSizes,
    stage: Stage,
    options: ExtractionOptions,
) -> list[ExtractionTask]:
    batch_size, max_pixels = options.batch_size, options.max_pixels
    return [
        ExtractionTask(number, some, source, sizes, stage.uri, batch_size, max_pixels)
        for number, some in enumerate(plan_tasks(images.images, options.seed))
    ]


def _sizes(detector: Detector, options: ExtractionOptions) -> ImageSizes:
    varies = detector.min_objects < detector.num_objects
    return ImageSizes(
        num_objects=detector.num_objects,
        feature_dim=detector.feature_dim,
        feature_dtype=options.dtype,
        images_per_shard=options.images_per_shard,
        num_object_classes=len(detector.object_classes),
        num_attribute_classes=len(detector.attribute_classes),
        min_objects=detector.min_objects if varies else None,
    )


def _job(
    images: ImageList,
    detector: Detector,
    settings: Mapping[str, Any],
    options: ExtractionOptions,
) -> dict[str, Any]:
    """What must be the same for a staged task to be kept."""
    return {
        "version": JOB_VERSION,
        "images": [len(images.images), images.digest],
        "detector": detector.name,
        "settings of the detector": dict(settings),
        "seed": options.seed,
        "max_pixels": options.max_pixels,
        "dtype": options.dtype,
        "images_per_shard": options.images_per_shard,
    }


def _require_room(uri: str, stage: Stage, job: Mapping[str, Any], *, overwrite: bool) -> None:
    """Refuse what the store's writer would refuse, before any image is looked at."""
    place = uris.shown(uri)
    if has_store(uri):
        if overwrite:
            return
        finished = open_store(uri).manifest.info.get("job")
        if finished is not None and finished == stage.job():
            stage.delete()  # the last run was killed before it could
        raise StoreError(
            f"there is a finished store at {place}; choose another place or overwrite it"
        )
    if not (is_store_root(uri) or uris.is_empty(uri)):
        raise StoreError(f"{place} holds something that is not a store; choose an empty place")


def _notice(done: Mapping[int, TaskSummary], damaged: int) -> str:
    if not (done or damaged):
        return ""
    lost = f"; {damaged:,} damaged tasks are done again" if damaged else ""
    return f"going on with an extraction: {len(done):,} finished tasks are kept{lost}"


def _report_refused(uri: str, refused: Sequence[Refusal], num_images: int) -> None:
    """One line of JSON an image; nothing is left there where none was refused.

    Raises:
        DataError: all were, and ``num_images`` is 0.
    """
    if not refused:
        uris.delete_tree(uri)
        return
    lines = (json.dumps(asdict(refusal), ensure_ascii=False) + "\n" for refusal in refused)
    uris.write_bytes(uri, "".join(lines).encode())
    if not num_images:
        raise DataError(
            f"all {len(refused):,} images were refused, the first because: {refused[0].reason}; "
            f"see {uris.shown(uri)}"
        )


def _pack(
    uri: str,
    stage: Stage,
    summaries: Sequence[TaskSummary],
    detector: Detector,
    job: Mapping[str, Any],
    options: ExtractionOptions,
    pack: Mapper,
) -> str:
    """The store out of what is staged; returns the digest of its manifest."""
    writer = StoreWriter(
        uri,
        num_objects=detector.num_objects,
        min_objects=detector.min_objects,
        feature_dim=detector.feature_dim,
        object_classes=detector.object_classes,
        attribute_classes=detector.attribute_classes,
        answers=(),
        tokenizer_dir=None,
        extractor=detector.name,
        images_per_shard=options.images_per_shard,
        feature_dtype=options.dtype,
        info={"dataset": "extracted", "job": job},
        inputs={"job": job},
        overwrite=options.overwrite,
    )
    split = writer.split(SPLIT)
    starts = _Starts(summaries)
    write_images(
        split,
        sum(len(summary.image_ids) for summary in summaries),
        lambda rows: StagedRecords(stage.uri, options.dtype, starts.tasks_of(rows)),
        pack,
        "packing",
        options.progress,
    )
    split.close(())
    return writer.finish()


class _Starts:
    """Where each task's images begin among all."""

    def __init__(self, summaries: Sequence[TaskSummary]) -> None:
        self._numbers = [summary.number for summary in summaries]
        self._starts = [0, *accumulate(len(summary.image_ids) for summary in summaries)]

    def tasks_of(self, rows: slice) -> tuple[tuple[int, slice], ...]:
        """The tasks that hold these rows, and which of theirs they are."""
        places = range(
            bisect_right(self._starts, rows.start) - 1, bisect_left(self._starts, rows.stop)
        )
        found = []
        for place in places:
            start, end = self._starts[place], self._starts[place + 1]
            own = slice(max(rows.start - start, 0), min(rows.stop, end) - start)
            found.append((self._numbers[place], own))
        return tuple(found)
