"""Shards as tasks: each can be done by any process of any machine, in any order."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tqdm.auto import tqdm

from lxmert_dist.ingest.butd_tsv import Row, RowSizes
from lxmert_dist.ingest.feature_folder import Features, Place, open_features, place_of
from lxmert_dist.ingest.image_pairs import join_records
from lxmert_dist.ingest.pool import Mapper
from lxmert_dist.schema import RoiRecord
from lxmert_dist.store import ShardPlace, SplitWriter, write_shard


@runtime_checkable
class RecordSource(Protocol):
    """The images of one shard, wherever they come from."""

    def records(self) -> Iterator[RoiRecord]:
        """All of them, in their order."""
        ...

    def where(self, index: int) -> str:
        """How an error names one of them beside its id; empty where there is nothing to say."""
        ...


@dataclass(frozen=True)
class TsvRows:
    """Rows of files or stores of features: for each of ours one, or those of a pair of images."""

    rows: tuple[tuple[tuple[Place, Row], ...], ...]
    sizes: RowSizes

    def records(self) -> Iterator[RoiRecord]:
        """Read and decoded."""
        files: dict[Place, Features] = {}
        try:
            for place in self.rows:
                for path, _ in place:
                    if path not in files:
                        files[path] = open_features(path, self.sizes)
                yield join_records([files[path].read(row) for path, row in place])
        finally:
            for file in files.values():
                file.close()

    def where(self, index: int) -> str:
        """The lines, or the files of images."""
        return ", ".join(place_of(path, row) for path, row in self.rows[index])


@dataclass(frozen=True)
class ShardTask:
    """A shard to be written."""

    place: ShardPlace
    source: RecordSource
    num_images: int


def do(task: ShardTask) -> int:
    """Write a shard; returns how many images it has.

    Raises:
        DataError: an image cannot be read or is not as the store takes it; names it.
        StoreError: the place cannot be written.
    """
    write_shard(task.place, task.source.records(), task.source.where)
    return task.num_images


def write_images(
    writer: SplitWriter,
    num_images: int,
    source_of: Callable[[slice], RecordSource],
    run: Mapper,
    what: str,
    progress: bool,
) -> int:
    """Write all shards of a split that are not there yet, with a bar in images.

    Args:
        writer: of the split.
        num_images: of the split.
        source_of: the images that stand there in the split's order.
        run: does the tasks.
        what: for the bar.
        progress: show it.

    Returns:
        How many shards were written.
    """
    shards = writer.shards(num_images)
    tasks = (ShardTask(place, source_of(at), at.stop - at.start) for place, at in shards)
    kept = num_images - sum(at.stop - at.start for _, at in shards)
    with tqdm(total=num_images, initial=kept, desc=what, unit="img", disable=not progress) as bar:
        for done in run(do, tasks):
            bar.update(done)
    return len(shards)


def announce(notice: str, progress: bool) -> None:
    """Show a line on stderr, if there is one."""
    if notice and progress:
        tqdm.write(notice, file=sys.stderr)
